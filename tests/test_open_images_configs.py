"""The configs of the Open Images Challenge 2019: their numbers are those of EQLv2's code, and rows those of the tables.

Numbers here are from the papers and codes, not from the configs.
"""

import json
import re
from pathlib import Path

from detectron2.data import MetadataCatalog

from eql_d2.data.open_images import challenge_2019_source
from tests.config_files import LEAVES, by_path, config_of

OPEN_IMAGES = [path for path in LEAVES if path.parts[-4] == "OpenImages"]
METHODS = {
    "softmax": "SoftmaxPredictor",
    "sigmoid": "SigmoidPredictor",
    "sigmoid_cas": "SigmoidPredictor",
    "eql": "EQLPredictor",
    "eql_by_images": "EQLPredictor",
    "eqlv2": "EQLv2Predictor",
}
ROWS = {  # row of the tables: backbone, method
    "r033": ("R50", "sigmoid"),
    "r034": ("R50", "sigmoid_cas"),
    "r035": ("R50", "eql_by_images"),
    # What the config of EQLv2's code for its baseline trains is softmax cross-entropy.
    "r087": ("R50", "softmax"),
    "r088": ("R50", "eql"),
    "r089": ("R50", "eqlv2"),
    "r090": ("R101", "softmax"),
    "r091": ("R101", "eql"),
    "r092": ("R101", "eqlv2"),
}
WEIGHTS = {
    "R50": "detectron2://ImageNetPretrained/torchvision/R-50.pkl",
    "R101": "datasets/weights/torchvision-R-101.pkl",
}


def backbone_of(path):
    return re.fullmatch("faster_rcnn_(R50|R101)_FPN", path.parts[-2])[1]


def test_every_method_has_its_config_for_both_backbones():
    assert {path.parts[-3] for path in OPEN_IMAGES} == {"eqlv2_180k"}
    assert sorted((backbone_of(path), path.stem) for path in OPEN_IMAGES) == sorted(
        (backbone, method)
        for backbone in WEIGHTS
        for method in METHODS
        if (backbone, method) != ("R101", "eql_by_images")
    )


@by_path(OPEN_IMAGES)
def test_recipe(path):
    cfg = config_of(path)
    solver, heads = cfg.SOLVER, cfg.MODEL.ROI_HEADS
    assert (solver.MAX_ITER, solver.STEPS) == (180_000, (120_000, 160_000))
    assert (solver.IMS_PER_BATCH, solver.BASE_LR) == (16, 0.02)
    assert (solver.WARMUP_ITERS, solver.WARMUP_METHOD, solver.WEIGHT_DECAY) == (500, "linear", 1e-4)
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST) == ((800,), 1333, 800)
    assert (heads.NAME, heads.SCORE_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE) == ("LongTailROIHeads", 1e-4, 300)
    assert (heads.NUM_CLASSES, cfg.MODEL.MASK_ON, cfg.INPUT.FORMAT) == (500, False, "RGB")
    assert (cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA, cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG) == (0.0, False)
    assert int(backbone_of(path)[1:]) == cfg.MODEL.RESNETS.DEPTH
    assert WEIGHTS[backbone_of(path)] == cfg.MODEL.WEIGHTS


@by_path(OPEN_IMAGES)
def test_method_and_data(path):
    cfg = config_of(path)
    assert METHODS[path.stem] == cfg.MODEL.ROI_BOX_HEAD.PREDICTOR
    sampler = "ClassAwareTrainingSampler" if path.stem.endswith("_cas") else "TrainingSampler"
    assert sampler == cfg.DATALOADER.SAMPLER_TRAIN
    if path.stem == "eql":
        assert cfg.MODEL.LONG_TAIL.EQL.TAIL_INSTANCES == 1652
    if path.stem == "eql_by_images":
        assert (cfg.MODEL.LONG_TAIL.EQL.LAMBDA, cfg.MODEL.LONG_TAIL.EQL.TAIL_INSTANCES) == (3e-4, 0)
    if path.stem == "eqlv2":
        method = cfg.MODEL.LONG_TAIL.EQLV2
        assert (method.ALPHA, method.GAMMA, method.MU, method.OBJECTNESS) == (4.0, 12.0, 0.8, True)
    for names, split in ((cfg.DATASETS.TRAIN, "train"), (cfg.DATASETS.TEST, "val")):
        assert names == (f"openimages_challenge2019_{split}",)
        metadata = MetadataCatalog.get(names[0])
        assert (metadata.evaluator_type, Path(metadata.image_root).parts[-3:-1]) == (
            "openimages",
            ("openimages", "challenge2019"),
        )
        source = challenge_2019_source(Path("folder"), split)
        assert (source.group_of, source.expand, source.missing_images) == ("object", False, "error")


@by_path(OPEN_IMAGES)
def test_a_leaf_names_its_rows(path, shared_data):
    rows = json.loads((shared_data.parent / "reference" / "paper_tables.json").read_text())["results"]
    row_of = {row["id"]: row for row in rows}
    comment = " ".join(path.read_text().split("_BASE_")[0].replace("#", "").split())
    named = dict(re.findall(r"AP50 (\d+\.\d+) \((r\d{3})\)", comment))
    named = {row: float(value) for value, row in named.items()}
    expected = {row for row, place in ROWS.items() if place == (backbone_of(path), path.stem)}
    assert set(named) == expected == set(re.findall(r"r\d{3}", comment))
    for row, value in named.items():
        assert row_of[row]["metrics"]["AP"] == value
        assert row_of[row]["dataset"] == "Open Images Challenge 2019 val"
        assert row_of[row]["metric_type"] == "bbox AP@0.5"
        assert row_of[row]["backbone"].removesuffix("-FPN") == backbone_of(path)
        assert ("EQLv2's code" if row_of[row]["source"] == "S_V2R" else "EQL, table 6") in comment


def test_every_row_is_named():
    text = "".join(path.read_text() for path in OPEN_IMAGES)
    assert set(re.findall(r"r\d{3}", text)) == set(ROWS)


def test_the_sets_are_those_of_the_challenge():
    """The names as published (https://storage.googleapis.com/openimages/web/challenge2019_downloads.html)."""
    assert [path.name for path in challenge_2019_source(Path("folder"), "val").files] == [
        "challenge-2019-validation-detection-bbox.csv",
        "challenge-2019-classes-description-500.csv",
        "challenge-2019-validation-detection-human-imagelabels.csv",
        "challenge-2019-label500-hierarchy.json",
    ]
