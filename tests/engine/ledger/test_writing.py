"""The ledger entry of a real run, with one process and two, resumed and failed; and the hash of a config."""

import json
from types import SimpleNamespace

import pytest

from eql_d2.data.registration import register_custom_datasets, set_class_metadata
from eql_d2.engine import LongTailTrainer, load_config
from eql_d2.engine.ledger.identity import config_hash, plain_config
from eql_d2.engine.ledger.reading import read_entry, read_ledger
from eql_d2.engine.ledger.writing import training_curve, write_entry
from eql_d2.errors import UserError
from tests.conftest import ROOT
from tests.engine.test_resume import Stopped, train_until
from tests.ledger_entries import made_up_entry


def train(cfg, resume=False, stop_before=None):
    register_custom_datasets(cfg)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        set_class_metadata(name)
    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    train_until(trainer, stop_before)


def test_entry_of_a_run(tiny_cfg, tiny_set, tmp_path):
    tiny_cfg.SEED = 5
    tiny_cfg.OUTPUT_DIR = str(tmp_path / "table" / "row" / "seed_5")
    train(tiny_cfg)
    entry = read_entry(tiny_cfg.OUTPUT_DIR)
    assert (entry["version"], entry["name"], entry["seed"], entry["iterations"]) == (1, "table/row/seed_5", 5, 4)
    assert entry["config"]["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] == 6
    assert entry["config_hash"] == config_hash(plain_config(tiny_cfg))
    val = json.loads((tiny_set / "val.json").read_text())
    assert entry["datasets"]["tiny_val"]["num_images"] == len(val["images"]) == 12
    assert len(entry["datasets"]["tiny_train"]["digest"]) == 40
    assert entry["datasets"]["tiny_train"]["digest"] != entry["datasets"]["tiny_val"]["digest"]
    metrics = entry["metrics"]["tiny_val"]
    assert set(metrics) == {"bbox", "segm"} and {"AP", "APr", "APc", "APf"} <= set(metrics["segm"])
    # The mean over classes is the AP of all, here from the two files that the evaluator wrote.
    for task in ("bbox", "segm"):
        defined = [ap for ap in entry["class_ap"]["tiny_val"][task] if ap is not None]
        assert sum(defined) / len(defined) == pytest.approx(metrics[task]["AP"], abs=0.01)
    train_set = json.loads((tiny_set / "train.json").read_text())
    of_class = [annotation["category_id"] for annotation in train_set["annotations"]]
    assert [c["instance_count"] for c in entry["classes"]] == [of_class.count(c["id"]) for c in entry["classes"]]
    assert [c["name"] for c in entry["classes"]] == [c["name"] for c in train_set["categories"]]
    assert entry["seconds"]["training"] > 0 and entry["seconds"]["evaluation"] > 0
    assert entry["hardware"]["processes"] == 1
    assert 50 < entry["peak_memory_mb"]["host"] < 20_000
    assert entry["curve"]["iteration"] == [3] and entry["curve"]["total_loss"][0] > 0
    # No part of the file but the run's own config knows where it ran.
    others = {key: value for key, value in entry.items() if key != "config"}
    assert str(tmp_path) not in json.dumps(others)


@pytest.mark.slow
def test_two_processes_leave_one_entry_with_the_memory_of_both(tiny_cfg, two_processes):
    two_processes(train, tiny_cfg)
    entry = read_entry(tiny_cfg.OUTPUT_DIR)
    assert entry["hardware"]["processes"] == 2
    assert entry["peak_memory_mb"]["gpu"] is None
    assert set(entry["metrics"]["tiny_val"]) == {"bbox", "segm"}


def test_a_resumed_run_counts_all_its_time_and_a_stopped_one_has_no_entry(tiny_cfg, monkeypatch):
    seconds = iter(range(10**6))  # each look at the clock is a second later: a step takes exactly one
    clock = SimpleNamespace(perf_counter=lambda: next(seconds))
    monkeypatch.setattr("eql_d2.engine.ledger.writing.time", clock)
    with pytest.raises(Stopped):
        train(tiny_cfg, stop_before=3)  # the last checkpoint is that of iteration 2
    with pytest.raises(UserError, match=r"has no ledger.json: the run has not finished; continue it with --resume"):
        read_entry(tiny_cfg.OUTPUT_DIR)
    train(tiny_cfg, resume=True)
    entry = read_entry(tiny_cfg.OUTPUT_DIR)
    assert entry["seconds"]["training"] == 4  # two of the first part, two of the second
    train_ended = entry["curve"]["iteration"]
    assert train_ended == sorted(set(train_ended))


def test_an_entry_of_lvis_stays_small(tmp_path):
    counts = json.loads((ROOT / "datasets" / "metadata" / "lvis_v1_train_category_counts.json").read_text())
    keys = ("id", "name", "frequency", "image_count", "instance_count")
    entry = made_up_entry(
        classes=[{key: record[key] for key in keys} for record in counts["categories"]],
        class_ap={"lvis_v1_val": {task: [12.34] * 1203 for task in ("bbox", "segm")}},
        curve={str(name): [0.1234] * 200 for name in range(15)},
        config=plain_config(load_config(str(ROOT / "configs/LVISv1/seesaw_2x/mask_rcnn_R50_FPN/seesaw_rfs.yaml"))),
    )
    write_entry(tmp_path / "ledger.json", entry)
    assert (tmp_path / "ledger.json").stat().st_size < 100_000
    assert read_entry(tmp_path) == json.loads(json.dumps(entry))


def test_hash_knows_what_makes_a_run_another(tiny_cfg):
    first = config_hash(plain_config(tiny_cfg))
    other = tiny_cfg.clone()
    other.OUTPUT_DIR, other.SEED, other.DATALOADER.NUM_WORKERS = "elsewhere", 77, 3
    other.DATASETS.CUSTOM = [{**d, "images": "/other/" + d["images"].rsplit("/", 1)[1]} for d in other.DATASETS.CUSTOM]
    assert config_hash(plain_config(other)) == first
    other.MODEL.WEIGHTS = "a/model_final.pth"
    with_weights = config_hash(plain_config(other))
    other.MODEL.WEIGHTS = "b/model_final.pth"
    assert config_hash(plain_config(other)) == with_weights != first
    older = plain_config(tiny_cfg)
    older["TEST"].pop("NORCAL_GAMMA")  # an entry of before this key was added
    assert config_hash(older) == first
    for key, value in (("SOLVER.MAX_ITER", 5), ("MODEL.LONG_TAIL.EQL.LAMBDA", 0.3), ("DATASETS.TEST", "('x',)")):
        changed = tiny_cfg.clone()
        changed.merge_from_list([key, value])
        assert config_hash(plain_config(changed)) != first
        assert config_hash(plain_config(changed), ignored=[key]) == config_hash(plain_config(tiny_cfg), ignored=[key])


def test_curve_keeps_200_points_and_the_last_of_a_repeated_iteration(tmp_path):
    lines = [{"iteration": i, "total_loss": 1000 - i, "lr": 0.1, "time": 1} for i in range(0, 600, 1)]
    lines += [{"iteration": 599, "total_loss": 7.123456, "lr": 0.1}, {"iteration": 599, "bbox/AP": 3.0}]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)) + '\n{"iteration": 60')
    curve = training_curve(tmp_path / "metrics.json")
    assert set(curve) == {"iteration", "total_loss", "lr"}
    assert len(curve["iteration"]) == 200 == len(set(curve["iteration"]))
    assert (curve["iteration"][0], curve["iteration"][-1]) == (0, 599)
    assert curve["total_loss"][-1] == 7.123 and curve["total_loss"][0] == 1000


