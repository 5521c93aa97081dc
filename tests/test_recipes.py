"""The LVIS recipes: their numbers are those of the papers and first codes, and each leaf names the row it is to reach.

Numbers here are from the papers and codes, not from the configs.
"""

import json
import math
import re

import pytest

from eql_d2.losses import BalancedGroupSoftmax, EqualizationLossV2, SeesawLoss
from eql_d2.modeling.loss_config import loss_of_config
from tests.config_files import LVIS, ONE_STAGE, TRAIN_IMAGES, by_path, config_of, leaf_of, of_recipes

OFFICIAL, PAPER = of_recipes("official"), of_recipes("paper")
ABLATIONS = [path for path in PAPER if path.stem == "softmax_cas"]
OTHERS = [path for path in LVIS if path not in OFFICIAL + PAPER]  # of EQLv2, Seesaw Loss and BAGS
MULTI_SCALE = (640, 672, 704, 736, 768, 800)
CLASSIFIER = ("roi_heads.box_predictor*.cls_score.*",)

SEESAW_ROWS = {"softmax", "eql", "bags", "seesaw", "seesaw_normed_mask"}
METHODS = {  # (recipe, model): leaves
    ("eqlv2_1x", "mask_rcnn_R50"): {"softmax", "softmax_rfs", "sigmoid", "eql", "eqlv2", "bags", "crt", "lws"},
    ("eqlv2_2x", "mask_rcnn_R50"): {"eqlv2"},
    ("seesaw_2x", "mask_rcnn_R50"): {"seesaw", "seesaw_normed_mask"} | {f"{name}_rfs" for name in SEESAW_ROWS},
    ("seesaw_2x", "mask_rcnn_R101"): SEESAW_ROWS | {f"{name}_rfs" for name in SEESAW_ROWS},
    ("seesaw_2x", "cascade_mask_rcnn_R101"): SEESAW_ROWS | {f"{name}_rfs" for name in SEESAW_ROWS},
    ("bags", "faster_rcnn_R50"): {"softmax", "bags"},
    ("bags", "mask_rcnn_R50"): {"softmax", "bags"},
    ("bags", "faster_rcnn_X101_64x4d"): {"softmax", "bags"},
    ("bags", "cascade_rcnn_X101_64x4d"): {"softmax", "bags"},
}
EPOCHS = {"eqlv2_1x": (12, (8, 11)), "eqlv2_2x": (24, (16, 22)), "seesaw_2x": (24, (16, 22)), "bags": (12, (8, 11))}
ITERATIONS = {  # the same at 16 images, rounded as published
    "eqlv2_1x": (74_541, (49_694, 68_329)),
    "eqlv2_2x": (149_082, (99_388, 136_659)),
    "seesaw_2x": (149_082, (99_388, 136_659)),
    "bags": (42_555, (28_370, 39_009)),
}
REPEATED_EPOCH = 7674  # iterations of 16 images on LVIS v1 with repeat factors, in mmdetection's logs (its issue 7439)
RGB = ("RGB", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375], False)  # torchvision
BGR = ("BGR", [103.53, 116.28, 123.675], [1.0, 1.0, 1.0], True)  # MSRA
WEIGHTS = {  # backbone, or recipe and architecture where that starts from COCO: weights of a first stage, pixels
    ("bags", "mask_rcnn"): ("detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x/137260431/.*", BGR),
    ("bags", "faster_rcnn"): ("detectron2://COCO-Detection/faster_rcnn_R_50_FPN_1x/137257794/.*", BGR),
    "X101_64x4d": (r"datasets/weights/torchvision-X-101-64x4d\.pkl", RGB),
    "R101": (r"datasets/weights/torchvision-R-101\.pkl", RGB),
    "R50": (r"detectron2://ImageNetPretrained/torchvision/R-50\.pkl", RGB),
}


