"""The parts of a report that compare runs: what is chosen, said once, and counted; by hand."""

import pytest

from eql_d2.analysis.class_ap_table import class_ap_section
from eql_d2.analysis.class_confusion import confusion_of, confusion_section
from eql_d2.analysis.config_differences import config_section
from eql_d2.analysis.finished_runs import FinishedRun
from eql_d2.analysis.report_tables import say_once
from eql_d2.analysis.run_report import chosen_rows, report_page
from eql_d2.errors import UserError
from tests.analysis.made_up_run import DATASET, ledger_entry, write_dataset, write_run
from tests.analysis.test_dataset_report import PageReader


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "data")


def entries(dataset, names, seeds=(0,)):
    return [
        FinishedRun(f"t/{name}/seed_{seed}", None, ledger_entry(dataset, name=f"t/{name}/seed_{seed}", seed=seed))
        for name in names
        for seed in seeds
    ]


def test_the_baseline_is_shown_and_pretraining_is_not(dataset):
    runs = entries(dataset, ["first_stage_12", "a", "b", "softmax", "c", "d", "e", "f"])
    base, rows = chosen_rows(runs)
    assert base == "t/softmax"
    assert rows == ["t/softmax", "t/a", "t/b", "t/c", "t/d", "t/e"]
    assert chosen_rows(runs, "b", ["f", "t/first_stage_12"]) == ("t/b", ["t/b", "t/f", "t/first_stage_12"])
    assert chosen_rows(runs[1:3])[0] == "t/a"
    with pytest.raises(UserError, match=r"^--baseline g is none of the runs; choose of first_stage_12, a,"):
        chosen_rows(runs, "g")


def test_a_sentence_is_said_once():
    sentences = [f"No detections of r{i}: r{i} is a ledger entry alone." for i in range(5)] + ["r1: it is broken."]
    assert say_once(sentences, [f"r{i}" for i in range(5)]) == [
        "No detections of r0, r1, r2 and 2 more: each is a ledger entry alone.",
        "r1: it is broken.",
    ]


def test_changes_of_a_class_are_against_the_baseline(dataset):
    runs = entries(dataset, ["softmax", "mine"], seeds=(0, 1))
    for run, values in zip(runs[2:], ([30.0, 30.0, None, None], [34.0, 28.0, None, None]), strict=True):
        run.entry["class_ap"] = {DATASET: {"segm": values}}
    text, left_out = class_ap_section(runs, "t/softmax")
    rows = [row for row in PageReader(text).rows if row]
    assert rows[0] == ["class", "group", "images", "softmax, 2 seeds", "mine, 2 seeds"]
    assert rows[1] == ["<i>dog</i>", "f", "200", "30.0", "29.0 −1.0"]
    assert rows[2] == ["cat", "c", "40", "20.0", "32.0 +12.0"]
    assert rows[3] == ["emu", "r", "3", "10.0", "–"]
    assert len(left_out) == 2  # the boxes of "mine", of both seeds


def test_keys_in_which_configs_differ(dataset):
    runs = entries(dataset, ["softmax", "mine"])
    assert "are the same" in config_section(runs, {})
    entry = runs[1].entry
    entry = {**entry, "config": {**entry["config"], "SOLVER": {"BASE_LR": 0.5}, "SEED": 7}}
    table = config_section([runs[0], FinishedRun("t/mine/seed_0", None, entry)], {"t/mine": "mine"})
    rows = [row for row in PageReader(table).rows if row]
    assert rows == [["key", "t/softmax", "mine"], ["SOLVER.BASE_LR", "0.001", "0.5"]]


def test_which_class_takes_whose_place(dataset, tmp_path):
    """The dog of image 1 has an emu on it, a cat and the other dog are found, and the emu has no detection."""
    run = FinishedRun("first", write_run(tmp_path / "run", dataset))
    found = confusion_of(run, DATASET)
    assert dict(found.pairs) == {(2, 2): 1, (3, 7): 1, (3, 3): 1}
    assert dict(found.objects) == {2: 1, 3: 2, 7: 1} and dict(found.unseen) == {7: 1}
    text = confusion_section(run, DATASET)
    rows = [row for row in PageReader(text).rows if row]
    assert rows[1] == ["<i>dog</i> (frequent)", "emu (rare)", "1", "50.0"]
    assert "right class for 50.0%, another for 25.0%, and 25.0% have none" in text


def test_a_report_without_a_test_set(dataset, tmp_path):
    run = FinishedRun("first", write_run(tmp_path / "run", dataset))
    config = (run.folder / "config.yaml").read_text().replace(f"- {DATASET}\n", "[]\n").replace("TEST:\n  [", "TEST: [")
    (run.folder / "config.yaml").write_text(config)
    assert run.cfg.DATASETS.TEST in ((), [])
    page = report_page([run])
    assert "first has no test set" in page and "Total loss in training" in page
