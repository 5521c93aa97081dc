"""Class-balanced loss against a plain loop, hand-computed weights and the cross-entropy that it reduces to."""

import math

import pytest
import torch

from eql_d2.losses import ClassBalancedLoss, InverseFrequencyLoss, SoftmaxCrossEntropy

COUNTS = [5000, 300, 40, 7, 1]
K = len(COUNTS)


def weights_by_loop(counts, beta, low, high):
    """(1 - β) / (1 - β^n), divided by their mean over occurring classes, clipped; background last."""
    effective = [(1 - beta ** max(n, 1)) / (1 - beta) for n in counts]
    occurring = [1 / e for e, n in zip(effective, counts, strict=True) if n]
    mean = sum(occurring) / len(occurring)
    return [min(max(1 / e / mean, low), high) for e in effective] + [1.0]


def loss_by_loop(logits, gt_classes, weights):
    """Weighted softmax cross-entropy, divided by the number of RoIs."""
    total = 0.0
    for row, y in zip(logits.tolist(), gt_classes.tolist(), strict=True):
        total += weights[y] * (math.log(sum(math.exp(z) for z in row)) - row[y])
    return total / len(logits)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(12, K + 1, generator=generator, dtype=torch.float64) * 2
    return logits, torch.tensor([0, 1, 2, 3, 4, 5, 5, 0, 4, 4, 5, 2])


@pytest.mark.parametrize("beta", [0.9, 0.999, 0.9999])
@pytest.mark.parametrize("weight_range", [(0.1, 5.0), (0.5, 1.2), (0.0, math.inf)])
@pytest.mark.parametrize("counts", [COUNTS, [5000, 300, 40, 0, 1]])
def test_equals_the_loop(batch, beta, weight_range, counts):
    loss = ClassBalancedLoss(K, counts, beta, weight_range).double()
    weights = weights_by_loop(counts, beta, *weight_range)
    assert loss.class_weights.tolist() == pytest.approx(weights, rel=1e-6)  # kept in float32
    expected = loss_by_loop(*batch, loss.class_weights.tolist())
    assert loss(*batch)["loss_cls"].item() == pytest.approx(expected, rel=1e-12)


def test_weights_by_hand():
    # β = 1/2: effective numbers 1, 3/2, 7/4 of 1, 2 and 3 instances; inverse 1, 2/3, 4/7; their mean is 47/63.
    weights = ClassBalancedLoss(3, [1, 2, 3], beta=0.5).class_weights
    assert weights.tolist() == pytest.approx([63 / 47, 42 / 47, 36 / 47, 1.0])


def test_weights_are_clipped_and_background_weighs_one():
    weights = ClassBalancedLoss(101, [1] + [10**6] * 100).class_weights
    # Raw 1 and 0.001; mean 1.1 / 101.
    assert weights[0] == 5.0
    assert weights[1:101].tolist() == pytest.approx([0.1] * 100)
    assert weights[-1] == 1.0


@pytest.mark.parametrize("beta", [0.0, 1e-12])
def test_without_beta_it_is_cross_entropy(batch, beta):
    torch.testing.assert_close(
        ClassBalancedLoss(K, COUNTS, beta)(*batch)["loss_cls"], SoftmaxCrossEntropy(K)(*batch)["loss_cls"]
    )


def test_beta_near_one_is_the_inverse_frequency():
    ours = ClassBalancedLoss(K, COUNTS, beta=1 - 1e-10).class_weights
    torch.testing.assert_close(ours, InverseFrequencyLoss(K, COUNTS).class_weights, rtol=1e-5, atol=0)


def test_a_class_without_instances_changes_no_other_weight():
    with_it = ClassBalancedLoss(K + 1, [*COUNTS, 0]).class_weights
    without = ClassBalancedLoss(K, COUNTS).class_weights
    torch.testing.assert_close(with_it[:K], without[:K], rtol=0, atol=0)
    assert with_it[K] == without[K - 1]  # as a class with one instance
    assert ClassBalancedLoss(2, [0, 0]).class_weights.tolist() == [1, 1, 1]


def test_scores_and_bias_are_those_of_softmax(batch):
    loss, plain = ClassBalancedLoss(K, COUNTS), SoftmaxCrossEntropy(K)
    torch.testing.assert_close(loss.scores(batch[0]), plain.scores(batch[0]), rtol=0, atol=0)
    assert not loss.initial_bias(0.01).any()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"beta": 1.0}, "beta is 1.0; it must be at least 0 and below 1"),
        ({"beta": -0.1}, "beta is -0.1; it must be at least 0 and below 1"),
        ({"instance_counts": [1, 2]}, r"instance_counts has shape \(2,\); num_classes asks for \(5,\)"),
        ({"instance_counts": [1, 2, 3, 4, -1]}, "instance_counts must not be negative"),
        ({"instance_counts": [1, 2, 3, 4, math.nan]}, "instance_counts must not be negative"),
        ({"weight_range": (5.0, 0.1)}, r"weight_range is \(5.0, 0.1\); it must be the smallest and the largest weight"),
        ({"weight_range": (-1.0, 5.0)}, r"weight_range is \(-1.0, 5.0\)"),
        ({"weight_range": (1.0,)}, r"weight_range is \(1.0,\)"),
    ],
)
def test_bad_arguments_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        ClassBalancedLoss(K, **{"instance_counts": COUNTS, **arguments})
