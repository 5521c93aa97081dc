"""ECM against a plain loop, a value by hand, and what follows from its formula."""

import math

import pytest
import torch

from eql_d2.losses import EffectiveClassMarginLoss
from tests.losses.loops import make_batch

COUNTS = [10, 3, 1000, 1, 0]
K = len(COUNTS)


def ecm_by_loop(logits, gt_classes, ratio):
    """The paper's form: probabilities of e^(z + m+) against e^(-z + m-), margins by fourth roots."""
    counts = [max(n, 1) for n in COUNTS]
    counts.append(ratio * sum(counts))
    n, total = sum(counts), 0.0
    for row, y in zip(logits.tolist(), gt_classes.tolist(), strict=True):
        for c, z in enumerate(row):
            p, q = counts[c] ** 0.25, (n - counts[c]) ** 0.25
            up, down = math.exp(z + math.log((p + q) / q)), math.exp(-z + math.log((p + q) / p))
            odds = (n - counts[c]) / counts[c]
            weight = odds * math.log((1 + odds) / odds)
            total -= weight * math.log((up if c == y else down) / (up + down))
    return total / len(logits)


@pytest.mark.parametrize("ratio", [6.3313, 0.5])
def test_equals_the_loop(ratio):
    logits, gt_classes = make_batch(K + 1, K)
    ours = EffectiveClassMarginLoss(K, COUNTS, ratio)(logits, gt_classes)["loss_cls"].item()
    assert ours == pytest.approx(ecm_by_loop(logits, gt_classes, ratio), rel=1e-12)


def test_a_value_by_hand():
    """One class of 1 instance and as much background: no margin, x = 2 z, and both weigh log 2."""
    loss = EffectiveClassMarginLoss(1, [1], background_ratio=1.0)
    value = loss(torch.tensor([[math.log(3), 0.0]], dtype=torch.float64), torch.tensor([0]))["loss_cls"].item()
    assert value == pytest.approx(math.log(2) * (math.log(10 / 9) + math.log(2)), rel=1e-12)


def test_weights_of_classes_are_near_1_and_background_s_is_not():
    loss = EffectiveClassMarginLoss(K, COUNTS)
    assert loss.class_weights[:-1].tolist() == pytest.approx([1] * 5, abs=0.1)
    assert loss.class_weights[-1].item() == pytest.approx(0.3147, abs=1e-4)
    # Exact for the rarest as well, where log((1 + a) / a) in float32 is off by percents.
    rare = EffectiveClassMarginLoss(2, [1, 1_300_000])
    assert rare.class_weights[0].item() == pytest.approx(1, abs=1e-6)


def test_the_score_is_without_margins():
    loss = EffectiveClassMarginLoss(2, [1, 1000])
    assert loss.scores(torch.zeros(1, 3)).tolist() == [[0.25, 0.25, 0.5]]
    assert loss.initial_bias().tolist() == [0, 0, 0]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="background_ratio is 0; it must be above 0"):
        EffectiveClassMarginLoss(2, [1, 2], 0)
    with pytest.raises(ValueError, match=r"instance_counts has shape \(1,\)"):
        EffectiveClassMarginLoss(2, [1])