def test_every_table_row_that_can_be_trained_has_its_config():
    table_rows = [path for path in PAPER if path not in ABLATIONS]
    assert len(OFFICIAL) == len(table_rows) == 2 * 4 * 6
    assert {path.parent.parts[-3:] for path in ABLATIONS} == {("LVISv0.5", "paper", "mask_rcnn_R50_FPN")}
    for paths in (OFFICIAL, table_rows):
        models = {(leaf_of(path).architecture, leaf_of(path).backbone) for path in paths}
        assert models == {(kind, depth) for kind in ("mask_rcnn", "cascade_mask_rcnn") for depth in ("R50", "R101")}
        names = {path.stem for path in paths}
        assert names == {f"{name}{rfs}" for name in ("softmax", "sigmoid", "eql") for rfs in ("", "_rfs")}
    found = {}
    for path in OTHERS:
        leaf = leaf_of(path)
        found.setdefault((leaf.recipe, f"{leaf.architecture}_{leaf.backbone}"), set()).add(path.stem)
        assert leaf.version == ("LVISv0.5" if leaf.recipe == "bags" else "LVISv1")
    assert found == METHODS


@by_path(LVIS)
def test_what_all_recipes_have_in_common(path):
    cfg = config_of(path)
    solver = cfg.SOLVER
    assert (solver.WEIGHT_DECAY, solver.MOMENTUM, solver.GAMMA) == (1e-4, 0.9, 0.1)
    assert (cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (1333, 800, 1333)
    assert (cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING, cfg.INPUT.RANDOM_FLIP) == ("choice", "horizontal")
    heads = cfg.MODEL.ROI_HEADS
    assert (heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION, heads.NMS_THRESH_TEST) == (512, 0.25, 0.5)
    assert (heads.IOU_THRESHOLDS, cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS) == ([0.5], (0.5, 0.6, 0.7))
    assert cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE == cfg.MODEL.RPN.BBOX_REG_LOSS_TYPE == "smooth_l1"
    rpn = cfg.MODEL.RPN
    assert (rpn.BATCH_SIZE_PER_IMAGE, rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST) == (256, 2000, 1000)
    assert rpn.POST_NMS_TOPK_TEST == 1000


@by_path(OFFICIAL + PAPER)
def test_recipes_of_eql(path):
    cfg = config_of(path)
    leaf = leaf_of(path)
    if leaf.recipe == "official":
        assert cfg.MODEL.WEIGHTS.endswith(f"MSRA/R-{leaf.backbone[1:]}.pkl")
        assert pixels(cfg) == BGR
    else:
        weights, form = WEIGHTS[leaf.backbone]
        assert re.fullmatch(weights, cfg.MODEL.WEIGHTS)
        assert pixels(cfg) == form
    assert (cfg.SOLVER.WARMUP_ITERS, cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA) == (1000, 0.0)


@by_path(OFFICIAL)
def test_official_recipe(path):
    cfg = config_of(path)
    solver = cfg.SOLVER
    assert (solver.MAX_ITER, solver.IMS_PER_BATCH, solver.BASE_LR) == (90_000, 16, 0.02)
    assert solver.STEPS == (60_000, 80_000)
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 1e-4
    assert cfg.INPUT.MIN_SIZE_TRAIN == MULTI_SCALE
    assert not cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK


@by_path(PAPER)
def test_recipe_of_the_paper(path):
    cfg = config_of(path)
    solver = cfg.SOLVER
    version = leaf_of(path).version
    epoch = TRAIN_IMAGES[version] / 32
    assert (solver.IMS_PER_BATCH, solver.BASE_LR) == (32, 0.04)
    assert pytest.approx(25 * epoch, abs=1) == solver.MAX_ITER
    assert (pytest.approx(16 * epoch, abs=1), pytest.approx(22 * epoch, abs=1)) == solver.STEPS
    if version == "LVISv0.5":
        assert solver.MAX_ITER == 44_328
    assert cfg.INPUT.MIN_SIZE_TRAIN == (800,)
    assert cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.0


@by_path(OTHERS)
def test_schedule(path):
    solver = config_of(path).SOLVER
    leaf = leaf_of(path)
    bags = leaf.recipe == "bags"
    batch = 8 if (leaf.recipe, leaf.architecture, leaf.method) == ("bags", "mask_rcnn", "softmax") else 16
    assert batch == solver.IMS_PER_BATCH
    assert (0.01 if bags else 0.02) == solver.BASE_LR
    assert (solver.WARMUP_METHOD, solver.WARMUP_ITERS) == ("linear", 500)
    assert pytest.approx(1 / 3 if bags else 0.001, rel=1e-5) == solver.WARMUP_FACTOR
    if leaf.method in ("crt", "lws"):
        assert (solver.MAX_ITER, solver.STEPS) == (75_000, (50_000, 70_000))
    else:
        epochs, steps = EPOCHS[leaf.recipe]
        epoch = REPEATED_EPOCH if leaf.rfs else TRAIN_IMAGES[leaf.version] / batch
        if not leaf.rfs and batch == 16:
            assert ITERATIONS[leaf.recipe] == (solver.MAX_ITER, solver.STEPS)
        assert pytest.approx([epochs * epoch, *(step * epoch for step in steps)], abs=1) == [
            solver.MAX_ITER,
            *solver.STEPS,
        ]
    clip = solver.CLIP_GRADIENTS
    assert clip.ENABLED is bags
    if bags:
        assert (clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE) == ("norm", 35.0, 2.0)


@by_path(OTHERS)
def test_images_and_heads(path):
    cfg = config_of(path)
    leaf = leaf_of(path)
    bags = leaf.recipe == "bags"
    assert ((800,) if bags else MULTI_SCALE) == cfg.INPUT.MIN_SIZE_TRAIN
    threshold = 1e-4 if not bags else 1e-3
    if bags and leaf.architecture == "faster_rcnn" and (leaf.backbone == "R50" or leaf.method == "softmax"):
        threshold = 0.0
    elif bags and leaf.architecture == "mask_rcnn" and leaf.method == "softmax":
        threshold = 0.05  # as on COCO
    assert threshold == cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
    assert not cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK
    # L1 in the Mask R-CNN of mmdetection 2; smooth L1 in all Cascades and in mmdetection 1.
    smooth = bags or leaf.cascade
    assert (1.0 if smooth else 0.0) == cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA
    assert pytest.approx(1 / 9 if smooth else 0.0, rel=1e-5) == cfg.MODEL.RPN.SMOOTH_L1_BETA
    assert (2000 if smooth else 1000) == cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN
    assert ("logit" if leaf.cascade else "probability") == cfg.MODEL.ROI_BOX_CASCADE_HEAD.SCORE_AVERAGE


def pixels(cfg):
    return cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.MODEL.RESNETS.STRIDE_IN_1X1


@by_path(OTHERS)
def test_weights_and_their_pixels(path):
    cfg = config_of(path)
    leaf = leaf_of(path)
    key = (leaf.recipe, leaf.architecture) if leaf.recipe == "bags" and leaf.backbone == "R50" else leaf.backbone
    weights, form = WEIGHTS[key]
    assert pixels(cfg) == form
    assert re.fullmatch("" if leaf.second_stage else weights, cfg.MODEL.WEIGHTS)


@by_path(OTHERS)
def test_second_stages_train_the_classifier_alone(path):
    cfg = config_of(path)
    method, second_stage = leaf_of(path).method, leaf_of(path).second_stage
    scale = ("roi_heads.box_predictor*.cls_score.scale",)
    assert ((scale if method == "lws" else CLASSIFIER) if second_stage else ()) == cfg.SOLVER.TRAINABLE
    assert (CLASSIFIER if method == "crt" else ()) == cfg.MODEL.WEIGHTS_EXCLUDE
    assert (method == "lws") is cfg.MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER
    call = f"…/{path.name} MODEL.WEIGHTS output/"
    assert (call in path.read_text()) is second_stage


@by_path(OTHERS)
def test_methods(path):
    cfg = config_of(path)
    leaf = leaf_of(path)
    seesaw = leaf.method.startswith("seesaw")
    head = cfg.MODEL.ROI_BOX_HEAD
    assert (seesaw, 20.0) == (head.NORMED_CLASSIFIER, head.TEMPERATURE)
    mask_head = "NormedMaskRCNNConvUpsampleHead" if "normed_mask" in leaf.method else "MaskRCNNConvUpsampleHead"
    assert (mask_head, 20.0) == (cfg.MODEL.ROI_MASK_HEAD.NAME, cfg.MODEL.ROI_MASK_HEAD.TEMPERATURE)
    methods = cfg.MODEL.LONG_TAIL
    if seesaw:
        assert (methods.SEESAW.P, methods.SEESAW.Q, methods.SEESAW.EPS) == (0.8, 2.0, 0.01)
        assert loss_of_config(SeesawLoss, cfg, "SEESAW").num_logits == 1203 + 2
    elif leaf.method == "eqlv2":
        assert (methods.EQLV2.ALPHA, methods.EQLV2.GAMMA, methods.EQLV2.MU) == (4.0, 12.0, 0.8)
        assert loss_of_config(EqualizationLossV2, cfg, "EQLV2").num_logits == 1203 + 1
    elif leaf.method == "bags":
        assert (methods.BAGS.BIN_EDGES, methods.BAGS.OTHERS_RATIO) == ((10, 100, 1000), 8.0)
        assert {"LVISv1": 1209, "LVISv0.5": 1236}[leaf.version] == loss_of_config(
            BalancedGroupSoftmax, cfg, "BAGS"
        ).num_logits


@by_path(OFFICIAL + PAPER)
def test_image_level_labels_are_the_papers_and_not_the_codes(path):
    leaf = leaf_of(path)
    expected = (leaf.recipe, leaf.method) == ("paper", "eql")
    assert config_of(path).MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS is expected


@pytest.mark.parametrize(("version", "threshold"), [("v1", 0.001)])
def test_the_longer_epoch_is_one_that_the_category_counts_allow(version, threshold, shared_data):
    """Between images that hold as few and as many repeated classes as they can; near independent classes."""
    content = json.loads((shared_data / f"lvis_{version}_train_category_counts.json").read_text())
    images, longest, by_repeats = content["num_images"], content["num_images"], {}
    for category in content["categories"]:
        repeats = math.ceil(max(1.0, math.sqrt(threshold * images / category["image_count"])))
        longest += category["image_count"] * (repeats - 1)
        for times in range(2, repeats + 1):
            by_repeats[times] = by_repeats.get(times, 1.0) * (1 - category["image_count"] / images)
    independent = images * (1 + sum(1 - none for none in by_repeats.values()))
    assert images < REPEATED_EPOCH * 16 < longest
    assert pytest.approx(independent, rel=0.015) == REPEATED_EPOCH * 16


ROW_METHODS = {
    "Softmax CE": "softmax",
    "Softmax CE baseline": "softmax",
    "CE without objectness branch": "softmax",
    "RFS": "softmax",
    "Sigmoid BCE baseline": "sigmoid",
    # What the config of EQLv2's code for its baseline trains is softmax cross-entropy.
    "Sigmoid baseline": "softmax",
    "Class-aware sampling": "softmax",
    "Repeat factor sampling": "softmax",
    "EQL": "eql",
    "EQLv2": "eqlv2",
    "EQLv2 (reproduced)": "eqlv2",
    "Seesaw": "seesaw",
    "Seesaw + NLA": "seesaw",
    "Seesaw + Normalized Mask": "seesaw_normed_mask",
    "BAGS": "bags",
    "BAGS (decoupled)": "bags",
    "cRT (decoupled)": "crt",
    "LWS (decoupled)": "lws",
}
SOURCES = {
    "S_EQLP": "EQL paper",
    "S_V2R": "EQLv2's code",
    "S_BAGR": "BAGS's code",
    "S_MMD": "mmdetection",
    "S_GOL": "GOL's code",
    "S_OBJV": "other papers' tables",
    "S_CAB": "other papers' tables",
}
ROW = re.compile(r"(?P<values>(?:(?:mask|box) AP \d+\.\d+(?: and )?)+) \((?P<id>r\d{3})\)")


@pytest.fixture(scope="module")
def table_rows(shared_data):
    rows = json.loads((shared_data.parent / "reference" / "paper_tables.json").read_text())["results"]
    return {row["id"]: row for row in rows}


@by_path(OTHERS + [path for path in PAPER if ROW.search(path.read_text())])
def test_a_leaf_names_the_rows_it_is_to_reach(path, table_rows):
    leaf = leaf_of(path)
    solver = config_of(path).SOLVER
    comment = path.read_text().split("_BASE_")[0]
    named = list(ROW.finditer(comment))
    assert len(named) == len(re.findall(r"r\d{3}", comment)) > 0
    for match in named:
        row = table_rows[match["id"]]
        assert ROW_METHODS[row["method"]] == leaf.method
        assert {"LVISv1": "LVIS v1 val", "LVISv0.5": "LVIS v0.5 val"}[leaf.version] == row["dataset"]
        model = leaf.architecture.replace("_rcnn", "_R-CNN").replace("_", " ")
        assert (model[0].upper() + model[1:]).replace("mask", "Mask") == row["framework"]
        assert f"{leaf.backbone.replace('_', '-')}-FPN" == row["backbone"]
        if leaf.method not in ("crt", "lws"):  # their second stage has a length of its own
            epochs = {"1x": 12, "2x": 24, "12": 12, "25": 25}[re.match(r"\w+", row["schedule"])[0]]
            longer = leaf.rfs and leaf.recipe != "paper"  # the paper's does not say how it counts
            epoch = REPEATED_EPOCH if longer else TRAIN_IMAGES[leaf.version] / solver.IMS_PER_BATCH
            assert pytest.approx(epochs * epoch, abs=1) == solver.MAX_ITER
        if row["sampler"] != "method-specific":
            assert row["sampler"].startswith("RFS" if leaf.recipe == "paper" else "RFS t=1e-3") is leaf.rfs
            assert ("class-aware" in row["sampler"]) is (leaf.method == "crt" or leaf.sampler == "cas")
        # Each value that the comment gives is the row's, with all its digits, and the main one is among them.
        metrics = {"mask": row["metrics"].get("AP"), "box": row["metrics"].get("APbbox")}
        values = dict(re.findall(r"(mask|box) AP (\d+\.\d+)", match["values"]))
        assert {kind: metrics[kind] for kind in values} == {kind: float(value) for kind, value in values.items()}
        assert ("mask" in values) is ("mask" in row["metric_type"])
        if row["source"] == "S_SEEP":
            assert f"Seesaw Loss, table {row['table'].removeprefix('Seesaw T')}" in comment
        else:
            assert SOURCES[row["source"]] in comment
        if row["source"] == "S_BAGR":
            assert f"{row['table'].removeprefix('README ')}:" in comment


@by_path(ONE_STAGE)
def test_recipe_of_efl(path):
    """configs/det/efl/efl_improved_baseline_r50_2x_rfs.yaml of its code."""
    cfg = config_of(path)
    model, solver = cfg.MODEL, cfg.SOLVER
    assert path.stem == f"{model.RETINANET.LOSS}_rfs"
    assert model.META_ARCHITECTURE == "LongTailRetinaNet"
    assert model.RETINANET.NUM_CLASSES == 1203
    assert pixels(cfg) == RGB
    strides = (8, 16, 32, 64, 128)
    assert [[6 * stride, 8 * stride] for stride in strides] == model.ANCHOR_GENERATOR.SIZES
    assert model.ANCHOR_GENERATOR.ASPECT_RATIOS == [[1.0]]
    assert (model.RETINANET.ASSIGNMENT, model.RETINANET.ATSS_CANDIDATES) == ("atss", 18)
    head = model.RETINANET
    assert (head.NORM, head.NUM_CONVS, head.BBOX_REG_LOSS_TYPE, head.NMS_THRESH_TEST) == ("GN", 4, "giou", 0.5)
    assert (model.LONG_TAIL.PRIOR_PROB, model.LONG_TAIL.EFL.SCALE, model.LONG_TAIL.EFL.ALPHA) == (0.001, 8.0, 0.25)
    assert (cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD) == ("RepeatFactorTrainingSampler", 0.001)
    assert (24 * REPEATED_EPOCH, (16 * REPEATED_EPOCH, 22 * REPEATED_EPOCH)) == (solver.MAX_ITER, solver.STEPS)
    assert (REPEATED_EPOCH, pytest.approx(0.001)) == (solver.WARMUP_ITERS, solver.WARMUP_FACTOR)
    assert (solver.BASE_LR, solver.IMS_PER_BATCH) == (0.00125 * 16, 16)
    clip = solver.CLIP_GRADIENTS
    assert (clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE) == ("norm", 35.0, 2.0)
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 300
