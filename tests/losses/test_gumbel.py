"""The Gumbel activation against a plain loop, in its plain form and in EQL, DropLoss and sigmoid cross-entropy."""

import math

import pytest
import torch

from eql_d2.losses import DropLoss, EqualizationLoss, GumbelCrossEntropy, SigmoidCrossEntropy
from eql_d2.losses.activation import GUMBEL_RANGE
from tests.losses.loops import make_batch

K = 4
FREQUENCIES = [0.5, 0.001, 0.2, 0.0]


def gumbel_by_loop(logits, gt_classes, weight):
    """Binary cross-entropies of exp(-exp(-z)), z clamped, by the definition; ``weight(i, j)`` is of negatives."""
    total = 0.0
    for i, (row, y) in enumerate(zip(logits.tolist(), gt_classes.tolist(), strict=True)):
        for j, z in enumerate(row):
            p = math.exp(-math.exp(-min(max(z, -4), 10)))
            total -= math.log(p) if j == y else weight(i, j) * math.log(1 - p)
    return total / len(logits)


def test_plain_equals_the_loop():
    logits, gt_classes = make_batch(K + 1, K, scale=3.0)
    assert (logits < -4).any()
    ours = GumbelCrossEntropy(K, max_loss=1e9)(logits, gt_classes)["loss_cls"].item()
    assert ours == pytest.approx(gumbel_by_loop(logits, gt_classes, lambda i, j: 1), rel=1e-12)


def test_sigmoid_and_eql_equal_the_loop():
    logits, gt_classes = make_batch(K, K)
    plain = SigmoidCrossEntropy(K, activation="gumbel")(logits, gt_classes)["loss_cls"].item()
    assert plain == pytest.approx(gumbel_by_loop(logits, gt_classes, lambda i, j: 1), rel=1e-12)
    eql = EqualizationLoss(K, FREQUENCIES, activation="gumbel")(logits, gt_classes)["loss_cls"].item()
    spared = gumbel_by_loop(logits, gt_classes, lambda i, j: 1 - (gt_classes[i] < K).item() * (FREQUENCIES[j] < 0.0017))
    assert eql == pytest.approx(spared, rel=1e-12)


def test_drop_loss_equals_the_loop():
    logits, gt_classes = make_batch(K, K)
    loss = DropLoss(K, FREQUENCIES, activation="gumbel")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        kept = loss.choose_negatives(gt_classes).tolist()
        torch.manual_seed(5)
        ours = loss(logits, gt_classes)["loss_cls"].item()
    tail = [f < 0.00177 for f in FREQUENCIES]
    expected = gumbel_by_loop(logits, gt_classes, lambda i, j: kept[i][j] if gt_classes[i] == K else not tail[j])
    assert ours == pytest.approx(expected, rel=1e-12)


def test_the_gradient_is_the_true_one_within_the_range_and_0_beyond():
    z = torch.tensor([[-3.9], [-4.1], [9.9], [10.1]], dtype=torch.float64, requires_grad=True)
    for target, slope in ((0, lambda x: -math.exp(-x)), (1, lambda x: math.exp(-x) / math.expm1(math.exp(-x)))):
        loss = SigmoidCrossEntropy(1, activation="gumbel")(z, torch.full((4,), target))["loss_cls"]
        (gradient,) = torch.autograd.grad(4 * loss, z)
        expected = [slope(-3.9), 0, slope(9.9), 0]
        assert gradient.flatten().tolist() == pytest.approx(expected, rel=1e-9)
    assert GUMBEL_RANGE == (-4, 10)


def test_digits_at_the_upper_end_in_float32():
    """1 - G(z) is 2e-4 at 8.5, of which naive float32 would keep three digits."""
    loss = SigmoidCrossEntropy(1, activation="gumbel")
    z = torch.tensor([[8.5]])
    exact = -math.log(-math.expm1(-math.exp(-8.5)))
    assert loss(z, torch.tensor([1]))["loss_cls"].item() == pytest.approx(exact, rel=1e-6)


def test_the_total_is_clamped():
    loss = GumbelCrossEntropy(K, max_loss=3.0)
    logits = torch.full((2, K + 1), 2.0, requires_grad=True)
    value = loss(logits, torch.tensor([0, K]))["loss_cls"]
    value.backward()
    assert value.item() == 3
    assert (logits.grad == 0).all()


def test_scores_and_bias():
    z = torch.tensor([[0.0, -200.0, 1.0]])
    expected = [math.exp(-1), 0, math.exp(-math.exp(-1))]
    assert GumbelCrossEntropy(2).scores(z)[0].tolist() == pytest.approx(expected)
    assert SigmoidCrossEntropy(3, activation="gumbel").scores(z)[0].tolist() == pytest.approx([*expected, 0])
    assert GumbelCrossEntropy(2).initial_bias().tolist() == pytest.approx([-2] * 3)
    loss = EqualizationLoss(2, [0.1, 0.2], activation="gumbel")
    assert loss.scores(loss.initial_bias(0.03)[None])[0, :2].tolist() == pytest.approx([0.03] * 2)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="activation is 'relu'; it must be one of sigmoid, gumbel"):
        SigmoidCrossEntropy(2, activation="relu")
    with pytest.raises(ValueError, match="max_loss is 0; it must be above 0"):
        GumbelCrossEntropy(2, 0)
    with pytest.raises(ValueError, match="prior_prob is 1"):
        GumbelCrossEntropy(2).initial_bias(1)
