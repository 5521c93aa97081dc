"""Balanced softmax's sigmoid form against a plain loop."""

import math

import pytest
import torch

from eql_d2.losses import BalancedSigmoidLoss, SigmoidCrossEntropy
from tests.losses.loops import binary, make_batch

FREQUENCIES = [0.5, 0.9, 0.02, 0.0001]
K = len(FREQUENCIES)


def test_equals_the_loop():
    logits, gt_classes = make_batch(K, K)
    total = 0.0
    for row, y in zip(logits.tolist(), gt_classes.tolist(), strict=True):
        for z, f, j in zip(row, FREQUENCIES, range(K), strict=True):
            total += binary(z - math.log((1 - f) / f) * (y < K), float(j == y))
    ours = BalancedSigmoidLoss(K, FREQUENCIES)(logits, gt_classes)["loss_cls"].item()
    assert ours == pytest.approx(total / len(logits), rel=1e-12)


def test_background_alone_and_even_frequencies_are_sigmoid_cross_entropy():
    logits, gt_classes = make_batch(K, K)
    background = torch.full_like(gt_classes, K)
    plain = SigmoidCrossEntropy(K)
    ours = BalancedSigmoidLoss(K, FREQUENCIES)(logits, background)["loss_cls"]
    torch.testing.assert_close(ours, plain(logits, background)["loss_cls"])
    even = BalancedSigmoidLoss(K, [0.5] * K)(logits, gt_classes)["loss_cls"]
    torch.testing.assert_close(even, plain(logits, gt_classes)["loss_cls"])


def test_classes_in_no_image_and_in_all():
    shifts = BalancedSigmoidLoss(3, [0.0, 0.2, 1.0]).shifts
    assert shifts.tolist() == pytest.approx([math.log(0.25), math.log(0.25), math.log(999)])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="image_frequencies must lie between 0 and 1; divide image counts"):
        BalancedSigmoidLoss(2, [3, 5])
    with pytest.raises(ValueError, match="image_frequencies are 0 for all classes"):
        BalancedSigmoidLoss(2, [0, 0])
