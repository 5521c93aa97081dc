"""The configs: all load, a leaf says only what differs, and the recipes are those of the paper and its code."""

import re

import pytest
import yaml
from detectron2.modeling import build_model

from eql_d2.data.categories import category_counts
from eql_d2.data.emoji_lvis import PRESETS, plan_split
from eql_d2.engine import load_config
from eql_d2.losses import EqualizationLoss
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
LEAVES = [path for path in CONFIGS if not path.name.startswith("Base")]
LVIS = [path for path in LEAVES if path.parts[-4] in ("LVISv1", "LVISv0.5")]
OFFICIAL, PAPER = ([path for path in LVIS if path.parts[-3] == recipe] for recipe in ("official", "paper"))
VERSIONS = {"LVISv1": ("lvis_v1", 1203, 798), "LVISv0.5": ("lvis_v0.5", 1230, 915)}
# What a config is about stands in it even where it is the default.
SPELLED_OUT = {"MODEL.ROI_BOX_HEAD.PREDICTOR", "MODEL.LONG_TAIL.EQL.LAMBDA"}
IMAGES = {"LVISv1": 99_388, "LVISv0.5": 56_740}


def by_path(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT / "configs")))


def own_values(path):
    """{dotted key: value} of what a file itself says, in the types of the defaults."""

    def flatten(node, prefix=""):
        for key, value in node.items():
            if isinstance(value, dict):
                yield from flatten(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    values = dict(flatten(yaml.safe_load(path.read_text())))
    base = values.pop("_BASE_", None)
    values.pop("VERSION", None)
    return values, base and (path.parent / base).resolve()


def value_of(cfg, key):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def test_there_are_configs_of_every_kind():
    assert len(OFFICIAL) == len(PAPER) == 2 * 4 * 6
    assert {path.parent.name for path in LVIS} == {
        f"{kind}_{backbone}_FPN" for kind in ("mask_rcnn", "cascade_mask_rcnn") for backbone in ("R50", "R101")
    }


@by_path(CONFIGS)
def test_it_loads_and_says_only_what_differs_from_its_base(path):
    cfg = load_config(str(path))
    values, base = own_values(path)
    if not base:
        return  # as Detectron2's own, the files at the root spell out the architecture
    without = load_config(str(base))
    repeated = {key for key in values if value_of(cfg, key) == value_of(without, key)}
    assert repeated - SPELLED_OUT == set()


@by_path(CONFIGS)
def test_paths_are_relative(path):
    assert not re.search(r"(^|[\s'\"(])(/|~|[A-Z]:\\)", path.read_text())


@by_path(LVIS)
def test_lvis_dataset_and_classes(path):
    name, num_classes, num_tail = VERSIONS[path.parts[-4]]
    cfg = load_config(str(path))
    assert ((f"{name}_train",), (f"{name}_val",)) == (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    assert num_classes == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 300
    counts = category_counts(cfg)
    loss = EqualizationLoss(num_classes, counts.image_frequencies, cfg.MODEL.LONG_TAIL.EQL.LAMBDA)
    tail = [bool(weight) for weight in loss.tail_weight]
    assert tail == [group in "rc" for group in counts.frequency_groups]
    assert sum(tail) == num_tail


@by_path(LVIS)
def test_the_name_says_method_sampler_and_model(path):
    cfg = load_config(str(path))
    method, _, sampler = path.stem.partition("_")
    predictors = {"eql": "EQLPredictor", "softmax": "SoftmaxPredictor", "sigmoid": "SigmoidPredictor"}
    assert predictors[method] == cfg.MODEL.ROI_BOX_HEAD.PREDICTOR
    assert {"": "TrainingSampler", "rfs": "RepeatFactorTrainingSampler"}[sampler] == cfg.DATALOADER.SAMPLER_TRAIN
    assert {"LVISv1": 0.001, "LVISv0.5": 0.0005}[path.parts[-4]] == cfg.DATALOADER.REPEAT_THRESHOLD
    model = path.parent.name
    cascade = model.startswith("cascade")
    assert ("LongTailCascadeROIHeads" if cascade else "LongTailROIHeads") == cfg.MODEL.ROI_HEADS.NAME
    assert cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG is cascade
    depth = int(re.search(r"R(\d+)", model)[1])
    assert depth == cfg.MODEL.RESNETS.DEPTH
    assert cfg.MODEL.WEIGHTS.endswith(f"MSRA/R-{depth}.pkl")
    assert cfg.MODEL.MASK_ON


@by_path(OFFICIAL)
def test_official_recipe(path):
    cfg = load_config(str(path))
    solver = cfg.SOLVER
    assert (solver.MAX_ITER, solver.IMS_PER_BATCH, solver.BASE_LR) == (90_000, 16, 0.02)
    assert solver.STEPS == (60_000, 80_000)
    assert (solver.WEIGHT_DECAY, solver.MOMENTUM, solver.GAMMA) == (1e-4, 0.9, 0.1)
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 1e-4
    assert cfg.INPUT.MIN_SIZE_TRAIN == (640, 672, 704, 736, 768, 800)
    assert not cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK


@by_path(PAPER)
def test_recipe_of_the_paper(path):
    cfg = load_config(str(path))
    solver = cfg.SOLVER
    epoch = IMAGES[path.parts[-4]] / 32
    assert (solver.IMS_PER_BATCH, solver.BASE_LR) == (32, 0.04)
    assert pytest.approx(25 * epoch, abs=1) == solver.MAX_ITER
    assert (pytest.approx(16 * epoch, abs=1), pytest.approx(22 * epoch, abs=1)) == solver.STEPS
    if path.parts[-4] == "LVISv0.5":
        assert solver.MAX_ITER == 44_328
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == ((800,), 1333)
    assert cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.0


def test_lambda_of_the_demo():
    cfg = load_config(str(ROOT / "configs" / "EmojiLVIS" / "demo_eql.yaml"))
    counts = plan_split(PRESETS["demo"], "train").image_counts
    below = counts / PRESETS["demo"].num_train_images < cfg.MODEL.LONG_TAIL.EQL.LAMBDA
    assert below.tolist() == [count <= 100 for count in counts]
    assert len(counts) == cfg.MODEL.ROI_HEADS.NUM_CLASSES


def test_cascade_of_lvis_v1_builds():
    path = ROOT / "configs" / "LVISv1" / "official" / "cascade_mask_rcnn_R50_FPN" / "eql.yaml"
    cfg = load_config(str(path), ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    predictors = model.roi_heads.box_predictor
    assert len(predictors) == 3
    assert len({id(predictor.loss) for predictor in predictors}) == 3
    for predictor, weights in zip(predictors, cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS, strict=True):
        assert predictor.cls_score.out_features == 1203
        assert predictor.bbox_pred.out_features == 4
        assert predictor.loss.tail_weight.sum() == 798
        assert predictor.box2box_transform.weights == weights
    assert model.roi_heads.mask_head.predictor.out_channels == 1203
