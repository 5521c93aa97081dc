"""Focal loss against a plain loop, fvcore's, and the cross-entropies that it reduces to."""

import math

import pytest
import torch
import torch.nn.functional as F
from fvcore.nn import sigmoid_focal_loss
from hypothesis import given
from hypothesis import strategies as st

from eql_d2.losses import FocalLoss, SigmoidCrossEntropy

K = 5


def focal_loss_by_loop(logits, gt_classes, gamma, alpha):
    """The definition, one number at a time: -α_t (1 - p_t)^γ log p_t, summed over classes, divided by R."""
    total = 0.0
    for row, y in zip(logits.tolist(), gt_classes.tolist(), strict=True):
        for j, z in enumerate(row):
            probability = 1 / (1 + math.exp(-z))
            of_truth = probability if j == y else 1 - probability
            total -= (alpha if j == y else 1 - alpha) * (1 - of_truth) ** gamma * math.log(of_truth)
    return total / len(logits)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(12, K, generator=generator, dtype=torch.float64) * 3
    return logits, torch.tensor([0, 1, 2, 3, 4, 5, 5, 0, 4, 4, 5, 2])


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (0.5, 0.9), (5.0, 0.0), (1.0, 1.0)])
def test_equals_the_loop(batch, gamma, alpha):
    value = FocalLoss(K, gamma, alpha)(*batch)["loss_cls"]
    assert value.item() == pytest.approx(focal_loss_by_loop(*batch, gamma, alpha), rel=1e-12)


def test_defaults_and_gradient_are_those_of_fvcore(batch):
    ours, theirs = (batch[0].clone().requires_grad_() for _ in range(2))
    FocalLoss(K)(ours, batch[1])["loss_cls"].backward()
    targets = F.one_hot(batch[1], K + 1)[:, :K].double()
    (sigmoid_focal_loss(theirs, targets, alpha=0.25, gamma=2, reduction="sum") / len(targets)).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)  # fvcore computes in float32


def test_by_hand():
    # One class at p = 1/2 and γ = 2: a positive costs α ln 2 / 4, a negative (1 - α) ln 2 / 4.
    loss = FocalLoss(1, gamma=2, alpha=0.25)
    assert loss(torch.zeros(1, 1), torch.tensor([0]))["loss_cls"].item() == pytest.approx(math.log(2) / 16)
    assert loss(torch.zeros(1, 1), torch.tensor([1]))["loss_cls"].item() == pytest.approx(3 * math.log(2) / 16)
    # Easier, at p = 3/4 of the truth: (1/4)^2.
    z = torch.tensor([[math.log(3)]])
    assert loss(z, torch.tensor([0]))["loss_cls"].item() == pytest.approx(0.25 / 16 * math.log(4 / 3))


def test_without_focusing_it_is_half_a_cross_entropy(batch):
    plain = SigmoidCrossEntropy(K)(*batch)["loss_cls"]
    torch.testing.assert_close(FocalLoss(K, gamma=0, alpha=0.5)(*batch)["loss_cls"], plain / 2)


@given(gamma=st.floats(0, 8), alpha=st.floats(0, 1), z=st.floats(-40, 40), positive=st.booleans())
def test_never_above_cross_entropy_and_its_slope_agrees(gamma, alpha, z, positive):
    loss, y = FocalLoss(1, gamma, alpha), torch.tensor([0 if positive else 1])
    logits = torch.tensor([[z]], dtype=torch.float64, requires_grad=True)
    value = loss(logits, y)["loss_cls"]
    value.backward()
    assert 0 <= value.item() <= SigmoidCrossEntropy(1)(logits, y)["loss_cls"].item() + 1e-12
    step = 1e-4
    above, below = (loss(logits.detach() + d, y)["loss_cls"].item() for d in (step, -step))
    assert logits.grad.item() == pytest.approx((above - below) / (2 * step), abs=2e-6)


@pytest.mark.parametrize("magnitude", [100.0, 1e4])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_saturated_logits(gamma, magnitude):
    """Where a probability is 0 in float32 the loss is the limit: linear where wrong, 0 where right."""
    logits = torch.tensor([[magnitude, -magnitude], [-magnitude, magnitude]], requires_grad=True)
    value = FocalLoss(2, gamma, alpha=0.25)(logits, torch.tensor([0, 0]))["loss_cls"]
    value.backward()
    assert value.item() == pytest.approx((0.25 + 0.75) * magnitude / 2)
    torch.testing.assert_close(logits.grad, torch.tensor([[0, 0], [-0.125, 0.375]]))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"gamma": -1}, "gamma is -1; it must not be negative"),
        ({"alpha": 1.5}, "alpha is 1.5; it must lie between 0 and 1"),
        ({"alpha": -0.1}, "alpha is -0.1; it must lie between 0 and 1"),
    ],
)
def test_bad_arguments_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        FocalLoss(K, **arguments)


def test_as_in_bags_background_is_a_class_and_the_mean_is_over_all_logits():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(9, K + 1, generator=generator, dtype=torch.float64) * 3
    gt_classes = torch.tensor([0, 1, 2, 3, 4, 5, 5, 5, 4])
    loss = FocalLoss(K, as_in_bags=True)
    expected = focal_loss_by_loop(logits, gt_classes, 2.0, 0.25) / (K + 1)  # the loop takes class 5 for column 5
    assert loss(logits, gt_classes)["loss_cls"].item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(loss.scores(logits), logits.softmax(dim=1))
    assert loss.exclusive and not FocalLoss(K).exclusive
    assert torch.equal(loss.initial_bias(), torch.zeros(K + 1))


def test_as_in_bags_needs_background():
    with pytest.raises(ValueError, match="as_in_bags is True, but its last sigmoid is background's"):
        FocalLoss(K, has_background=False, as_in_bags=True)
