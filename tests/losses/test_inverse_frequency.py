"""Re-weighting by inverse frequency against a plain loop, hand-computed weights and plain cross-entropy."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eql_d2.losses import InverseFrequencyLoss, SoftmaxCrossEntropy
from tests.losses.test_class_balanced import COUNTS, K, loss_by_loop


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(12, K + 1, generator=generator, dtype=torch.float64) * 2
    return logits, torch.tensor([0, 1, 2, 3, 4, 5, 5, 0, 4, 4, 5, 2])


@pytest.mark.parametrize("power", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("weight_range", [(0.1, 5.0), (0.3, 2.0)])
def test_equals_the_loop(batch, power, weight_range):
    loss = InverseFrequencyLoss(K, COUNTS, power, weight_range).double()
    raw = [n**-power for n in COUNTS]
    low, high = weight_range
    weights = [min(max(w * K / sum(raw), low), high) for w in raw] + [1.0]
    assert loss.class_weights.tolist() == pytest.approx(weights, rel=1e-6)  # kept in float32
    expected = loss_by_loop(*batch, loss.class_weights.tolist())
    assert loss(*batch)["loss_cls"].item() == pytest.approx(expected, rel=1e-12)


def test_weights_by_hand():
    # 1 / n: 1, 1/4, 1/16, mean 7/16.
    weights = InverseFrequencyLoss(3, [1, 4, 16]).class_weights
    assert weights.tolist() == pytest.approx([16 / 7, 4 / 7, 1 / 7, 1.0])
    # Its square root: 1, 1/2, 1/4, mean 7/12.
    weights = InverseFrequencyLoss(3, [1, 4, 16], power=0.5).class_weights
    assert weights.tolist() == pytest.approx([12 / 7, 6 / 7, 3 / 7, 1.0])


def test_power_zero_is_cross_entropy(batch):
    torch.testing.assert_close(
        InverseFrequencyLoss(K, COUNTS, power=0)(*batch)["loss_cls"], SoftmaxCrossEntropy(K)(*batch)["loss_cls"]
    )


def test_the_gradient_of_a_roi_has_the_weight_of_its_class(batch):
    loss, plain = InverseFrequencyLoss(K, COUNTS).double(), SoftmaxCrossEntropy(K)
    ours, theirs = (batch[0].clone().requires_grad_() for _ in range(2))
    loss(ours, batch[1])["loss_cls"].backward()
    plain(theirs, batch[1])["loss_cls"].backward()
    torch.testing.assert_close(ours.grad, theirs.grad * loss.class_weights[batch[1]][:, None])


@given(counts=st.lists(st.integers(0, 10**6), min_size=1, max_size=30), power=st.floats(0, 2))
def test_rarer_never_weighs_less(counts, power):
    weights = InverseFrequencyLoss(len(counts), counts, power).class_weights
    assert ((weights[:-1] >= 0.1 - 1e-7) & (weights[:-1] <= 5)).all()
    ascending = weights[:-1][torch.tensor(counts).argsort()]
    assert (ascending.diff() <= 1e-6).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"power": -0.5}, "power is -0.5; it must not be negative"),
        ({"instance_counts": [1] * 4}, r"instance_counts has shape \(4,\); num_classes asks for \(5,\)"),
    ],
)
def test_bad_arguments_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        InverseFrequencyLoss(K, **{"instance_counts": COUNTS, **arguments})
