"""Whether a checkpoint goes with a run; the sentences where it does not."""

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from torch import nn

from eql_d2.config import get_eql_d2_config
from eql_d2.engine import compatibility
from eql_d2.errors import UserError
from eql_d2.losses import EqualizationLossV2

NAMES = ["ant", "bee", "cat"]


def description_of(names, **config):
    cfg = get_eql_d2_config()
    for key, value in config.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    return {"classes": {"num_images": None, "categories": categories}, "config": cfg.dump()}


@pytest.fixture
def cfg():
    cfg = get_eql_d2_config()
    MetadataCatalog.get("compatible_val").thing_classes = list(NAMES)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("not_registered",), ("compatible_val",)
    yield cfg
    MetadataCatalog.remove("compatible_val")


def test_names(cfg):
    assert compatibility.class_names(description_of(NAMES)) == NAMES
    assert compatibility.class_names({}) is None
    assert compatibility.dataset_with_names(cfg) == ("compatible_val", NAMES)
    cfg.DATASETS.TEST = ()
    assert compatibility.dataset_with_names(cfg) is None
    assert "not_registered" not in MetadataCatalog.list()  # asking registers nothing
    assert compatibility.class_difference(description_of(["dog"]), cfg) is None


@pytest.mark.parametrize(
    ("theirs", "sentence"),
    [
        (NAMES, None),
        (
            ["ant", "cat", "bee"],
            "3 classes (ant, cat, bee), and dataset compatible_val has 3 (ant, bee, cat): class 2 is 'cat' in the "
            "checkpoint and 'bee' in the dataset",
        ),
        (
            ["ant", "bee"],
            "2 classes (ant, bee), and dataset compatible_val has 3 (ant, bee, cat): class 3 is missing in the "
            "checkpoint and 'cat' in the dataset",
        ),
        (
            [*NAMES, "d", "e", "f"],
            "6 classes (ant, bee, cat, d, e …), and dataset compatible_val has 3 (ant, bee, cat): class 4 is 'd' in "
            "the checkpoint and missing in the dataset",
        ),
    ],
)
def test_classes_are_compared_in_order(cfg, theirs, sentence):
    assert compatibility.class_difference(description_of(theirs), cfg) == sentence
    assert compatibility.class_difference({}, cfg) is None
    if sentence is None:
        return
    with pytest.raises(UserError) as error:
        compatibility.check_resumable("x.pth", description_of(theirs), cfg)
    assert str(error.value) == (
        f"--resume: checkpoint x.pth has {sentence}; start anew in another OUTPUT_DIR, with MODEL.WEIGHTS x.pth and "
        "MODEL.WEIGHTS_MATCH_CLASSES True to begin with its weights, class by class."
    )


@pytest.mark.parametrize(
    ("key", "before"),
    [
        ("MODEL.META_ARCHITECTURE", "LongTailRetinaNet"),
        ("MODEL.ROI_BOX_HEAD.PREDICTOR", "BAGSPredictor"),
        ("MODEL.CLASSIFIER.LOSS", "ldam"),
    ],
)
def test_another_model_is_not_resumed(cfg, key, before):
    now = cfg
    for part in key.split("."):
        now = now[part]
    assert now != before
    description = description_of(NAMES, **{key.replace(".", "__"): before})
    with pytest.raises(UserError, match=f"x.pth was trained with {key} {before}, and the config says {now}; set it"):
        compatibility.check_resumable("x.pth", description, cfg)


def test_checkpoints_that_say_little_are_resumed(cfg):
    for description in ({}, {"config": ""}, {"config": "MODEL: {}"}, description_of(NAMES)):
        compatibility.check_resumable("x.pth", description, cfg)


def test_optimizers():
    layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
    both = [parameter for layer in layers for parameter in layer.parameters()]
    sgd, adam = torch.optim.SGD(both, lr=1), torch.optim.AdamW(both, lr=1)
    compatibility.check_optimizer(sgd.state_dict(), torch.optim.SGD(both, lr=3, momentum=0.9))
    compatibility.check_optimizer(adam.state_dict(), torch.optim.Adam(both, lr=3))
    with pytest.raises(UserError, match="optimizer is SGD, this run's an Adam-like one; set it back"):
        compatibility.check_optimizer(sgd.state_dict(), adam)
    with pytest.raises(UserError, match="optimizer is an Adam-like one, this run's SGD; set it back"):
        compatibility.check_optimizer(adam.state_dict(), sgd)
    with pytest.raises(UserError, match=r"4 tensors in 1 groups, this run's 2 in 1; set SOLVER\.TRAINABLE"):
        compatibility.check_optimizer(sgd.state_dict(), torch.optim.SGD(layers[0].parameters(), lr=1))
    parted = torch.optim.SGD([{"params": layer.parameters()} for layer in layers], lr=1)
    with pytest.raises(UserError, match="4 tensors in 1 groups, this run's 4 in 2"):
        compatibility.check_optimizer(sgd.state_dict(), parted)


def test_statistics_of_losses_are_known_by_their_module():
    model = nn.Sequential(nn.BatchNorm1d(2), EqualizationLossV2(num_classes=3))
    names = compatibility.loss_state_names(model)
    assert names
    assert all(name.startswith("1.") for name in names)
    assert names | {name for name in model.state_dict() if name.startswith("0.")} == set(model.state_dict())
    assert compatibility.loss_state_names(model[1]) == set(model[1].state_dict())


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([1, 2], "hold a list in the place of weights by their names"),
        ({"a": torch.ones(1), "epoch": 3}, "'epoch' in them is a int, no tensor; check MODEL.WEIGHTS"),
        ({"meta": {}, "state_dict": {"a": torch.ones(1)}}, "hold a state_dict, as mmdetection's files and many others"),
        ({"net": nn.Linear(1, 1)}, "hold a net, as .*convert_checkpoint.py --source mmdet --weights x.pth"),
        ({"state_dict": {}}, "'state_dict' in them is a dict, no tensor"),
        ({"state_dict": {"a": 1, "b": torch.ones(1)}}, "'state_dict' in them is a dict, no tensor"),
    ],
)
def test_what_is_no_checkpoint_of_detectron2(weights, sentence):
    with pytest.raises(UserError, match=f"^Weights x.pth .*{sentence}"):
        compatibility.check_form("x.pth", weights)


def test_weights_of_detectron2():
    compatibility.check_form("x.pth", {"a": torch.ones(1), "b": np.ones(2), "c": np.float32(3)})
    compatibility.check_form("x.pth", {})
