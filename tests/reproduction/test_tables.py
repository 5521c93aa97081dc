"""The tables: their numbers are the papers', their configs what the papers say, and mistakes in them are named."""

import inspect
import json
import re

import pytest

from eql_d2.errors import UserError
from eql_d2.losses.registry import method_of_predictor
from eql_d2.reproduction.planned_runs import plan
from eql_d2.reproduction.recipes import recipe_of_row
from eql_d2.reproduction.tables import find_rows, find_table, read_table, table_names
from tests.conftest import ROOT

FOLDER = ROOT / "configs" / "tables"
TABLES = {name: find_table(name, FOLDER) for name in table_names(FOLDER)}
# Tables whose rows go on from a detector of other classes or, as the comparisons of BAGS's code, from a finished one.
GO_ON_FROM_A_DETECTOR = ("emoji_benchmark", "emoji_one_stage", "bags_readme", "bags_ablations")
ROWS = [row for table in TABLES.values() for row in table.rows]
PAPER_ROWS = [row for row in ROWS if re.fullmatch(r"r\d{3}", row.id)]
DATASETS = {
    "LVIS v0.5 val": "lvis_v0.5_val",
    "LVIS v1 val": "lvis_v1_val",
    "Open Images Challenge 2019 val": "openimages_challenge2019_val",
    "Open Images (500 classes)": "openimages_challenge2019_val",
    "CIFAR-100-LT (imbalance factor 200)": "cifar100_test",
    "CIFAR-100-LT (imbalance factor 100)": "cifar100_test",
    "ImageNet-LT": "imagenet_lt_test",
}

# Called sigmoid where the numbers were read; the sources do not say so, see the rows' notes.
RENAMED = dict.fromkeys(("r072", "r075"), "Mask R-CNN baseline") | dict.fromkeys(
    ("r078", "r087", "r090"), "Softmax baseline"
)


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def reference(shared_data):
    content = json.loads((shared_data.parent / "reference" / "paper_tables.json").read_text())
    return {row["id"]: row for row in content["results"]}


def test_every_number_is_the_papers(reference):
    assert sorted(row.id for row in PAPER_ROWS) == sorted(reference)
    for row in PAPER_ROWS:
        record = reference[row.id]
        numbers = {name: value for name, value in record["metrics"].items() if name != "AP_flag"}
        assert row.reported == numbers, row.name
        assert row.method == RENAMED.get(row.id, record["method"]), row.name
        assert row.dataset == record["dataset"], row.name
        assert row.model == f"{record['framework']} {record['backbone'] or ''}".strip(), row.name
        number = re.search(r"T(\d+)", record["table"])
        assert number is None or f"table {number[1]}" in row.source, row.name


def test_a_name_means_the_same_metric(reference):
    for row in PAPER_ROWS:
        for name in row.reported:
            task, _, metric = row.metric(name).partition("/")
            kind = reference[row.id]["metric_type"]
            if name.startswith("APbbox"):
                assert task == "bbox"
            elif kind == "accuracy":
                assert task == "classification" and metric != "overall"
            else:
                assert (task == "segm") is kind.startswith("mask"), row.name
            assert kind != "bbox AP@0.5" or name != "AP" or metric == "AP50"


# Shares of rare, common and frequent classes among those that have a mean AP, fitted to all rows of the papers.
GROUP_SHARES = {"LVIS v1 val": (0.172, 0.436, 0.392), "LVIS v0.5 val": (0.152, 0.466, 0.382)}
NEWER = ("ecm", "gol", "loce", "acsl", "bacl", "efl", "fracal", "disalign")


@pytest.mark.parametrize("name", NEWER)
def test_numbers_of_newer_methods_agree_with_their_groups(name):
    """A slip in writing them down would not: AP is the mean over the groups."""
    for row in TABLES[f"{name}_readme"].rows:
        assert "code" in row.source and row.reported
        for prefix, whole in (("AP", "AP"), ("APbbox_", "APbbox")):
            groups = [row.reported.get(f"{prefix}{group}") for group in "rcf"]
            if None not in groups:
                mean = sum(share * ap for share, ap in zip(GROUP_SHARES[row.dataset], groups, strict=True))
                assert row.reported[whole] == pytest.approx(mean, abs=0.3), row.name


def test_rarest_group_of_open_images_is_ap1_here(reference):
    for name, rarest in (("eql_t6", "AP5"), ("eqlv2_open_images", "AP1")):
        for row in TABLES[name].rows:
            if len(row.reported) > 1:
                groups = {row.metric(f"AP{i}"): row.reported[f"AP{i}"] for i in range(1, 6)}
                assert row.metric(rarest) == "bbox/AP1"
                assert groups["bbox/AP1"] == min(groups.values())


def trainable(rows, scale="paper"):
    for row in rows:
        if row.training is None or not (ROOT / "configs" / row.training.config).is_file():
            continue
        try:
            yield row, recipe_of_row(row, scale)
        except UserError as error:
            assert "has no counterpart on EmojiLVIS" in str(error)


