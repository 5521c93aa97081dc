"""Fine-tuning to other classes: what keeps its weights, and what starts anew."""

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import nn

from eql_d2.config import get_eql_d2_config
from eql_d2.engine.class_transfer import ClassTransfer, known_classes, reordered_classes
from eql_d2.engine.trainer import LongTailTrainer
from eql_d2.errors import UserError
from eql_d2.losses import METHODS
from eql_d2.modeling.predictors import build_box_predictor

OURS = ["unicorn", "Traffic_Light", "person", "dragon"]  # COCO's 10th and 1st class among others
COCO_PLACES = {1: 9, 2: 0}
INPUT = ShapeSpec(channels=8)
PREDICTORS = [method.predictor for method in METHODS.values() if method.predictor]


class Heads(nn.Module):
    """Box predictors and mask heads under the names that detectors give them."""

    def __init__(self, predictor, masks, cascade=False):
        super().__init__()
        self.roi_heads = nn.Module()
        self.roi_heads.box_predictor = nn.ModuleList([predictor, predictor]) if cascade else predictor
        self.roi_heads.mask_head = MaskRCNNConvUpsampleHead(INPUT, num_classes=masks, conv_dims=[8, 8])


@pytest.fixture(scope="module")
def count_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("counts") / "counts.json"
    numbers = [5, 50, 500, 20]
    categories = [
        {"id": i, "name": name, "image_count": number, "instance_count": number}
        for i, (name, number) in enumerate(zip(OURS, numbers, strict=True), start=1)
    ]
    path.write_text(json.dumps({"num_images": 600, "categories": categories}))
    return path


@pytest.fixture
def ours(count_file):
    """A model of this project of four classes."""

    def build(predictor, cascade=False, **changes):
        cfg = get_eql_d2_config()
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
        cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS = str(count_file)
        cfg.MODEL.LONG_TAIL.BAGS.BIN_EDGES = (10, 100)
        cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = predictor
        for key, value in changes.items():
            cfg.MODEL.ROI_BOX_HEAD[key] = value
        return Heads(build_box_predictor(cfg, INPUT), 4, cascade)

    return build


@pytest.fixture(scope="module")
def coco():
    """Weights under Detectron2's names of 80 classes, each row filled with the number of its class."""
    predictor = FastRCNNOutputLayers(INPUT, box2box_transform=Box2BoxTransform((1, 1, 1, 1)), num_classes=80)
    state = Heads(predictor, 80).state_dict()
    for name, rows in (("cls_score", 1), ("bbox_pred", 4), ("predictor", 1)):
        for part in ("weight", "bias"):
            key = next(key for key in state if key.endswith(f".{name}.{part}"))
            values = torch.arange(len(state[key])) // rows
            state[key] = values.float().reshape(-1, *[1] * (state[key].dim() - 1)).expand_as(state[key]).clone()
    return state


def values_of(model, end):
    (name,) = (name for name in model.state_dict() if name.endswith(end))
    return name, model.state_dict()[name]


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_every_predictor_starts_from_coco(ours, coco, predictor, caplog):
    model = ours(predictor)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with caplog.at_level(logging.INFO, "eql_d2.engine.class_transfer"):
        moved = ClassTransfer(None, OURS, "coco.pkl").apply(dict(coco), model)
    columns = model.roi_heads.box_predictor.loss.class_columns.tolist()
    for part in ("weight", "bias"):
        name, own = values_of(model, f"cls_score.{part}")
        new = moved[name]
        for place, row in enumerate(columns):
            if place in COCO_PLACES:
                assert (new[row] == COCO_PLACES[place]).all()
            else:
                assert torch.equal(new[row], before[name][row])
        others = sorted(set(range(len(own))) - set(columns))
        if predictor == "SoftmaxPredictor":
            assert (new[-1] == 80).all()  # background stays background
        elif others and predictor in ("BAGSPredictor", "SeesawPredictor"):
            assert torch.equal(new[others], before[name][others])  # "others" of the groups, objectness
        name, own = values_of(model, f"bbox_pred.{part}")
        rows = moved[name].reshape(4, 4, -1)
        assert (rows[1] == 9).all()
        assert (rows[2] == 0).all()
        assert torch.equal(rows[[0, 3]], before[name].reshape(4, 4, -1)[[0, 3]])
        name, own = values_of(model, f"mask_head.predictor.{part}")
        assert (moved[name][1] == 9).all()
        assert torch.equal(moved[name][3], before[name][3])
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "2 classes keep their weights (coco.pkl): Traffic_Light, person",
        "2 classes start anew (coco.pkl): unicorn, dragon",
    ]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # not changed in place


