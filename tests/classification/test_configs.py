"""The configs of image classification: every model builds, a file's name says its method, rows are quoted rightly."""

import json
import re
from fnmatch import fnmatchcase

import pytest
from detectron2.modeling import build_model

from eql_d2.classification.classifier import ImageClassifier, build_classifier_layer, build_loss
from eql_d2.engine import load_config
from tests.config_files import by_path
from tests.conftest import ROOT, SHARED_DATA

FOLDER = ROOT / "configs" / "classification"
LEAVES = sorted(path for path in FOLDER.rglob("*.yaml") if not path.name.startswith("Base"))
BASES = sorted(FOLDER.rglob("Base.yaml"))
NUM_CLASSES = {"cifar100_lt": 100, "cifar10_lt": 10, "imagenet_lt": 1000, "inaturalist18": 8142, "glyphs_lt": 240}
LOSSES = {
    "seql_best": "seql",
    "sqrt_inverse_frequency": "inverse_frequency",
    "ldam_drw": "ldam",
    "seesaw_crt": "seesaw",
}
LOSSES |= dict.fromkeys(("class_aware", "sqrt_sampling", "crt", "lws", "tau_norm", "image_folder"), "softmax")
SAMPLERS = {"class_aware": "ClassAwareTrainingSampler", "sqrt_sampling": "ClassBalancedTrainingSampler"}
SAMPLERS |= {"crt": "ClassAwareTrainingSampler", "lws": "ClassAwareTrainingSampler"}


def counted(path, tmp_path):
    """A config with made-up counts in place of those of its data, which may not be there."""
    names = [name for name in NUM_CLASSES if name in path.parts]
    num_classes = NUM_CLASSES[names[0]] if names else 10
    categories = [
        {"id": j, "name": str(j), "image_count": 1 + j * j, "instance_count": 1 + j * j} for j in range(num_classes)
    ]
    counts = tmp_path / "counts.json"
    counts.write_text(json.dumps({"num_images": sum(c["image_count"] for c in categories), "categories": categories}))
    cfg = load_config(str(path), ["MODEL.DEVICE", "cpu", "MODEL.LONG_TAIL.CATEGORY_COUNTS", str(counts)])
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = num_classes
    return cfg


@by_path(LEAVES)
def test_loss_and_classifier_build(path, tmp_path):
    cfg = counted(path, tmp_path)
    loss = build_loss(cfg)
    layer = build_classifier_layer(cfg, 16, loss)
    assert layer.out_features == loss.num_logits >= loss.num_classes == cfg.MODEL.CLASSIFIER.NUM_CLASSES


@by_path([*BASES, FOLDER / "image_folder.yaml"])
def test_model_builds_and_what_second_stages_train_is_there(path, tmp_path):
    model = build_model(counted(path, tmp_path))
    assert isinstance(model, ImageClassifier)
    for second in path.parent.glob("*.yaml"):
        for pattern in load_config(str(second)).SOLVER.TRAINABLE:
            names = [name for name, _ in model.named_parameters()] + ["cls_score.scale"]
            assert any(fnmatchcase(name, pattern) for name in names)


@by_path(LEAVES)
def test_the_name_says_the_method(path):
    cfg = load_config(str(path))
    assert LOSSES.get(path.stem, path.stem) == cfg.MODEL.CLASSIFIER.LOSS
    assert SAMPLERS.get(path.stem, "TrainingSampler") == cfg.DATALOADER.SAMPLER_TRAIN
    if path.parent != FOLDER:
        assert "/".join(("output", *path.relative_to(FOLDER).with_suffix("").parts)) == cfg.OUTPUT_DIR
    assert cfg.SOLVER.STEPS[-1] < cfg.SOLVER.MAX_ITER or cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupCosineLR"


def test_schedules_of_the_paper():
    cifar, imagenet = (
        load_config(str(FOLDER / name / "Base.yaml")) for name in ("cifar100_lt", "imagenet_lt/resnet10")
    )
    assert (cifar.SOLVER.IMS_PER_BATCH, cifar.SOLVER.MAX_ITER, cifar.SOLVER.STEPS) == (256, 12_800, (6400, 9600))
    assert pytest.approx(0.1) == cifar.SOLVER.BASE_LR * cifar.SOLVER.WARMUP_FACTOR
    assert (imagenet.SOLVER.IMS_PER_BATCH, imagenet.SOLVER.MAX_ITER) == (1024, 12_000)
    assert pytest.approx(0.1) == imagenet.SOLVER.BASE_LR * imagenet.SOLVER.WARMUP_FACTOR
    seql = [
        load_config(str(FOLDER / "cifar100_lt" / f"{name}.yaml")).MODEL.LONG_TAIL.SEQL for name in ("seql", "seql_best")
    ]
    assert [(node.GAMMA, node.LAMBDA) for node in seql] == [(0.95, 0.003), (0.9, 0.005)]


def test_quoted_rows_are_those_of_the_table():
    reference = SHARED_DATA.parent / "reference" / "paper_tables.json"
    if not reference.exists():
        pytest.skip("the table of published results is not here")
    rows = {row["id"]: row["metrics"] for row in json.loads(reference.read_text())["results"]}
    quoted = 0
    for path in LEAVES:
        comment = " ".join(re.findall(r"^# (.*)$", path.read_text(), re.MULTILINE))
        for row, _, number in re.findall(r"Rows? (r\d+)( and r\d+)?[^:]*: top-1 ([\d.]+\d)", comment):
            metrics = rows[row]
            assert float(number) == metrics.get("top1", metrics.get("overall")), path
            quoted += 1
    assert quoted == 16
