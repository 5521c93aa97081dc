"""Every recipe against what the papers and first codes say of it: tests/official_values.yaml, with their lines."""

from fnmatch import fnmatchcase

import pytest
import yaml

from eql_d2.reproduction.recipes import recipe_of_row
from eql_d2.reproduction.tables import find_table
from tests.config_files import LEAVES, TRAIN_IMAGES, config_of
from tests.conftest import ROOT

CONTENT = yaml.safe_load((ROOT / "tests" / "official_values.yaml").read_text())
ENTRIES = CONTENT["recipes"]
OF_DETECTION = [path for path in LEAVES if path.parts[-4] in ("LVISv0.5", "LVISv1", "OpenImages")]
REPEATED_EPOCH = 7674 * 16  # images of an epoch of mmdetection on LVIS v1 with threshold 0.001, by its logs
CLASSIFIER = ("roi_heads.box_predictor*.cls_score.*",)
TRAINS = {
    (): "all",
    CLASSIFIER: "classifier",
    ("roi_heads.box_predictor*.cls_score.scale",): "scale",
    ("roi_heads.box_head.*", "roi_heads.box_predictor*"): "box head",
}
SAMPLERS = {"RepeatFactorTrainingSampler": "repeat factors", "ClassAwareTrainingSampler": "class-aware"}
BASELINE = "LVISv0.5/bags/faster_rcnn_R50_FPN/softmax.yaml"


def key(name):
    def value(cfg, training):
        for part in name.split("."):
            cfg = cfg[part]
        return list(cfg) if isinstance(cfg, (tuple, list)) else cfg

    return value


def epochs(iterations):
    """How often that many iterations go through the training set."""

    def value(cfg, training):
        version = "LVISv0.5" if "v0.5" in cfg.DATASETS.TRAIN[0] else "LVISv1"
        is_longer = "RepeatFactor" in cfg.DATALOADER.SAMPLER_TRAIN and cfg.DATALOADER.REPEAT_ROUNDING == "ceil"
        images = REPEATED_EPOCH if is_longer else TRAIN_IMAGES[version]
        numbers = [number * cfg.SOLVER.IMS_PER_BATCH / images for number in iterations(cfg.SOLVER)]
        return numbers[0] if len(numbers) == 1 and iterations is LENGTH else numbers

    return value


def LENGTH(solver):
    return [solver.MAX_ITER]


def start(cfg, training):
    first = training.first_stage if training else None
    if first is None:
        return "detector of COCO" if "detectron2://COCO-" in cfg.MODEL.WEIGHTS else cfg.MODEL.WEIGHTS
    if first.config == BASELINE and not first.overrides:
        return "finished baseline"
    rows = [row for row in find_table("bags_ablations", ROOT / "configs" / "tables").rows if row.training == first]
    return rows[0].name


def pixels(cfg, training):
    return "RGB of unit deviation" if (cfg.INPUT.FORMAT, max(cfg.MODEL.PIXEL_STD) > 1) == ("RGB", True) else "BGR"


def imagenet(cfg, training):
    caffe = "MSRA" in cfg.MODEL.WEIGHTS
    # Weights, strides and pixels belong together.
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is caffe and (pixels(cfg, None) == "BGR") is caffe
    return "MSRA" if caffe else "torchvision" if "torchvision" in cfg.MODEL.WEIGHTS else cfg.MODEL.WEIGHTS


