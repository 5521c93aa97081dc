"""Federated loss against a plain loop, and its random choice against exact probabilities."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from eql_d2.losses import FederatedLoss, FederatedSoftmaxLoss, SigmoidCrossEntropy

FREQUENCIES = [0.5, 0.2, 0.01, 0.0001, 0.04, 0.09, 0.0]
K = len(FREQUENCIES)


def federated_loss_by_loop(logits, gt_classes, in_use):
    """Binary cross-entropies of the classes in use, divided by R."""
    total = 0.0
    for row, y in zip(logits.tolist(), gt_classes.tolist(), strict=True):
        for j, z in enumerate(row):
            probability = 1 / (1 + math.exp(-z))
            total -= in_use[j] * math.log(probability if j == y else 1 - probability)
    return total / len(logits)


def inclusion_probabilities(weights, number):
    """Exact chance of each class to be among ``number`` drawn one after the other, by going through all orders."""
    chances = [0.0] * len(weights)
    candidates = [j for j, weight in enumerate(weights) if weight > 0]
    for order in itertools.permutations(candidates, number):
        chance, left = 1.0, sum(weights)
        for j in order:
            chance *= weights[j] / left
            left -= weights[j]
        for j in order:
            chances[j] += chance
    return chances


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(8, K, generator=generator, dtype=torch.float64) * 2
    return logits, torch.tensor([1, 3, 3, 1, K, K, 1, 3])


@pytest.mark.parametrize("number", [1, 4, 6])
def test_equals_the_loop(batch, number):
    loss = FederatedLoss(K, FREQUENCIES, number)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        in_use = loss.choose_classes(batch[1]).tolist()
        torch.manual_seed(7)
        value = loss(*batch)["loss_cls"]
    assert sum(in_use) == max(2, number - 1)  # background counts as one
    assert in_use[1]
    assert in_use[3]
    assert value.item() == pytest.approx(federated_loss_by_loop(*batch, in_use), rel=1e-12)


def test_classes_left_out_get_no_gradient(batch):
    logits = batch[0].requires_grad_()
    loss = FederatedLoss(K, FREQUENCIES, 1)
    loss(logits, batch[1])["loss_cls"].backward()
    assert logits.grad.abs().sum(dim=0).bool().tolist() == [False, True, False, True, False, False, False]


@pytest.mark.parametrize("number", [K + 1, 50])
def test_all_classes_in_use_is_sigmoid_cross_entropy(batch, number):
    loss = FederatedLoss(K, [0.1] * K, number)
    torch.testing.assert_close(loss(*batch)["loss_cls"], SigmoidCrossEntropy(K)(*batch)["loss_cls"], rtol=0, atol=0)


def test_evaluation_mode_uses_all_classes_and_draws_nothing(batch):
    loss = FederatedLoss(K, FREQUENCIES, 1).eval()
    before = torch.get_rng_state()
    value = loss(*batch)["loss_cls"]
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(value, SigmoidCrossEntropy(K)(*batch)["loss_cls"], rtol=0, atol=0)


@pytest.mark.parametrize("power", [0.5, 1.0, 0.0])
@pytest.mark.parametrize("gt_classes", [[K], [1, K, 3], [1]])
def test_chances_are_those_of_drawing_without_replacement(gt_classes, power):
    number, draws = 4, 1500
    loss = FederatedLoss(K, FREQUENCIES, number, power)
    present = set(gt_classes) - {K}
    weights = [0.0 if j in present or f == 0 else f**power for j, f in enumerate(FREQUENCIES)]
    chances = inclusion_probabilities(weights, number - len(set(gt_classes)))
    with torch.random.fork_rng():
        torch.manual_seed(11)
        chosen = sum(loss.choose_classes(torch.tensor(gt_classes)).double() for _ in range(draws)) / draws
    for j, chance in enumerate(chances):
        if j in present:
            assert chosen[j] == 1
        else:
            deviation = math.sqrt(chance * (1 - chance) / draws)
            assert abs(chosen[j].item() - chance) <= 4 * deviation + 1e-9, j


def test_the_number_is_exact_and_more_present_classes_are_all_in_use():
    loss = FederatedLoss(1203, torch.linspace(1e-5, 0.5, 1203), 50)
    for present in (0, 1, 30, 49, 50, 51, 300):
        gt_classes = torch.arange(present) * 4
        in_use = loss.choose_classes(gt_classes)
        assert in_use.sum() == max(present, 50)
        assert in_use[gt_classes].all()


def test_no_image_means_never_drawn():
    loss = FederatedLoss(K, FREQUENCIES, 50)
    assert loss.choose_classes(torch.tensor([K])).tolist() == [True] * 6 + [False]
    assert loss.choose_classes(torch.tensor([6])).all()  # but in use where a RoI has it
    nothing_known = FederatedLoss(3, [0, 0, 0], 50)
    assert nothing_known.choose_classes(torch.tensor([1, 3])).tolist() == [False, True, False]


def test_counts_and_frequencies_draw_the_same():
    counts = torch.tensor([10, 200, 3, 4000])
    ours, theirs = (FederatedLoss(4, values).sampling_weights for values in (counts, counts / 5000))
    torch.testing.assert_close(ours, theirs)
    assert ours.tolist() == pytest.approx([math.sqrt(n / 4000) for n in counts.tolist()])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"image_frequencies": [0.1]}, r"image_frequencies has shape \(1,\); num_classes asks for \(7,\)"),
        ({"image_frequencies": [-0.1] * K}, "image_frequencies must not be negative"),
        ({"fed_loss_num_classes": 0}, "fed_loss_num_classes is 0; it must be at least 1"),
        ({"fed_loss_freq_weight_power": -1}, "fed_loss_freq_weight_power is -1; it must not be negative"),
    ],
)
def test_bad_arguments_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        FederatedLoss(K, **{"image_frequencies": FREQUENCIES, **arguments})


def federated_softmax_by_loop(logits, gt_classes, in_use):
    """Cross-entropies whose denominators run over the classes in use and background."""
    total = 0.0
    for row, y in zip(logits.tolist(), gt_classes.tolist(), strict=True):
        denominator = sum(math.exp(z) for j, z in enumerate(row) if j == K or in_use[j])
        total -= math.log(math.exp(row[y]) / denominator)
    return total / len(logits)


@pytest.mark.parametrize("number", [1, 4, 6])
def test_the_softmax_equals_the_loop(batch, number):
    loss = FederatedSoftmaxLoss(K, [f * 10_000 for f in FREQUENCIES], number)
    logits = torch.cat([batch[0], batch[0][:, :1]], dim=1).requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(7)
        in_use = loss.choose_classes(batch[1])
        torch.manual_seed(7)
        value = loss(logits, batch[1])["loss_cls"]
    assert in_use.sum() == max(2, number - 1)
    assert value.item() == pytest.approx(federated_softmax_by_loop(logits, batch[1], in_use.tolist()), rel=1e-12)
    value.backward()
    assert logits.grad.abs().sum(dim=0).bool().tolist() == [*in_use.tolist(), True]


def test_the_softmax_with_all_classes_is_cross_entropy(batch):
    logits = torch.cat([batch[0], batch[0][:, :1]], dim=1)
    plain = F.cross_entropy(logits, batch[1])
    counts = [1] * K
    torch.testing.assert_close(FederatedSoftmaxLoss(K, counts, K + 1)(logits, batch[1])["loss_cls"], plain)
    torch.testing.assert_close(FederatedSoftmaxLoss(K, counts, 1).eval()(logits, batch[1])["loss_cls"], plain)


def test_the_softmax_names_bad_arguments():
    with pytest.raises(ValueError, match="num_sampled is 0; it must be at least 1"):
        FederatedSoftmaxLoss(2, [1, 2], 0)
    with pytest.raises(ValueError, match="power is -1; it must not be negative"):
        FederatedSoftmaxLoss(2, [1, 2], power=-1)
