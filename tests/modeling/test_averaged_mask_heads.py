"""AveragedMaskHeads: a head a Cascade stage, the mean of their probabilities."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import build_mask_head
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

K, SIZE = 3, 4


@pytest.fixture(params=["MaskRCNNConvUpsampleHead", "NormedMaskRCNNConvUpsampleHead"])
def head(request, tiny_cfg):
    torch.manual_seed(0)
    tiny_cfg.MODEL.ROI_MASK_HEAD.NAME, tiny_cfg.MODEL.ROI_MASK_HEAD.AVERAGED = "AveragedMaskHeads", request.param
    tiny_cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = False
    tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES = K
    head = build_mask_head(tiny_cfg, ShapeSpec(channels=5, width=SIZE, height=SIZE))
    assert [type(part).__name__ for part in head.heads] == [request.param] * 3
    for part in head.heads:
        torch.nn.init.normal_(part.predictor.weight)
    return head


def test_masks_are_the_mean_of_the_heads(head):
    x = torch.randn(2, 5, SIZE, SIZE)
    instances = Instances((9, 9), pred_classes=torch.tensor([2, 0]))
    (result,) = head.eval()(x, [instances])
    for row, klass in enumerate((2, 0)):
        probabilities = [part.layers(x)[row, klass].sigmoid() for part in head.heads]
        assert torch.allclose(result.pred_masks[row, 0], sum(probabilities) / 3, atol=1e-6)
    assert not torch.allclose(probabilities[0], probabilities[1], atol=1e-3)


def test_certain_masks_stay_finite(head):
    for part in head.heads:
        torch.nn.init.constant_(part.predictor.bias, 1000.0)
    logits = head.eval().layers(torch.randn(1, 5, SIZE, SIZE))
    assert logits.isfinite().all() and (logits.sigmoid() > 0.999).all()


def test_training_reaches_every_head(head):
    x = torch.randn(1, 5, SIZE, SIZE)
    masks = torch.zeros(1, 9, 9, dtype=torch.bool)
    masks[:, 2:6, 2:6] = True
    instances = Instances(
        (9, 9),
        proposal_boxes=Boxes(torch.tensor([[0.0, 0, 9, 9]])),
        gt_classes=torch.tensor([1]),
        gt_masks=BitMasks(masks),
    )
    target = BitMasks(masks).crop_and_resize(torch.tensor([[0.0, 0, 9, 9]]), 2 * SIZE).float()
    expected = [
        torch.nn.functional.binary_cross_entropy_with_logits(part.layers(x)[:, 1], target).item() for part in head.heads
    ]
    head.train()
    with EventStorage():
        losses = head(x, [instances])
    assert losses["loss_mask"].item() == pytest.approx(sum(expected) / 3, rel=1e-5)
    losses["loss_mask"].backward()
    assert all(part.deconv.weight.grad.abs().sum() > 0 for part in head.heads)
