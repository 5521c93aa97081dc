"""The configs: all load, a leaf says only what differs, and its path says what it is."""

import re
from fnmatch import fnmatchcase

import pytest
import yaml
from detectron2.modeling import build_model

from eql_d2.data.category_counts import category_counts
from eql_d2.data.emoji_lvis import PRESETS, plan_split
from eql_d2.engine import load_config
from eql_d2.losses import EqualizationLoss
from tests.config_files import CONFIGS, LVIS, by_path, config_of, leaf_of
from tests.conftest import ROOT

DEMOS = ROOT / "configs" / "EmojiLVIS"
VERSIONS = {"LVISv1": ("lvis_v1", 1203, 798), "LVISv0.5": ("lvis_v0.5", 1230, 915)}
PREDICTORS = {
    "softmax": "SoftmaxPredictor",
    "crt": "SoftmaxPredictor",
    "lws": "SoftmaxPredictor",
    "sigmoid": "SigmoidPredictor",
    "eql": "EQLPredictor",
    "eqlv2": "EQLv2Predictor",
    "seesaw": "SeesawPredictor",
    "seesaw_normed_mask": "SeesawPredictor",
    "bags": "BAGSPredictor",
}
SAMPLERS = {"": "TrainingSampler", "rfs": "RepeatFactorTrainingSampler", "cas": "ClassAwareTrainingSampler"}
BACKBONES = {"R50": (50, 1, 64), "R101": (101, 1, 64), "X101_64x4d": (101, 64, 4)}
# What a config is about stands in it even where it is the default.
SPELLED_OUT = {
    "MODEL.ROI_BOX_HEAD.PREDICTOR",
    "MODEL.LONG_TAIL.EQL.LAMBDA",
    "MODEL.LONG_TAIL.SEQL.LAMBDA",
    "MODEL.LONG_TAIL.SEQL.GAMMA",
}


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


@by_path(CONFIGS)
def test_it_loads_and_says_only_what_differs_from_its_base(path):
    cfg = config_of(path)
    values, base = own_values(path)
    if not base:
        return  # as Detectron2's own, the files at the root spell out the architecture
    without = config_of(base)
    repeated = {key for key in values if value_of(cfg, key) == value_of(without, key)}
    repeated -= set(cfg.MODEL.LONG_TAIL.AUTO) - set(without.MODEL.LONG_TAIL.AUTO)  # their values are not known yet
    assert repeated - SPELLED_OUT == set()


@by_path(CONFIGS)
def test_paths_are_relative(path):
    assert not re.search(r"(^|[\s'\"(])(/|~|[A-Z]:\\)", path.read_text())


@by_path(LVIS)
def test_lvis_dataset_and_classes(path):
    leaf = leaf_of(path)
    name, num_classes, num_rare_and_common = VERSIONS[leaf.version]
    cfg = config_of(path)
    assert ((f"{name}_train",), (f"{name}_val",)) == (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    assert num_classes == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    # BAGS's baseline of Mask R-CNN is tested as on COCO.
    as_on_coco = (leaf.recipe, leaf.architecture, leaf.method) == ("bags", "mask_rcnn", "softmax")
    assert (100 if as_on_coco else 300) == cfg.TEST.DETECTIONS_PER_IMAGE
    counts = category_counts(cfg)
    loss = EqualizationLoss(num_classes, counts.image_frequencies, cfg.MODEL.LONG_TAIL.EQL.LAMBDA)
    tail = [bool(weight) for weight in loss.tail_weight]
    if (leaf.recipe, leaf.method) == ("eqlv2_1x", "eql"):
        assert sum(tail) == 815  # with that code's lambda, 17 frequent classes are tail too
    else:
        assert tail == [group in "rc" for group in counts.frequency_groups]
        assert sum(tail) == num_rare_and_common


@by_path(LVIS)
def test_the_path_says_method_sampler_and_model(path):
    cfg = config_of(path)
    leaf = leaf_of(path)
    model = cfg.MODEL
    assert PREDICTORS[leaf.method] == model.ROI_BOX_HEAD.PREDICTOR
    sampler = leaf.sampler or ("cas" if leaf.method in ("crt", "lws") else "")
    assert SAMPLERS[sampler] == cfg.DATALOADER.SAMPLER_TRAIN
    # The codes of EQLv2 and Seesaw Loss are of mmdetection.
    assert ("ceil" if leaf.recipe in ("eqlv2_1x", "eqlv2_2x", "seesaw_2x") else "stochastic") == (
        cfg.DATALOADER.REPEAT_ROUNDING
    )
    assert {"LVISv1": 0.001, "LVISv0.5": 0.0005}[leaf.version] == cfg.DATALOADER.REPEAT_THRESHOLD
    assert ("LongTailCascadeROIHeads" if leaf.cascade else "LongTailROIHeads") == model.ROI_HEADS.NAME
    assert leaf.cascade is model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG
    assert ("mask" in leaf.architecture) is model.MASK_ON
    resnets = model.RESNETS
    assert BACKBONES[leaf.backbone] == (resnets.DEPTH, resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP)


def test_lambda_of_the_demo():
    cfg = config_of(DEMOS / "demo_eql.yaml")
    counts = plan_split(PRESETS["demo"], "train").image_counts
    below = counts / PRESETS["demo"].num_train_images < cfg.MODEL.LONG_TAIL.EQL.LAMBDA
    assert below.tolist() == [count <= 100 for count in counts]
    assert len(counts) == cfg.MODEL.ROI_HEADS.NUM_CLASSES


@pytest.mark.parametrize("path", sorted(DEMOS.glob("demo_*.yaml")), ids=lambda path: path.stem)
def test_each_demo_has_its_own_run_folder(path):
    assert f"output/emoji_lvis_demo/{path.stem.removeprefix('demo_')}" == config_of(path).OUTPUT_DIR


@pytest.mark.parametrize("name", ["demo_bags_decoupled", "demo_crt", "demo_lws"])
def test_second_stage_of_a_demo(name):
    cfg = config_of(DEMOS / f"{name}.yaml")
    first = config_of(DEMOS / "demo_softmax.yaml")
    assert (cfg.SOLVER.MAX_ITER, cfg.MODEL.WEIGHTS) == (300, "")
    assert cfg.SOLVER.STEPS[-1] < cfg.SOLVER.MAX_ITER
    assert cfg.MODEL.RESNETS == first.MODEL.RESNETS
    assert cfg.MODEL.ROI_HEADS == first.MODEL.ROI_HEADS
    # The first stage's run folder, as the comment says, is where the demo softmax run puts its weights.
    assert f"{first.OUTPUT_DIR}/model_final.pth" in (DEMOS / "Base-demo-second-stage.yaml").read_text()


@pytest.mark.parametrize("heads", ["LongTailROIHeads", "LongTailCascadeROIHeads"])
def test_the_pattern_of_second_stages_is_the_classifier(heads):
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NAME", heads, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
    cfg = load_config(str(DEMOS / "demo_crt.yaml"), overrides)
    (pattern,) = cfg.SOLVER.TRAINABLE
    model = build_model(cfg)
    stages = model.roi_heads.box_predictor if "Cascade" in heads else [model.roi_heads.box_predictor]
    classifiers = {id(parameter) for stage in stages for parameter in (stage.cls_score.weight, stage.cls_score.bias)}
    matched = {id(parameter) for name, parameter in model.named_parameters() if fnmatchcase(name, pattern)}
    assert matched == classifiers


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
