"""Config values that say "auto": where they may stand, and what the training data make of them."""

from argparse import Namespace
from pathlib import Path

import orjson
import pytest

from eql_d2.engine import LongTailTrainer, load_config, setup
from eql_d2.engine.auto_values import AUTO_KEYS, resolve_auto_values
from eql_d2.errors import UserError
from eql_d2.losses import quantile_bin_edges
from tests.conftest import ROOT

TINY = str(ROOT / "tests" / "tiny.yaml")
LVIS_05 = str(ROOT / "datasets" / "metadata" / "lvis_v0.5_train_category_counts.json")


def value_at(cfg, key):
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def all_auto():
    return [word for key in AUTO_KEYS for word in (key, "auto")]


@pytest.mark.parametrize("place", ["file", "overrides"])
def test_auto_in_a_file_or_on_the_command_line(tmp_path, place):
    lines = ["MODEL:", "  ROI_HEADS: {NUM_CLASSES: auto}", "  LONG_TAIL:", "    PRIOR_PROB: auto"]
    lines += ["    EQL: {LAMBDA: auto}", "    DROP_LOSS: {LAMBDA: auto}", "    BAGS: {BIN_EDGES: auto}"]
    lines += ["    SEQL: {LAMBDA: auto}", "    FREQUENCY_THRESHOLDS: auto", "  CLASSIFIER: {NUM_CLASSES: auto}"]
    lines += ["  RETINANET: {NUM_CLASSES: auto}"]
    (tmp_path / "my.yaml").write_text("\n".join([f"_BASE_: {TINY}", *lines]))
    cfg = load_config(*((str(tmp_path / "my.yaml"), []) if place == "file" else (TINY, all_auto())))
    assert set(cfg.MODEL.LONG_TAIL.AUTO) == set(AUTO_KEYS)
    # A later value takes the place of auto, and is still checked.
    file = str(tmp_path / "my.yaml")
    assert (
        "MODEL.ROI_HEADS.NUM_CLASSES"
        not in load_config(file, ["MODEL.ROI_HEADS.NUM_CLASSES", "7"]).MODEL.LONG_TAIL.AUTO
    )
    assert load_config(file, ["MODEL.ROI_HEADS.NUM_CLASSES", "7"]).MODEL.ROI_HEADS.NUM_CLASSES == 7
    with pytest.raises(UserError, match=r"MODEL.ROI_HEADS.NUM_CLASSES"):
        load_config(file, ["MODEL.ROI_HEADS.NUM_CLASSES", "automatic"])


def test_without_auto_nothing_changes():
    cfg = load_config(TINY)
    before = cfg.dump()
    assert cfg.MODEL.LONG_TAIL.AUTO == ()
    assert resolve_auto_values(cfg) == []
    assert cfg.dump() == before


def test_auto_elsewhere_is_no_value():
    with pytest.raises(UserError, match=r"SOLVER\.MAX_ITER"):
        load_config(TINY, ["SOLVER.MAX_ITER", "auto"])


def test_values_of_lvis():
    """With LVIS v0.5's counts the tail is that of the paper: all rare and common classes, 915 of 1230."""
    cfg = load_config(TINY, [*all_auto(), "MODEL.LONG_TAIL.CATEGORY_COUNTS", LVIS_05])
    sentences = dict(sentence.split(" auto: ") for sentence in resolve_auto_values(cfg))
    counts = orjson.loads(Path(LVIS_05).read_bytes())
    frequencies = [c["image_count"] / counts["num_images"] for c in counts["categories"]]
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 1230
    lambda_ = cfg.MODEL.LONG_TAIL.EQL.LAMBDA
    assert lambda_ == pytest.approx(0.00177, rel=0.01)
    tail = [c["frequency"] for c, f in zip(counts["categories"], frequencies, strict=True) if f < lambda_]
    assert len(tail) == 915
    assert "f" not in tail
    assert "915 of 1230 classes are tail" in sentences["MODEL.LONG_TAIL.EQL.LAMBDA"]
    assert cfg.MODEL.LONG_TAIL.DROP_LOSS.LAMBDA == cfg.MODEL.LONG_TAIL.EQL.LAMBDA
    assert cfg.MODEL.LONG_TAIL.PRIOR_PROB == 1 / 1231
    edges = cfg.MODEL.LONG_TAIL.BAGS.BIN_EDGES
    instances = [c["instance_count"] for c in counts["categories"]]
    below = [sum(count < edge for count in instances) / 1230 for edge in edges]
    assert below == pytest.approx([0.25, 0.5, 0.75], abs=0.02)
    assert cfg.MODEL.LONG_TAIL.AUTO == ()


def test_a_run_writes_the_values_down(tiny_set, tmp_path):
    custom = [{"name": "tiny_train", "annotations": str(tiny_set / "train.json"), "images": str(tiny_set)}]
    options = ["DATASETS.CUSTOM", str(custom), "OUTPUT_DIR", str(tmp_path / "run"), "DATASETS.TEST", "()"]
    args = Namespace(config_file=TINY, opts=[*options, *all_auto()], eval_only=False, resume=False)
    cfg = setup(args)
    LongTailTrainer(cfg)
    kept = load_config(str(tmp_path / "run" / "config.yaml"))
    assert kept.MODEL.LONG_TAIL.AUTO == ()
    for key in AUTO_KEYS:
        assert value_at(kept, key) == value_at(cfg, key) != "auto"
    assert kept.MODEL.ROI_HEADS.NUM_CLASSES == 6
    assert "MODEL.ROI_HEADS.NUM_CLASSES auto: 6" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["MODEL.LONG_TAIL.TAIL_RATIO", "1.5"], "MODEL.LONG_TAIL.TAIL_RATIO: The tail ratio is 1.5"),
        (["DATASETS.TRAIN", "('nowhere',)"], "'nowhere' is not registered"),
        (["DATASETS.TRAIN", "()"], "No source of category counts"),
    ],
)
def test_what_auto_cannot_do_is_said(overrides, sentence):
    cfg = load_config(TINY, [*all_auto(), "MODEL.LONG_TAIL.CATEGORY_COUNTS", LVIS_05, *overrides])
    if "DATASETS.TRAIN" in overrides:
        cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS = ""
    with pytest.raises(UserError, match=sentence):
        resolve_auto_values(cfg)


@pytest.mark.parametrize(
    ("counts", "edges"),
    [
        (range(1, 9), (3, 5, 7)),  # two classes a group
        ([1, 1, 1, 1, 1, 1, 5, 9], (5,)),  # most classes are alike: two groups
        ([4, 4, 4], ()),
        ([0, 0, 7, 100], (7, 100)),
    ],
)
def test_edges_part_the_classes_evenly(counts, edges):
    assert quantile_bin_edges(list(counts), num_groups=4) == edges
