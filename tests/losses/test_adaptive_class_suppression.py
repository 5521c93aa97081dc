"""ACSL against a plain loop, and its random choice against what it promises."""

import pytest
import torch

from eql_d2.losses import AdaptiveClassSuppressionLoss, SigmoidCrossEntropy
from tests.losses.loops import binary, make_batch, sigmoid

COUNTS = [500, 10, 100, 101, 0, 11]
GROUPS = "frcfrc"
K = len(COUNTS)


def acsl_by_loop(logits, gt_classes, threshold, of_common, of_rare):
    total = 0.0
    for i, (row, y) in enumerate(zip(logits.tolist(), gt_classes.tolist(), strict=True)):
        for j, z in enumerate(row):
            if y < K:
                counts = j == y or sigmoid(z) >= threshold
            else:
                counts = j == K or {"f": True, "c": of_common[i], "r": of_rare[i]}[GROUPS[j]]
            total += counts * binary(z, float(j == y))
    return total / len(logits)


def test_equals_the_loop():
    loss = AdaptiveClassSuppressionLoss(K, COUNTS, 0.6, 0.5, 0.3)
    logits, gt_classes = make_batch(K + 1, K, rows=30)
    gt_classes[10:] = K
    with torch.random.fork_rng():
        for seed in range(3):
            torch.manual_seed(seed)
            drawn = [of.tolist() for of in loss.choose_background(gt_classes)]
            torch.manual_seed(seed)
            ours = loss(logits, gt_classes)["loss_cls"].item()
            assert ours == pytest.approx(acsl_by_loop(logits, gt_classes, 0.6, *drawn), rel=1e-12)


def test_the_number_drawn_is_exact_and_of_background_alone():
    loss = AdaptiveClassSuppressionLoss(K, COUNTS)
    gt_classes = torch.tensor([0, 1] * 40 + [K] * 250)
    of_common, of_rare = loss.choose_background(gt_classes)
    assert (of_common.sum(), of_rare.sum()) == (25, 2)
    assert not (of_common | of_rare)[:80].any()
    assert loss.choose_background(gt_classes[:170])[1].sum() == 0  # 90 background RoIs are too few


def test_every_background_roi_has_the_same_chance():
    loss, gt_classes = AdaptiveClassSuppressionLoss(K, COUNTS, common_share=0.5), torch.tensor([0] + [K] * 10)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        share = sum(loss.choose_background(gt_classes)[0].double() for _ in range(1000)) / 1000
    assert share[1:].tolist() == pytest.approx([0.5] * 10, abs=4 * 0.5 / 1000**0.5)


def test_evaluation_mode_draws_nothing():
    loss = AdaptiveClassSuppressionLoss(K, COUNTS).eval()
    logits, gt_classes = make_batch(K + 1, K)
    background = torch.full_like(gt_classes, K)
    state = torch.get_rng_state()
    ours = loss(logits, background)["loss_cls"]
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(ours, SigmoidCrossEntropy(K + 1)(logits, background)["loss_cls"])


def test_scores_are_not_damped_by_background():
    loss = AdaptiveClassSuppressionLoss(2, [1, 2])
    assert loss.scores(torch.zeros(1, 3)).tolist() == [[0.5, 0.5, 0.5]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"threshold": 1}, "threshold is 1; it must lie strictly between 0 and 1"),
        ({"common_share": 2}, "common_share is 2; it must lie between 0 and 1"),
        ({"rare_share": -1}, "rare_share is -1; it must lie between 0 and 1"),
    ],
)
def test_bad_arguments_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        AdaptiveClassSuppressionLoss(K, COUNTS, **arguments)