def test_each_stage_of_a_cascade(ours, coco):
    model = ours("EQLv2Predictor", cascade=True)
    weights = {
        name.replace("box_predictor", f"box_predictor.{stage}"): value
        for name, value in coco.items()
        for stage in (0, 1)
    }
    moved = ClassTransfer(None, OURS, "coco.pkl").apply(weights, model)
    for stage in (0, 1):
        assert (moved[f"roi_heads.box_predictor.{stage}.cls_score.weight"][1] == 9).all()


def test_one_box_or_mask_for_all_classes_stays_as_it_is(ours, coco):
    model = ours("SoftmaxPredictor", CLS_AGNOSTIC_BBOX_REG=True)
    weights = dict(coco)
    box = next(name for name in weights if name.endswith("bbox_pred.weight"))
    weights[box] = torch.full((4, 8), 7.0)
    assert ClassTransfer(None, OURS, "coco.pkl").apply(weights, model)[box] is weights[box]
    # ... also where four classes have as many rows as one box.
    transfer = ClassTransfer(["a"], ["b"], "one.pth")
    one = nn.Module()
    one.bbox_pred = nn.Linear(8, 4)
    assert torch.equal(transfer.apply({"bbox_pred.weight": weights[box]}, one)["bbox_pred.weight"], weights[box])


def test_bags_groups_as_a_start_are_told(ours, caplog):
    source, model = ours("BAGSPredictor"), ours("SoftmaxPredictor")
    with caplog.at_level(logging.WARNING, "eql_d2.engine.class_transfer"):
        moved = ClassTransfer(OURS, OURS, "bags.pth", first_rows=False).apply(source.state_dict(), model)
    name, own = values_of(model, "cls_score.weight")
    assert torch.equal(moved[name], own)
    (told,) = (record.getMessage() for record in caplog.records)
    assert "The classifier starts anew for all classes, as that of bags.pth has groups" in told


def test_anchors_of_a_dense_head_have_the_classes_one_after_the_other():
    model = nn.Module()
    model.head = nn.Module()
    model.head.cls_score = nn.Conv2d(1, 3 * 4, 1)
    before = model.head.cls_score.bias.detach().clone()
    numbers = torch.arange(3 * 80.0)  # anchor * 80 + class
    weights = {"head.cls_score.weight": numbers.reshape(-1, 1, 1, 1), "head.cls_score.bias": numbers.numpy()}
    moved = ClassTransfer(None, OURS, "retinanet.pkl").apply(weights, model)
    expected = before.reshape(3, 4).clone()
    for anchor in range(3):
        expected[anchor, 1], expected[anchor, 2] = anchor * 80 + 9, anchor * 80
    assert torch.equal(moved["head.cls_score.bias"].reshape(3, 4), expected)
    assert moved["head.cls_score.weight"].reshape(3, 4)[2, 1] == 2 * 80 + 9


def test_a_classifier_of_images_has_no_module_around_it():
    model = nn.Module()
    model.cls_score = nn.Linear(2, 2)
    weights = {"cls_score.weight": np.array([[1.0, 1], [2, 2], [3, 3]], np.float32)}
    moved = ClassTransfer(["a", "b", "c"], ["c", "a"], "x.pth").apply(weights, model)
    assert moved["cls_score.weight"].tolist() == [[3, 3], [1, 1]]


def test_features_of_another_width_start_anew(caplog):
    model = nn.Module()
    model.cls_score = nn.Linear(2, 2)
    with caplog.at_level(logging.WARNING, "eql_d2.engine.class_transfer"):
        moved = ClassTransfer(["a", "b"], ["b", "a"], "x.pth").apply({"cls_score.weight": torch.ones(2, 5)}, model)
    assert torch.equal(moved["cls_score.weight"], model.cls_score.weight)
    assert "as that of x.pth has another form" in caplog.text


