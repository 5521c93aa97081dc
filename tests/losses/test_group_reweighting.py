"""GRW against a plain loop, and as plain cross-entropy."""

import math

import pytest
import torch
import torch.nn.functional as F

from eql_d2.losses import GroupReweightedCrossEntropy
from tests.losses.loops import make_batch, softmax

COUNTS = [1000, 10, 1, 50]
K = len(COUNTS)


@pytest.mark.parametrize("rho", [0.8, 0.3])
def test_equals_the_loop(rho):
    raw = [(n / sum(COUNTS)) ** -rho for n in COUNTS]
    weights = [*(K * v / sum(raw) for v in raw), 1.0]
    logits, gt_classes = make_batch(K + 1, K)
    total = norm = 0.0
    for row, y in zip(logits.tolist(), gt_classes.tolist(), strict=True):
        total -= weights[y] * math.log(softmax(row)[y])
        norm += weights[y]
    ours = GroupReweightedCrossEntropy(K, COUNTS, rho)(logits, gt_classes)["loss_cls"].item()
    assert ours == pytest.approx(total / norm, rel=1e-12)


def test_rho_0_and_one_class_alone_are_plain_cross_entropy():
    logits, gt_classes = make_batch(K + 1, K)
    ours = GroupReweightedCrossEntropy(K, COUNTS, 0)(logits, gt_classes)["loss_cls"]
    torch.testing.assert_close(ours, F.cross_entropy(logits, gt_classes))
    rare = torch.full_like(gt_classes, 2)  # divided by the sum of the weights, not by the number of RoIs
    torch.testing.assert_close(
        GroupReweightedCrossEntropy(K, COUNTS)(logits, rare)["loss_cls"], F.cross_entropy(logits, rare)
    )


def test_a_class_without_instances_changes_no_other_weight():
    without, ours = (GroupReweightedCrossEntropy(len(n), n).class_weights for n in ([4, 2], [4, 2, 0]))
    torch.testing.assert_close(ours[:2], without[:2])
    assert ours[2] > ours[1]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="rho is -1; it must not be negative"):
        GroupReweightedCrossEntropy(2, [1, 2], -1)
