"""LDAM against a plain loop, hand-computed values and scaled softmax; the switch of its deferred weights."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eql_d2.losses import LDAMLoss
from eql_d2.modeling import NormedLinear

COUNTS = [5000, 300, 40, 7, 1]
K = len(COUNTS)


def loss_and_gradient_by_loop(logits, gt_classes, max_margin, scale, beta=None):
    """The definition, one number at a time; with β the deferred weights are on."""
    constant = max_margin / max(n**-0.25 for n in COUNTS)
    total = weights = 0.0
    gradient = []
    for row, y in zip(logits.tolist(), gt_classes.tolist(), strict=True):
        z = [scale * (cosine - (constant / COUNTS[y] ** 0.25 if j == y else 0)) for j, cosine in enumerate(row)]
        weight = 1.0 if beta is None else (1 - beta) / (1 - beta ** COUNTS[y])
        exponentials = [math.exp(v - max(z)) for v in z]
        p = [e / sum(exponentials) for e in exponentials]
        total -= weight * math.log(p[y])
        weights += weight
        gradient.append([weight * scale * (p[j] - (j == y)) for j in range(len(row))])
    return total / weights, torch.tensor(gradient, dtype=torch.float64) / weights


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(2)
    cosines = torch.rand(12, K, generator=generator, dtype=torch.float64) * 2 - 1
    return cosines.requires_grad_(), torch.tensor([0, 1, 2, 3, 4, 0, 0, 1, 4, 2, 0, 0])


@pytest.mark.parametrize(("max_margin", "scale"), [(0.5, 30.0), (0.0, 10.0), (0.8, 1.0)])
@pytest.mark.parametrize("beta", [None, 0.9999, 0.9])
def test_equals_the_loop(batch, max_margin, scale, beta):
    loss = LDAMLoss(K, COUNTS, max_margin, scale, **({} if beta is None else {"beta": beta}))
    loss.set_reweighting(beta is not None)
    value = loss(*batch)["loss_cls"]
    value.backward()
    expected, gradient = loss_and_gradient_by_loop(*batch, max_margin, scale, beta)
    assert value.item() == pytest.approx(expected, rel=1e-5)  # margins and weights are kept in float32
    torch.testing.assert_close(batch[0].grad, gradient, rtol=1e-4, atol=1e-6)


def test_by_hand():
    # Counts 16 and 1: margins 1/4 and 1/2. Equal cosines and s = 4: the true class is behind by 1 or by 2.
    loss = LDAMLoss(2, [16, 1], max_margin=0.5, scale=4)
    assert loss.margins.tolist() == [0.25, 0.5]
    z = torch.zeros(2, 2)
    first, second = math.log(1 + math.e), math.log(1 + math.e**2)
    assert loss(z, torch.tensor([0, 1]))["loss_cls"].item() == pytest.approx((first + second) / 2)
    # β = 1/2: effective numbers 2 (1 - 2^-16) and 1, weights their inverse.
    loss = LDAMLoss(2, [16, 1], max_margin=0.5, scale=4, beta=0.5)
    loss.set_reweighting(True)
    weight = 0.5 / (1 - 2**-16)
    expected = (weight * first + second) / (weight + 1)
    assert loss(z, torch.tensor([0, 1]))["loss_cls"].item() == pytest.approx(expected)
    assert loss.scores(torch.tensor([[0.0, math.log(3) / 4]])).tolist()[0] == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("scale", [30.0, 1.0])
def test_without_margin_it_is_scaled_softmax(batch, scale):
    value = LDAMLoss(K, COUNTS, max_margin=0, scale=scale)(*batch)["loss_cls"]
    torch.testing.assert_close(value, F.cross_entropy(scale * batch[0], batch[1]))
    torch.testing.assert_close(LDAMLoss(K, COUNTS, scale=scale).scores(batch[0]), (scale * batch[0]).softmax(dim=1))


def test_the_rarest_class_has_the_largest_margin():
    margins = LDAMLoss(K, COUNTS, max_margin=0.4).margins
    assert margins[-1].item() == pytest.approx(0.4)
    assert (margins.diff() > 0).all()
    assert LDAMLoss(3, [160, 16, 0]).margins.tolist() == LDAMLoss(3, [160, 16, 1]).margins.tolist()


def test_of_one_class_reweighting_changes_nothing(batch):
    """The sum is divided by the weights of the batch, so a batch of one class keeps its loss."""
    loss = LDAMLoss(K, COUNTS)
    labels = torch.full((12,), 4)
    plain = loss(batch[0], labels)["loss_cls"]
    loss.set_reweighting(True)
    torch.testing.assert_close(loss(batch[0], labels)["loss_cls"], plain)
    assert not torch.isclose(loss(*batch)["loss_cls"], LDAMLoss(K, COUNTS)(*batch)["loss_cls"])


def test_the_switch_turns_on_and_off(batch):
    loss = LDAMLoss(K, COUNTS)
    before = loss(*batch)["loss_cls"]
    loss.set_reweighting(True)
    during = loss(*batch)["loss_cls"]
    loss.set_reweighting(False)
    assert torch.equal(loss(*batch)["loss_cls"], before)
    assert abs(during - before) > 0.01


def test_the_switch_survives_a_restart(batch):
    loss = LDAMLoss(K, COUNTS)
    loss.set_reweighting(True)
    state = copy.deepcopy(nn.ModuleDict({"loss": loss}).state_dict())
    fresh = LDAMLoss(K, COUNTS)
    nn.ModuleDict({"loss": fresh}).load_state_dict(state)
    assert torch.equal(fresh(*batch)["loss_cls"], loss(*batch)["loss_cls"])
    # It is no number that a cast to half precision could change.
    assert fresh.half().reweighting.dtype == torch.bool


def test_a_checkpoint_without_the_switch_leaves_it(batch):
    """As that of a first stage with softmax."""
    for on in (False, True):
        loss = LDAMLoss(K, COUNTS)
        loss.set_reweighting(on)
        nn.ModuleDict({"loss": loss}).load_state_dict({})
        assert bool(loss.reweighting) is on


def test_with_a_normed_classifier_it_learns_separable_classes():
    """Two directions, one of them rare: after a few steps each is scored right, above the margin."""
    torch.manual_seed(0)
    layer, loss = NormedLinear(2, 2, temperature=1.0, bias=False), LDAMLoss(2, [90, 10])
    assert loss.needs_cosines
    features = torch.tensor([[1.0, 0.2], [0.2, 1.0]]).repeat_interleave(torch.tensor([90, 10]), dim=0)
    labels = torch.tensor([0, 1]).repeat_interleave(torch.tensor([90, 10]))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for step in range(60):
        loss.set_reweighting(step >= 30)
        optimizer.zero_grad()
        loss(layer(features), labels)["loss_cls"].backward()
        optimizer.step()
    cosines = layer(features).detach()
    assert cosines.abs().max() <= 1 + 1e-6
    assert (cosines[:90, 0] - cosines[:90, 1] > loss.margins[0]).all()
    assert (cosines[90:, 1] - cosines[90:, 0] > loss.margins[1]).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"max_margin": -0.1}, "max_margin is -0.1; it must not be negative"),
        ({"scale": 0}, "scale is 0; it must be above 0"),
        ({"beta": 1.0}, "beta is 1.0; it must be at least 0 and below 1"),
        ({"instance_counts": [1] * 4}, r"instance_counts has shape \(4,\); num_classes asks for \(5,\)"),
    ],
)
def test_bad_arguments_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        LDAMLoss(K, **{"instance_counts": COUNTS, **arguments})