@pytest.mark.parametrize(
    ("rows", "first"), [(1203, "aerosol_can"), (1204, "aerosol_can"), (1231, "acorn"), (81, "person")]
)
def test_weights_without_names_are_known_by_their_number(rows, first):
    transfer = ClassTransfer(None, [first], "zoo.pkl")
    model = nn.Module()
    model.cls_score = nn.Linear(1, 1)
    weights = {"cls_score.weight": torch.arange(float(rows))[:, None] + 5}
    assert transfer.apply(weights, model)["cls_score.weight"].item() == 5
    assert [len(names) for names in known_classes()] == [80, 1230, 1203]


def test_weights_of_unknown_classes_are_refused():
    model = nn.Module()
    model.cls_score = nn.Linear(1, 1)
    sentence = (
        r"WEIGHTS_MATCH_CLASSES is True, but x\.pth carries no class names, and its classifier of 7 rows is none of"
    )
    with pytest.raises(UserError, match=sentence):
        ClassTransfer(None, ["a"], "x.pth").apply({"cls_score.weight": torch.ones(7, 1)}, model)


@pytest.fixture
def other_order(tiny_cfg, tiny_checkpoint, tmp_path):
    """A checkpoint of the tiny set's classes in the opposite order; its weights belong to them."""
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["classes"]["categories"] = content["classes"]["categories"][::-1]
    for name in ("weight", "bias"):
        key = f"roi_heads.box_predictor.cls_score.{name}"
        content["model"][key] = content["model"][key].flip(0)
        key = f"roi_heads.box_predictor.bbox_pred.{name}"
        value = content["model"][key]
        content["model"][key] = value.reshape(6, 4, -1).flip(0).reshape(value.shape)
    path = tmp_path / "other_order.pth"
    torch.save(content, path)
    return path


def test_the_same_classes_in_another_order(tiny_cfg, other_order, tiny_checkpoint):
    tiny_cfg.MODEL.WEIGHTS = str(other_order)
    with pytest.raises(UserError, match=r"in another order, into which MODEL\.WEIGHTS_MATCH_CLASSES True puts"):
        LongTailTrainer.build_trained_model(tiny_cfg)
    tiny_cfg.MODEL.WEIGHTS_MATCH_CLASSES = True
    state = LongTailTrainer.build_trained_model(tiny_cfg).state_dict()
    expected = torch.load(tiny_checkpoint, weights_only=True)["model"]
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    tiny_cfg.MODEL.WEIGHTS = str(tiny_checkpoint)
    assert reordered_classes(str(tiny_checkpoint), tiny_cfg) is None


def test_other_classes_or_groups_are_evaluated_in_no_order(tiny_cfg, other_order):
    tiny_cfg.MODEL.WEIGHTS_MATCH_CLASSES = True
    content = torch.load(other_order, weights_only=True)
    config = content["config"]
    content["config"] = config.replace("EQLPredictor", "BAGSPredictor")
    torch.save(content, other_order)
    with pytest.raises(UserError, match="rows of BAGS' groups cannot be put in another order"):
        reordered_classes(str(other_order), tiny_cfg)
    content["config"] = config
    content["classes"]["categories"][0]["name"] = "dragon"
    torch.save(content, other_order)
    with pytest.raises(UserError, match="evaluate them on a dataset of their own classes"):
        reordered_classes(str(other_order), tiny_cfg)


def test_a_run_that_starts_from_other_classes(tiny_cfg, other_order):
    """The whole way: the trainer takes the rows by names, and trains."""
    tiny_cfg.MODEL.WEIGHTS = str(other_order)
    tiny_cfg.MODEL.WEIGHTS_MATCH_CLASSES = True
    tiny_cfg.SOLVER.MAX_ITER = 1
    trainer = LongTailTrainer(tiny_cfg)
    trainer.resume_or_load(resume=False)
    content = torch.load(other_order, weights_only=True)["model"]
    key = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(trainer.model.state_dict()[key], content[key].flip(0))
    trainer.train()


def test_training_from_as_many_other_classes_is_told(tiny_cfg, other_order, tiny_checkpoint, caplog):
    for weights, told in ((other_order, 1), (tiny_checkpoint, 0)):
        tiny_cfg.MODEL.WEIGHTS = str(weights)
        with caplog.at_level(logging.WARNING, "eql_d2.engine.starting"):
            LongTailTrainer(tiny_cfg).resume_or_load(resume=False)
        messages = [record.getMessage() for record in caplog.records if "by their places" in record.getMessage()]
        assert len(messages) == told
        assert all(message.startswith(f"MODEL.WEIGHTS {weights} has ") for message in messages)
        caplog.clear()
