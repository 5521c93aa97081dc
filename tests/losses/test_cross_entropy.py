"""The two baseline losses."""

import math

import pytest
import torch
import torch.nn.functional as F

from eql_d2.losses import SigmoidCrossEntropy, SoftmaxCrossEntropy


def test_softmax_by_hand():
    # Logits (0, ln 2, ln 5) are probabilities 1/8, 2/8, 5/8.
    logits = torch.tensor([[0.0, math.log(2), math.log(5)], [0.0, math.log(2), math.log(5)]])
    loss = SoftmaxCrossEntropy(num_classes=2)
    value = loss(logits, torch.tensor([1, 2]))["loss_cls"]
    assert value.item() == pytest.approx((math.log(8 / 2) + math.log(8 / 5)) / 2)
    torch.testing.assert_close(loss.scores(logits)[0], torch.tensor([0.125, 0.25, 0.625]))


def test_sigmoid_by_hand():
    # Sigmoids 1/2 and 3/4: the foreground RoI is a negative of class 1, the background RoI of both classes.
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    loss = SigmoidCrossEntropy(num_classes=2)
    value = loss(logits, torch.tensor([0, 2]))["loss_cls"]
    assert value.item() == pytest.approx((2 * (math.log(2) + math.log(4))) / 2)
    torch.testing.assert_close(loss.scores(logits)[0], torch.tensor([0.5, 0.75, 0.0]))


def test_sigmoid_sums_over_classes_and_averages_over_rois():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 5, generator=generator)
    gt_classes = torch.tensor([0, 1, 5, 5, 4, 2, 3])
    targets = F.one_hot(gt_classes, 6)[:, :5].float()
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1).mean()
    torch.testing.assert_close(SigmoidCrossEntropy(5)(logits, gt_classes)["loss_cls"], expected)


def test_initial_bias_predicts_the_prior():
    assert torch.sigmoid(SigmoidCrossEntropy(3).initial_bias(0.001)).tolist() == pytest.approx([0.001] * 3)
    assert SoftmaxCrossEntropy(3).initial_bias(0.001).tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="prior_prob is 0"):
        SigmoidCrossEntropy(3).initial_bias(0)