@pytest.fixture
def entry_file(tmp_path):
    """Writes an entry; keys are changed, or left out where the value is None."""

    def write(place, **changes):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        entry = {key: value for key, value in {**made_up_entry(), **changes}.items() if value is not None}
        path.write_text(json.dumps(entry))
        return path

    return write


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"version": 2}, "has version 2, but this code reads version 1"),
        ({"version": None}, "is no ledger entry; it has no version"),
        ({"metrics": None}, "has no metrics of type dict"),
        ({"seed": "0"}, "has no seed of type int"),
    ],
)
def test_entries_that_cannot_be_used_are_named(entry_file, tmp_path, changes, sentence):
    path = entry_file("bad/ledger.json", **changes)
    entry_file("good/ledger.json", name="good")
    with pytest.raises(UserError, match=sentence):
        read_entry(path)
    ledger = read_ledger([tmp_path])
    assert [entry["name"] for entry in ledger.entries.values()] == ["good"]
    assert len(ledger.skipped) == 1 and sentence in ledger.skipped[0] and str(path) in ledger.skipped[0]


def test_half_written_folders_and_files_are_named(entry_file, tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.yaml").write_text("SEED: 1")
    path = entry_file("cut/ledger.json")
    path.write_text(path.read_text()[:100])
    ledger = read_ledger([tmp_path])
    assert not ledger.entries
    assert any(f"{tmp_path / 'half'} has no ledger.json" in sentence for sentence in ledger.skipped)
    assert any("is not JSON or cut short" in sentence for sentence in ledger.skipped)
    with pytest.raises(UserError, match="does not exist"):
        read_ledger([tmp_path / "nowhere"])


def test_two_runs_of_one_name_are_left_out_and_copies_count_once(entry_file, tmp_path):
    entry_file("a/ledger.json", name="t/r/seed_0", iterations=1)
    entry_file("b/ledger.json", name="t/r/seed_0", iterations=2)
    entry_file("c/ledger.json", name="t/r/seed_1")
    entry_file("d/t/r/seed_1.json", name="t/r/seed_1")
    ledger = read_ledger([tmp_path])
    assert [entry["name"] for entry in ledger.entries.values()] == ["t/r/seed_1"]
    assert len(ledger.skipped) == 1
    assert "2 different runs are named t/r/seed_0" in ledger.skipped[0]
