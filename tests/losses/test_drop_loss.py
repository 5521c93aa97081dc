"""DropLoss against a plain loop, its random choice against its probabilities, and the losses that it reduces to."""

import math

import pytest
import torch

from eql_d2.losses import DropLoss, EqualizationLoss, SigmoidCrossEntropy

FREQUENCIES = [0.3, 0.05, 0.0017, 0.00177, 0.0001, 0.0]
TAIL = [False, False, True, False, True, True]
K = len(FREQUENCIES)
# Eight foreground RoIs, three of them of tail classes.
CLASSES = [0, 1, 2, 3, 4, 0, 3, 4, K, K, K]


def drop_loss_by_loop(logits, gt_classes, kept):
    """The definition, one number at a time; ``kept[i][j]`` is the draw for a background RoI and class."""
    total = 0.0
    for i, (row, y) in enumerate(zip(logits.tolist(), gt_classes.tolist(), strict=True)):
        for j, z in enumerate(row):
            positive = 1.0 if j == y else 0.0
            weight = float(kept[i][j]) if y == K else 1 - TAIL[j] * (1 - positive)
            probability = 1 / (1 + math.exp(-z))
            total -= weight * (positive * math.log(probability) + (1 - positive) * math.log(1 - probability))
    return total / len(logits)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(len(CLASSES), K, generator=generator, dtype=torch.float64) * 2
    return logits, torch.tensor(CLASSES)


def test_equals_the_loop(batch):
    loss = DropLoss(K, FREQUENCIES)
    with torch.random.fork_rng():
        for seed in range(5):
            torch.manual_seed(seed)
            kept = loss.choose_negatives(batch[1])
            torch.manual_seed(seed)
            value = loss(*batch)["loss_cls"]
            assert value.item() == pytest.approx(drop_loss_by_loop(*batch, kept.tolist()), rel=1e-12)


def test_chances_are_the_shares_of_the_foreground():
    loss, repeats = DropLoss(K, FREQUENCIES), 4000
    gt_classes = torch.tensor(CLASSES + [K] * repeats)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        kept = loss.choose_negatives(gt_classes)[len(CLASSES) :].double()
    for j, is_tail in enumerate(TAIL):
        chance = 3 / 8 if is_tail else 1.0
        assert abs(kept[:, j].mean().item() - chance) <= 4 * math.sqrt(chance * (1 - chance) / repeats), j
    # Each RoI and class has a draw of its own.
    tail = kept[:, torch.tensor(TAIL)] - 3 / 8
    correlation = (tail.T @ tail / repeats - torch.eye(3) * 15 / 64).abs().max()
    assert correlation < 4 * 15 / 64 / math.sqrt(repeats)
    assert abs((tail[1:] * tail[:-1]).mean().item()) < 4 * 15 / 64 / math.sqrt(3 * repeats)


def test_foreground_alone_is_the_equalization_loss(batch):
    logits, gt_classes = batch[0][:8], batch[1][:8]
    ours, eql = (loss(K, FREQUENCIES)(logits, gt_classes)["loss_cls"] for loss in (DropLoss, EqualizationLoss))
    torch.testing.assert_close(ours, eql)


def test_foreground_of_tail_classes_keeps_all_background(batch):
    logits, gt_classes = batch[0], torch.tensor([2, 4, 4] + [K] * 8)
    torch.testing.assert_close(
        DropLoss(K, FREQUENCIES)(logits, gt_classes)["loss_cls"],
        EqualizationLoss(K, FREQUENCIES)(logits, gt_classes)["loss_cls"],
    )


def test_foreground_of_frequent_classes_spares_the_tail_altogether(batch):
    logits, gt_classes = batch[0], torch.tensor([0, 1, 3] + [K] * 8)
    everywhere = EqualizationLoss(K, FREQUENCIES, exclude_background=False)(logits, gt_classes)["loss_cls"]
    torch.testing.assert_close(DropLoss(K, FREQUENCIES)(logits, gt_classes)["loss_cls"], everywhere)


def test_without_foreground_or_in_evaluation_mode_it_is_sigmoid_cross_entropy(batch):
    plain, loss = SigmoidCrossEntropy(K), DropLoss(K, FREQUENCIES)
    background = torch.full_like(batch[1], K)
    torch.testing.assert_close(
        loss(batch[0], background)["loss_cls"], plain(batch[0], background)["loss_cls"], rtol=1e-14, atol=0
    )
    torch.testing.assert_close(loss.eval()(*batch)["loss_cls"], plain(*batch)["loss_cls"], rtol=1e-14, atol=0)


def test_no_tail_is_sigmoid_cross_entropy(batch):
    torch.testing.assert_close(
        DropLoss(K, [0.5] * K)(*batch)["loss_cls"], SigmoidCrossEntropy(K)(*batch)["loss_cls"], rtol=1e-14, atol=0
    )


def test_the_threshold_is_strict():
    assert DropLoss(K, FREQUENCIES).is_tail.tolist() == TAIL


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"lambda_": -0.1}, "lambda_ is -0.1; it must lie between 0 and 1"),
        ({"image_frequencies": [0.1]}, r"image_frequencies has shape \(1,\); num_classes asks for \(6,\)"),
        ({"image_frequencies": [-0.1] * K}, "image_frequencies must not be negative"),
        ({"image_frequencies": [30] * K}, "image_frequencies must lie between 0 and 1; divide image counts"),
    ],
)
def test_bad_arguments_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        DropLoss(K, **{"image_frequencies": FREQUENCIES, **arguments})


def test_without_foreground_every_negative_is_kept():
    loss = DropLoss(K, FREQUENCIES)
    assert loss.keep_probability(torch.full((3,), K)).tolist() == [1.0] * K
