"""FCBL against a plain loop over several steps."""

import math

import pytest
import torch

from eql_d2.losses import ForegroundBalanceLoss, SigmoidCrossEntropy
from tests.losses.loops import binary, make_batch, sigmoid, softmax

K = 4


def fcbl_by_loop(steps, alpha, threshold, reweight):
    sums, rows_of = [[0.0] * K for _ in range(K)], [0] * K
    losses = []
    for logits, gt_classes in steps:
        mean = [[max(sums[i][j] / max(rows_of[i], 1), 1e-3) for j in range(K)] for i in range(K)]
        rows, classes, total = logits.tolist(), gt_classes.tolist(), 0.0
        for row, y in zip(rows, classes, strict=True):
            scores = [sigmoid(z) * (1 - sigmoid(row[K])) for z in row[:K]] + [sigmoid(row[K])]
            for j, z in enumerate(row):
                margin = alpha * math.log(mean[y][j] / mean[j][y]) if y < K and j < K else 0.0
                counts = not reweight or y == K or j == K or scores[j] >= min(scores[y], threshold)
                total += counts * binary(z + margin, float(j == y))
        losses.append(total / len(rows))
        for row, y in zip(rows, classes, strict=True):
            if y < K:
                sums[y] = [a + p for a, p in zip(sums[y], softmax(row[:K]), strict=True)]
                rows_of[y] += 1
    return losses, sums, rows_of


@pytest.mark.parametrize("reweight", [True, False])
def test_equals_the_loop(reweight):
    steps = [make_batch(K + 1, K, seed) for seed in range(4)]
    loss = ForegroundBalanceLoss(K, alpha=0.6, threshold=0.55, reweight=reweight).double()
    losses, sums, rows_of = fcbl_by_loop(steps, 0.6, 0.55, reweight)
    for (logits, gt_classes), expected in zip(steps, losses, strict=True):
        assert loss(logits, gt_classes)["loss_cls"].item() == pytest.approx(expected, rel=1e-11)
    torch.testing.assert_close(loss.confusion, torch.tensor(sums, dtype=torch.float64))
    assert loss.class_rows.tolist() == rows_of


def test_the_first_step_without_weights_is_binary_cross_entropy():
    logits, gt_classes = make_batch(K + 1, K)
    ours = ForegroundBalanceLoss(K, reweight=False)(logits, gt_classes)["loss_cls"]
    torch.testing.assert_close(ours, SigmoidCrossEntropy(K + 1)(logits, gt_classes)["loss_cls"])


def test_margins_are_antisymmetric_and_of_the_confused():
    """Class 0 is taken for class 1, class 1 never for class 0: class 1's logit leads where the RoI is of class 0."""
    loss = ForegroundBalanceLoss(2, alpha=1.0)
    loss(torch.tensor([[1.0, 1.0, -3.0], [-30.0, 30.0, -3.0]]), torch.tensor([0, 1]))
    margins = loss.margins()
    torch.testing.assert_close(margins, -margins.T)
    assert margins[0, 1].item() == pytest.approx(math.log(0.5 / 1e-3))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="alpha is -1; it must not be negative"):
        ForegroundBalanceLoss(2, alpha=-1)
    with pytest.raises(ValueError, match="threshold is 1; it must lie strictly between 0 and 1"):
        ForegroundBalanceLoss(2, threshold=1)
