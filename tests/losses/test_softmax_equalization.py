"""SEQL against a plain loop, hand-computed values and its limits γ = 0 and γ = 1."""

import math

import pytest
import torch
import torch.nn.functional as F

from eql_d2.losses import SoftmaxEqualizationLoss
from eql_d2.losses.random_choice import RandomChoice

FREQUENCIES = [0.3, 0.05, 0.00043, 0.0004, 0.0001]
LAMBDA = 0.00043  # classes 3 and 4 are below it
K = len(FREQUENCIES)


def loss_by_loop(logits, gt_classes, beta, frequencies=FREQUENCIES, lambda_=LAMBDA):
    """The definition, one number at a time; ``beta[i][k]`` are the Bernoulli draws."""
    total = 0.0
    for i in range(len(logits)):
        z, y = logits[i].tolist(), int(gt_classes[i])
        denominator = 0.0
        for k in range(len(z)):
            tail = 1.0 if frequencies[k] < lambda_ else 0.0
            denominator += (1 - beta[i][k] * tail * (1 - (k == y))) * math.exp(z[k])
        total -= math.log(math.exp(z[y]) / denominator)
    return total / len(logits)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(6)
    return torch.randn(10, K, generator=generator, dtype=torch.float64) * 3, torch.arange(10) % K


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_limits_equal_the_loop(batch, gamma):
    logits, gt_classes = batch
    value = SoftmaxEqualizationLoss(K, FREQUENCIES, LAMBDA, gamma=gamma)(logits, gt_classes)["loss_cls"]
    expected = loss_by_loop(logits, gt_classes, beta=[[gamma] * K] * len(logits))
    assert value.item() == pytest.approx(expected, rel=1e-12)
    if gamma == 0:
        torch.testing.assert_close(value, F.cross_entropy(logits, gt_classes))


def test_with_the_same_draws_equals_the_loop(batch, monkeypatch):
    logits, gt_classes = batch
    loss = SoftmaxEqualizationLoss(K, FREQUENCIES, LAMBDA, gamma=0.6)
    beta = torch.rand(10, K, generator=torch.Generator().manual_seed(7)) < 0.6
    monkeypatch.setattr(
        RandomChoice, "draw", lambda self, rows, columns, probability: (beta[rows] * (probability > 0)).float()
    )
    value = loss(logits, gt_classes)["loss_cls"]
    assert 0 < beta.double().mean() < 1
    assert value.item() == pytest.approx(loss_by_loop(logits, gt_classes, beta.tolist()), rel=1e-12)


def test_by_hand():
    # All logits 0: the tail class leaves the denominator of class 0, but not its own.
    loss = SoftmaxEqualizationLoss(3, [0.5, 0.4, 0.1], lambda_=0.2, gamma=1.0)
    logits = torch.zeros(1, 3)
    assert loss(logits, torch.tensor([0]))["loss_cls"].item() == pytest.approx(math.log(2))
    assert loss(logits, torch.tensor([2]))["loss_cls"].item() == pytest.approx(math.log(3))


def test_tail_classes_are_dropped_with_probability_gamma_each_on_its_own():
    samples = 4000
    logits = torch.zeros(samples, K, requires_grad=True)
    torch.manual_seed(0)
    loss = SoftmaxEqualizationLoss(K, FREQUENCIES, LAMBDA, gamma=0.7)
    loss(logits, torch.zeros(samples, dtype=torch.int64))["loss_cls"].backward()
    dropped = logits.grad == 0
    assert not dropped[:, :3].any()
    # Four standard deviations of 4000 draws are 0.029.
    assert dropped[:, 3:].double().mean(dim=0).tolist() == pytest.approx([0.7, 0.7], abs=0.029)
    assert dropped[:, 3:].all(dim=1).double().mean().item() == pytest.approx(0.49, abs=0.032)


def test_evaluation_mode_is_plain_cross_entropy(batch):
    logits, gt_classes = batch
    value = SoftmaxEqualizationLoss(K, FREQUENCIES, LAMBDA, gamma=1.0).eval()(logits, gt_classes)["loss_cls"]
    torch.testing.assert_close(value, F.cross_entropy(logits, gt_classes))


def test_class_counts_with_a_threshold_in_counts(batch):
    logits, gt_classes = batch
    counts = [300, 50, 20, 19, 5]
    value = SoftmaxEqualizationLoss(K, counts, lambda_=20, gamma=1.0)(logits, gt_classes)["loss_cls"]
    expected = SoftmaxEqualizationLoss(K, FREQUENCIES, LAMBDA, gamma=1.0)(logits, gt_classes)["loss_cls"]
    assert torch.equal(value, expected)


def test_scores_are_the_softmax_without_background():
    logits = torch.tensor([[0.0, math.log(2), math.log(5)]])
    loss = SoftmaxEqualizationLoss(3, [0.1, 0.2, 0.3], 0.15)
    torch.testing.assert_close(loss.scores(logits), torch.tensor([[0.125, 0.25, 0.625]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_frequencies": [0.1]}, r"class_frequencies has shape \(1,\)"),
        ({"class_frequencies": [0.1, -0.1, 0.2]}, "class_frequencies must not be negative"),
        ({"lambda_": -0.1}, "lambda_ is -0.1"),
        ({"gamma": 1.1}, "gamma is 1.1"),
        ({"gamma": -0.1}, "gamma is -0.1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxEqualizationLoss(3, **{"class_frequencies": [0.1, 0.2, 0.3], "lambda_": 0.15, **arguments})
