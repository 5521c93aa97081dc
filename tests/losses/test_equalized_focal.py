"""EFL and EQFL against plain loops over several steps, with gradients by differences of the loops."""

import math
from functools import partial

import pytest
import torch

from eql_d2.losses import EqualizedFocalLoss, EqualizedQualityFocalLoss, FocalLoss
from tests.losses.loops import binary, make_batch, numeric_gradient, sigmoid

K = 4
QUALITY = [0.9, 0.1, 0.55, 0.7, 0.0, 0.8, 1.0, 0.2, 0.65, 0.4, 0.5, 0.3]


def efl_by_loop(rows, classes, focusing, gamma, alpha):
    total = 0.0
    for row, y in zip(rows, classes, strict=True):
        for j, z in enumerate(row):
            truth = sigmoid(z if j == y else -z)
            weight = 1.0 if alpha < 0 else alpha if j == y else 1 - alpha
            total += weight * focusing[j] / gamma * (1 - truth) ** focusing[j] * -math.log(truth)
    return total


def eqfl_by_loop(rows, classes, focusing, gamma, quality):
    total = 0.0
    for row, y, u in zip(rows, classes, quality, strict=True):
        for j, z in enumerate(row):
            target = u if j == y else 0.0
            total += focusing[j] / gamma * binary(z, target) * abs(target - sigmoid(z)) ** focusing[j]
    return total


def by_fifths(by_loop, classes, focusing, rows):
    return by_loop(rows, classes, focusing) / 5


def check_steps(loss, labels, by_loop, scale):
    """Loss, gradient and state of four steps; the gradients that are collected are those of the loop."""
    positive, negative, ratio = [0.0] * K, [0.0] * K, [1.0] * K
    for seed in range(4):
        logits, gt_classes = make_batch(K, K, seed)
        focusing = [loss.gamma + scale * (1 - r) for r in ratio]

        divided = partial(by_fifths, by_loop, gt_classes.tolist(), focusing)

        leaf = logits.clone().requires_grad_()
        value = loss(leaf, gt_classes, normalizer=5.0, **labels)["loss_cls"]
        value.backward()
        assert value.item() == pytest.approx(divided(logits.tolist()), rel=1e-8)
        gradient = numeric_gradient(divided, logits)
        torch.testing.assert_close(leaf.grad, gradient, rtol=1e-6, atol=1e-8)
        for i, y in enumerate(gt_classes.tolist()):
            for j in range(K):
                (positive if j == y else negative)[j] += abs(gradient[i, j].item())
        ratio = [min(p / n, 1.0) for p, n in zip(positive, negative, strict=True)]
        assert loss.pos_neg_ratio.tolist() == pytest.approx(ratio, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("gamma", "alpha", "scale"), [(2.0, 0.25, 8.0), (1.5, -1.0, 3.0)])
def test_efl_equals_the_loop(gamma, alpha, scale):
    loss = EqualizedFocalLoss(K, gamma, alpha, scale).double()
    check_steps(loss, {}, lambda rows, classes, focusing: efl_by_loop(rows, classes, focusing, gamma, alpha), scale)


def test_eqfl_equals_the_loop():
    loss = EqualizedQualityFocalLoss(K).double()
    labels = {"quality": torch.tensor(QUALITY, dtype=torch.float64)}
    check_steps(loss, labels, lambda rows, classes, focusing: eqfl_by_loop(rows, classes, focusing, 2.0, QUALITY), 4.0)


def test_the_first_step_is_the_focal_loss_and_without_scale_every_step():
    loss, plain = EqualizedFocalLoss(K, scale=0.0), FocalLoss(K)
    for seed in range(2):
        logits, gt_classes = make_batch(K, K, seed)
        expected = plain(logits, gt_classes)["loss_cls"]
        torch.testing.assert_close(loss(logits, gt_classes)["loss_cls"], expected)
        torch.testing.assert_close(EqualizedFocalLoss(K)(logits, gt_classes)["loss_cls"], expected)


def test_the_normalizer_may_be_a_tensor_and_none_divides_by_the_rows():
    logits, gt_classes = make_batch(K, K)
    by_number, by_tensor, by_rows = (
        EqualizedFocalLoss(K)(logits, gt_classes, normalizer=n)["loss_cls"] for n in (3.0, torch.tensor(3.0), None)
    )
    assert by_tensor == by_number
    torch.testing.assert_close(by_rows * 12, by_number * 3)


def test_without_quality_the_target_is_1():
    logits, gt_classes = make_batch(K, K)
    ours, plain = EqualizedQualityFocalLoss(K), EqualizedFocalLoss(K, alpha=-1.0)
    torch.testing.assert_close(ours(logits, gt_classes)["loss_cls"], plain(logits, gt_classes)["loss_cls"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"gamma": 0}, "gamma is 0; it must be above 0"),
        ({"alpha": 2}, "alpha is 2; it must be at most 1"),
        ({"scale": -1}, "scale is -1; it must not be negative"),
    ],
)
def test_bad_arguments_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        EqualizedFocalLoss(K, **arguments)
    with pytest.raises(ValueError, match=r"gamma is 0\.5; it must be at least 1"):
        EqualizedQualityFocalLoss(K, gamma=0.5)