def test_configs_are_what_the_source_says(reference):
    compared = 0
    for row, recipe in trainable(PAPER_ROWS):
        cfg, record = recipe.cfg, reference[row.id]
        assert (DATASETS[row.dataset],) == cfg.DATASETS.TEST, row.name
        if row.task == "classification":
            continue
        assert ("Cascade" in cfg.MODEL.ROI_HEADS.NAME) is ("Cascade" in record["framework"]), row.name
        depth = re.search(r"\d+", record["backbone"])[0]
        assert str(cfg.MODEL.RESNETS.DEPTH) == depth, row.name
        sampler = record.get("sampler") or ""
        assert sampler.startswith("RFS") is ("RepeatFactor" in cfg.DATALOADER.SAMPLER_TRAIN) or row.table in (
            "third_party",
            "bags_readme",  # whose RFS rows say random
        ), row.name
        hparams, methods = record.get("hparams", {}), cfg.MODEL.LONG_TAIL
        expected = {
            "p": methods.SEESAW.P,
            "q": methods.SEESAW.Q,
            "tau": cfg.MODEL.ROI_BOX_HEAD.TEMPERATURE,
            "lambda": methods.EQL.LAMBDA,
            "alpha": methods.EQLV2.ALPHA,
            "gamma": methods.EQLV2.GAMMA,
            "mu": methods.EQLV2.MU,
            "beta": methods.BAGS.OTHERS_RATIO,
        }
        for name, value in hparams.items():
            if name != "tail_ratio_percent":
                assert expected[name] == pytest.approx(value, rel=0.01), row.name
                compared += 1
    assert compared > 40


def test_ablations_of_seesaw_and_eql_switch_what_they_name():
    def cfg_of(name):
        _, (row,) = find_rows(name, FOLDER)
        return recipe_of_row(row).cfg

    parts = {  # mitigation, compensation, normalized classifier: paper, table 2
        "r136": (False, False, False),
        "r137": (True, False, False),
        "r138": (False, True, False),
        "r139": (True, True, False),
        "r140": (False, False, True),
        "r141": (True, True, True),
    }
    for row, expected in parts.items():
        cfg = cfg_of(f"seesaw_t2/{row}")
        seesaw = cfg.MODEL.LONG_TAIL.SEESAW
        assert (seesaw.P > 0, seesaw.Q > 0, cfg.MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER) == expected
        assert cfg.MODEL.ROI_BOX_HEAD.PREDICTOR == "SeesawPredictor" and seesaw.OBJECTNESS
    assert not cfg_of("seesaw_t8/r170").MODEL.LONG_TAIL.SEESAW.OBJECTNESS
    assert not cfg_of("eql_t4/r024").MODEL.LONG_TAIL.EQL.EXCLUDE_BACKGROUND
    assert cfg_of("eql_t4/r025").MODEL.LONG_TAIL.EQL.EXCLUDE_BACKGROUND
    assert [cfg_of(f"eql_t3/r02{i}").MODEL.LONG_TAIL.EQL.THRESHOLD for i in (1, 2, 3)] == [
        "exponential",
        "gompertz",
        "step",
    ]
    assert cfg_of("bags_ablations/bins_8").MODEL.LONG_TAIL.BAGS.BIN_EDGES == (5, 10, 50, 100, 500, 1000, 5000)


def is_second_stage(cfg):
    """Whether a part of a detector's heads is trained alone; all of them without the backbone may be at first."""
    return tuple(cfg.SOLVER.TRAINABLE) not in ((), ("roi_heads.*",), ("head.*",))


def test_decoupled_rows_say_what_they_start_from():
    for row, recipe in trainable(ROWS):
        first = recipe.first
        if is_second_stage(recipe.cfg):
            assert first is not None and not is_second_stage(first.cfg), row.name
            assert first.cfg.DATASETS.TRAIN == recipe.cfg.DATASETS.TRAIN, row.name
        else:
            assert first is None or row.table in GO_ON_FROM_A_DETECTOR, row.name


@pytest.mark.parametrize("scale", ["paper", "emoji"])
def test_every_row_builds_a_config_or_says_why_not(scale):
    names = set()
    for table in TABLES.values():
        runs, left_out = plan(table, table.rows, [0], ROOT / "output", scale)
        assert len({run.key for run in runs}) == len(runs)
        for run in runs:
            assert run.name not in names
            names.add(run.name)
            if run.recipe.cfg.MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS:  # else the run ends when its model is built
                loss_class = method_of_predictor(run.recipe.cfg.MODEL.ROI_BOX_HEAD.PREDICTOR).loss_class
                assert "verified_classes" in inspect.signature(loss_class.compute).parameters, run.name
        for sentence in left_out:
            assert re.search("cannot be trained: .+|no counterpart|classification/.* no longer exists", sentence), (
                sentence
            )
    assert len(names) > 150


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("eql_t22", "There is no table eql_t22; did you mean eql_t2?"),
        ("eql_t2/r13", "Table eql_t2 has no row r13; did you mean r013?"),
        ("qqq", "There is no table qqq; choose one of acsl_readme, "),
    ],
)
def test_unknown_names(name, sentence):
    with pytest.raises(UserError) as error:
        find_rows(name, FOLDER)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rows: [", "is not valid YAML"),
        ("title: x", "has no rows"),
        ("rows: [{id: a, config: x.yaml}, {id: a, config: x.yaml}]", "has two rows of id a"),
        ("rows: [{id: a}]", "Row t/a has neither a config nor not_trained"),
        ("rows: [{method: a}]", "has a row without id"),
        ("rows: [{id: a, confg: x.yaml}]", "Row t/a has the unknown key confg; did you mean config?"),
        ("rows: [{id: a, config: x.yaml, overrides: [SEED]}]", "pairs of KEY, VALUE in overrides are needed"),
        ("rows: [{id: a, config: x.yaml, first_stage: y.yaml}]", "first_stage is 'y.yaml'; give it a config"),
        ("rows: [{id: a, config: x.yaml, first_stage: {cnfig: y.yaml}}]", "unknown key cnfig; did you mean config?"),
        ("num_gpu: 1\nrows: []", "has the unknown key num_gpu; did you mean num_gpus?"),
    ],
)
def test_mistakes_in_a_table_file(tmp_path, text, sentence):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_table(tmp_path / "t.yaml")
    assert sentence in str(error.value)
