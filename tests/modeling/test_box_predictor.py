"""The predictor against Detectron2's own, and the building of losses from configs."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from eql_d2.data.category_counts import dataset_counts
from eql_d2.errors import UserError
from eql_d2.modeling import build_box_predictor
from eql_d2.modeling.box_predictor import BOX_PREDICTOR_REGISTRY

FEATURES = ShapeSpec(channels=8)


def make_proposals(num_classes: int, sizes=(5, 3)) -> list[Instances]:
    generator = torch.Generator().manual_seed(0)
    proposals = []
    for size in sizes:
        corner = torch.rand(size, 2, generator=generator) * 40
        boxes = Boxes(torch.cat([corner, corner + 4 + torch.rand(size, 2, generator=generator) * 20], dim=1))
        instances = Instances((64, 64))
        instances.proposal_boxes = boxes
        instances.gt_boxes = Boxes(boxes.tensor + 1)
        instances.gt_classes = torch.randint(0, num_classes + 1, (size,), generator=generator)
        proposals.append(instances)
    return proposals


@pytest.fixture
def proposals():
    return make_proposals(num_classes=6)


def test_softmax_equals_detectron2(tiny_cfg, proposals):
    """The same weights give the same losses, gradients and detections as Detectron2's predictor."""
    tiny_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = "SoftmaxPredictor"
    ours = build_box_predictor(tiny_cfg, FEATURES)
    theirs = FastRCNNOutputLayers(tiny_cfg, FEATURES)
    ours.load_state_dict(theirs.state_dict())
    features = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    with EventStorage():
        our_losses = ours.losses(ours(features), proposals)
        their_losses = theirs.losses(theirs(features), proposals)
    assert set(our_losses) == set(their_losses)
    for name, value in their_losses.items():
        torch.testing.assert_close(our_losses[name], value)
    sum(our_losses.values()).backward()
    sum(their_losses.values()).backward()
    torch.testing.assert_close(ours.cls_score.weight.grad, theirs.cls_score.weight.grad)
    (our_result, *_), _ = ours.inference(ours(features), proposals)
    (their_result, *_), _ = theirs.inference(theirs(features), proposals)
    assert len(our_result) > 0
    torch.testing.assert_close(our_result.scores, their_result.scores)
    torch.testing.assert_close(our_result.pred_boxes.tensor, their_result.pred_boxes.tensor)


@pytest.mark.parametrize("name", [name for name, _ in BOX_PREDICTOR_REGISTRY])
def test_every_predictor_trains_and_predicts(tiny_cfg, proposals, name):
    tiny_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = name
    predictor = build_box_predictor(tiny_cfg, FEATURES)
    with EventStorage(start_iter=19) as storage:
        losses = predictor.losses(predictor(torch.randn(8, 8)), proposals)
    assert "box_head/foreground_class_accuracy" in storage.latest()
    assert "loss_box_reg" in losses
    sum(losses.values()).backward()
    assert predictor.cls_score.weight.grad.abs().sum() > 0
    scores = predictor.predict_probs(predictor(torch.randn(8, 8)), proposals)
    assert [s.shape for s in scores] == [(5, 7), (3, 7)]


def test_eql_reads_the_counts_of_the_training_data(tiny_cfg):
    predictor = build_box_predictor(tiny_cfg, FEATURES)
    counts = dataset_counts(("tiny_train",))
    is_tail = torch.tensor([letter != "f" for letter in counts.frequency_groups])
    assert 0 < is_tail.sum() < 6
    assert torch.equal(predictor.loss.tail_weight.bool(), is_tail)


def test_initial_scores_are_the_prior(tiny_cfg):
    tiny_cfg.MODEL.LONG_TAIL.PRIOR_PROB = 0.02
    predictor = build_box_predictor(tiny_cfg, FEATURES)
    logits, _ = predictor(torch.zeros(1, 8))
    torch.testing.assert_close(predictor.loss.scores(logits)[0, :6], torch.full((6,), 0.02))


@pytest.mark.parametrize("key", ["", "NORMED_CLASSIFIER", "SCALED_CLASSIFIER"])
def test_initial_weights_are_those_of_detectron2(tiny_cfg, key):
    """A normal distribution of standard deviation 0.01, also where the classifier is of another kind."""
    if key:
        tiny_cfg.MODEL.ROI_BOX_HEAD[key] = True
    weight = build_box_predictor(tiny_cfg, ShapeSpec(channels=4000)).cls_score.weight
    assert weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert weight.mean().item() == pytest.approx(0, abs=0.001)
    assert weight.abs().max() > 0.03  # a uniform distribution of this deviation ends at 0.017


def test_the_logged_accuracy_is_among_foreground_classes(tiny_cfg):
    """... of foreground RoIs, whatever background gets, and every twentieth iteration."""
    tiny_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = "SoftmaxPredictor"
    predictor = build_box_predictor(tiny_cfg, FEATURES)
    gt_classes = torch.tensor([0, 1, 2, 3, 6, 6])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 5, 0, 1]), 7).float()
    logits[:, 6] = 9
    with EventStorage(start_iter=19) as storage:
        predictor.log_accuracy(logits, gt_classes)
        assert storage.latest()["box_head/foreground_class_accuracy"] == (0.75, 19)
    with EventStorage(start_iter=39) as storage:
        predictor.log_accuracy(logits[4:], gt_classes[4:])  # no foreground
        assert storage.latest()["box_head/foreground_class_accuracy"] == (0, 39)
    for start in (0, 18, 20):
        with EventStorage(start_iter=start) as storage:
            predictor.log_accuracy(logits, gt_classes)
            assert not storage.latest()


def test_loss_weight_of_box_regression(tiny_cfg, proposals):
    features = torch.randn(8, 8)
    predictor = build_box_predictor(tiny_cfg, FEATURES)
    with EventStorage():
        once = predictor.losses(predictor(features), proposals)["loss_box_reg"]
        predictor.loss_weight = {"loss_box_reg": 3.0}
        thrice = predictor.losses(predictor(features), proposals)["loss_box_reg"]
    torch.testing.assert_close(thrice, 3 * once)


def test_batch_without_proposals(tiny_cfg):
    predictor = build_box_predictor(tiny_cfg, FEATURES)
    with EventStorage():
        losses = predictor.losses(predictor(torch.zeros(0, 8)), make_proposals(6, sizes=(0,)))
    sum(losses.values()).backward()
    assert sum(losses.values()).item() == 0


def test_unknown_predictor_is_named(tiny_cfg):
    tiny_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = "EQL"
    with pytest.raises(UserError, match=r"PREDICTOR is 'EQL'; it must be one of .*EQLPredictor, .*SoftmaxPredictor"):
        build_box_predictor(tiny_cfg, FEATURES)


def test_lambda_out_of_range_is_named(tiny_cfg):
    tiny_cfg.MODEL.LONG_TAIL.EQL.LAMBDA = 1.5
    with pytest.raises(UserError, match=r"MODEL.LONG_TAIL.EQL: lambda_ is 1.5; it must lie between 0 and 1"):
        build_box_predictor(tiny_cfg, FEATURES)


def test_num_classes_that_disagrees_with_the_counts_is_named(tiny_cfg):
    tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 7
    with pytest.raises(UserError, match=r"NUM_CLASSES is 7, but DATASETS.TRAIN \(tiny_train\) has 6 classes"):
        build_box_predictor(tiny_cfg, FEATURES)