FACTS = {
    "agnostic_boxes": key("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"),
    "agnostic_masks": key("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"),
    "base_lr": key("SOLVER.BASE_LR"),
    "batch": key("SOLVER.IMS_PER_BATCH"),
    "bins": key("MODEL.LONG_TAIL.BAGS.BIN_EDGES"),
    "box_beta": key("MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA"),
    "class_balanced_beta": key("MODEL.LONG_TAIL.CLASS_BALANCED.BETA"),
    "classes": key("MODEL.ROI_HEADS.NUM_CLASSES"),
    "classifier_starts_anew": lambda cfg, _: cfg.MODEL.WEIGHTS_EXCLUDE == CLASSIFIER,
    "classifier_width": lambda cfg, _: cfg.MODEL.ROI_HEADS.NUM_CLASSES + 1,
    "clip_norm": lambda cfg, _: cfg.SOLVER.CLIP_GRADIENTS.ENABLED and cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE,
    "decay_epochs": epochs(lambda solver: solver.STEPS),
    "decay_iterations": key("SOLVER.STEPS"),
    "depth": key("MODEL.RESNETS.DEPTH"),
    "detections": key("TEST.DETECTIONS_PER_IMAGE"),
    "epochs": epochs(LENGTH),
    "eqlv2_alpha": key("MODEL.LONG_TAIL.EQLV2.ALPHA"),
    "eqlv2_gamma": key("MODEL.LONG_TAIL.EQLV2.GAMMA"),
    "eqlv2_mu": key("MODEL.LONG_TAIL.EQLV2.MU"),
    "exclude_background": key("MODEL.LONG_TAIL.EQL.EXCLUDE_BACKGROUND"),
    "feature_gradient": key("MODEL.ROI_BOX_CASCADE_HEAD.FEATURE_GRADIENT"),
    "focal_alpha": key("MODEL.LONG_TAIL.FOCAL.ALPHA"),
    "focal_gamma": key("MODEL.LONG_TAIL.FOCAL.GAMMA"),
    "focal_mean_over_logits": key("MODEL.LONG_TAIL.FOCAL.AS_IN_BAGS"),
    "image_level_labels": key("MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS"),
    "imagenet": imagenet,
    "iterations": key("SOLVER.MAX_ITER"),
    "lambda": key("MODEL.LONG_TAIL.EQL.LAMBDA"),
    "others_ratio": key("MODEL.LONG_TAIL.BAGS.OTHERS_RATIO"),
    "pixels": pixels,
    "predictor": key("MODEL.ROI_BOX_HEAD.PREDICTOR"),
    "prior": key("MODEL.LONG_TAIL.PRIOR_PROB"),
    "proposals": key("MODEL.RPN.POST_NMS_TOPK_TRAIN"),
    "repeat_rounding": key("DATALOADER.REPEAT_ROUNDING"),
    "repeat_threshold": key("DATALOADER.REPEAT_THRESHOLD"),
    "rpn_beta": key("MODEL.RPN.SMOOTH_L1_BETA"),
    "sampler": lambda cfg, _: SAMPLERS.get(cfg.DATALOADER.SAMPLER_TRAIN, "random"),
    "scales_bias": key("MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER_BIAS"),
    "score_average": key("MODEL.ROI_BOX_CASCADE_HEAD.SCORE_AVERAGE"),
    "score_threshold": key("MODEL.ROI_HEADS.SCORE_THRESH_TEST"),
    "seesaw_p": key("MODEL.LONG_TAIL.SEESAW.P"),
    "seesaw_q": key("MODEL.LONG_TAIL.SEESAW.Q"),
    "stage_weights": key("MODEL.ROI_BOX_CASCADE_HEAD.STAGE_WEIGHTS"),
    "start": start,
    "tail_instances": key("MODEL.LONG_TAIL.EQL.TAIL_INSTANCES"),
    "temperature": key("MODEL.ROI_BOX_HEAD.TEMPERATURE"),
    "train_sizes": key("INPUT.MIN_SIZE_TRAIN"),
    "trains": lambda cfg, _: TRAINS[cfg.SOLVER.TRAINABLE],
    "warmup_factor": key("SOLVER.WARMUP_FACTOR"),
    "warmup_iterations": key("SOLVER.WARMUP_ITERS"),
}


def name_of(path):
    return str(path.relative_to(ROOT / "configs").with_suffix(""))


def recipes_of(entry):
    """(name, config, training of a row or None, its number of GPUs or None) that an entry is about."""
    for pattern in entry.get("configs", ()):
        for path in (path for path in OF_DETECTION if fnmatchcase(name_of(path), pattern)):
            yield name_of(path), config_of(path), None, None
    for pattern in entry.get("rows", ()):
        table, _, row_pattern = pattern.partition("/")
        for row in find_table(table, ROOT / "configs" / "tables").rows:
            wanted = row.method.startswith(tuple(entry.get("methods", ("",))))
            if row.training and fnmatchcase(row.id, row_pattern) and wanted:
                yield row.name, recipe_of_row(row).cfg, row.training, row.num_gpus


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def same(ours, official):
    if isinstance(official, (int, float)) and not isinstance(official, bool):
        return ours == pytest.approx(official, rel=1e-3)
    if isinstance(official, list):
        return list(ours) == pytest.approx(official, rel=1e-3)
    return ours == official


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: (entry.get("configs") or entry.get("rows"))[0])
def test_recipes_have_the_official_values(entry):
    repository = entry["file"].split()[0]
    assert repository == "paper" or repository in CONTENT["repositories"]
    found = list(recipes_of(entry))
    assert found, "an entry is about no recipe"
    for fact, (official, line) in entry["facts"].items():
        assert line, fact
        reason = entry.get("differs", {}).get(fact)
        for name, cfg, training, num_gpus in found:
            ours = num_gpus if fact == "num_gpus" else FACTS[fact](cfg, training)
            assert same(ours, official) is (not reason), (
                f"{name}: {fact} is {ours}, {official} in {entry['file']}:{line}"
            )


def test_every_recipe_of_detection_is_compared():
    compared = {name for entry in ENTRIES for name, *_ in recipes_of(entry)}
    assert {name_of(path) for path in OF_DETECTION} <= compared
    assert set(FACTS) | {"num_gpus"} == {fact for entry in ENTRIES for fact in entry["facts"]}
