"""Logit adjustment and Balanced Softmax against plain loops, hand-computed values and plain softmax."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from eql_d2.losses import BalancedSoftmaxLoss, LogitAdjustmentLoss, SoftmaxCrossEntropy

COUNTS = [5000, 300, 40, 7, 1]
K = len(COUNTS)


def softmax(values):
    exponentials = [math.exp(v - max(values)) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def adjusted_softmax(row, tau, counts=COUNTS):
    """π_k^τ e^{z_k} over its sum, as a product of powers; with a last column for background where there is one.

    With background, π is measured in the geometric mean of the counts.
    """
    mean = math.prod(counts) ** (1 / len(counts)) if len(row) > len(counts) else sum(counts)
    factors = [(n / mean) ** tau for n in counts] + [1.0] * (len(row) - len(counts))
    terms = [factor * math.exp(z) for factor, z in zip(factors, row, strict=True)]
    return [term / sum(terms) for term in terms]


def loss_and_gradient(logits, gt_classes, probabilities):
    """-log p_y and its slope p_j - [j = y], averaged over the rows, from a function of a row."""
    total, gradient = 0.0, []
    for row, y in zip(logits.tolist(), gt_classes.tolist(), strict=True):
        p = probabilities(row)
        total -= math.log(p[y])
        gradient.append([(p[j] - (j == y)) / len(logits) for j in range(len(row))])
    return total / len(logits), torch.tensor(gradient, dtype=torch.float64)


@pytest.fixture(params=[True, False], ids=["background", "no background"])
def has_background(request):
    return request.param


@pytest.fixture
def batch(has_background):
    generator = torch.Generator().manual_seed(2)
    width = K + has_background
    logits = torch.randn(12, width, generator=generator, dtype=torch.float64) * 2
    return logits.requires_grad_(), torch.arange(12) % width


def check(loss, batch, expected):
    value = loss.double()(*batch)["loss_cls"]
    value.backward()
    # The priors are kept in float32.
    assert value.item() == pytest.approx(expected[0], rel=1e-6)
    torch.testing.assert_close(batch[0].grad, expected[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.7])
def test_logit_adjustment_equals_the_loop(batch, has_background, tau):
    loss = LogitAdjustmentLoss(K, COUNTS, tau, has_background=has_background)
    check(loss, batch, loss_and_gradient(*batch, lambda row: adjusted_softmax(row, tau)))
    plain = SoftmaxCrossEntropy(K, has_background)
    assert torch.equal(loss.scores(batch[0]), plain.scores(batch[0]))


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.7])
def test_post_hoc_equals_the_loop(batch, has_background, tau):
    loss = LogitAdjustmentLoss(K, COUNTS, tau, post_hoc=True, has_background=has_background)
    check(loss, batch, loss_and_gradient(*batch, softmax))
    expected = torch.tensor([adjusted_softmax(row, -tau) for row in batch[0].tolist()], dtype=torch.float64)
    torch.testing.assert_close(loss.scores(batch[0]).detach(), expected, rtol=1e-5, atol=1e-9)


def test_balanced_softmax_equals_the_loop(batch, has_background):
    loss = BalancedSoftmaxLoss(K, COUNTS, has_background)
    check(loss, batch, loss_and_gradient(*batch, lambda row: adjusted_softmax(row, 1.0)))


def test_by_hand():
    # Counts 1 and 3, equal logits: balanced softmax gives the classes 1/4 and 3/4.
    z = torch.zeros(1, 2)
    loss = BalancedSoftmaxLoss(2, [1, 3], has_background=False)
    assert loss(z, torch.tensor([0]))["loss_cls"].item() == pytest.approx(math.log(4))
    assert loss(z, torch.tensor([1]))["loss_cls"].item() == pytest.approx(math.log(4 / 3))
    assert loss.scores(z).tolist() == [[0.5, 0.5]]
    # Post hoc with τ = 2: 1 / 1 against 1 / 9.
    loss = LogitAdjustmentLoss(2, [1, 3], tau=2, post_hoc=True, has_background=False)
    assert loss(z, torch.tensor([0]))["loss_cls"].item() == pytest.approx(math.log(2))
    assert loss.scores(z).tolist()[0] == pytest.approx([0.9, 0.1])
    # With background, counts 1 and 4 have the geometric mean 2: terms 1/2, 2 and background's 1.
    loss = BalancedSoftmaxLoss(2, [1, 4])
    assert loss(torch.zeros(1, 3), torch.tensor([2]))["loss_cls"].item() == pytest.approx(math.log(3.5))


def test_what_training_adds_post_hoc_takes_away(batch, has_background):
    """A model that fits the adjusted loss, and one that fits the plain loss, end up with the same scores."""
    logits, _ = batch
    trained = LogitAdjustmentLoss(K, COUNTS, 0.8, has_background=has_background).double()
    post_hoc = LogitAdjustmentLoss(K, COUNTS, 0.8, post_hoc=True, has_background=has_background).double()
    plain = logits + 0.8 * trained.log_priors
    torch.testing.assert_close(post_hoc.scores(plain), trained.scores(logits))


@pytest.mark.parametrize("post_hoc", [True, False])
@pytest.mark.parametrize(("counts", "tau"), [(COUNTS, 0.0), ([30] * K, 1.3)])
def test_without_tau_or_with_equal_counts_it_is_softmax(batch, has_background, counts, tau, post_hoc):
    loss = LogitAdjustmentLoss(K, counts, tau, post_hoc, has_background)
    plain = SoftmaxCrossEntropy(K, has_background)
    torch.testing.assert_close(loss(*batch), plain(*batch))
    torch.testing.assert_close(loss.scores(batch[0]), plain.scores(batch[0]))


def test_balanced_softmax_of_equal_counts_is_softmax(batch, has_background):
    torch.testing.assert_close(
        BalancedSoftmaxLoss(K, [30] * K, has_background)(*batch), SoftmaxCrossEntropy(K, has_background)(*batch)
    )


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=20), st.integers(2, 9), st.booleans())
def test_the_unit_of_the_counts_does_not_matter(counts, factor, has_background):
    logits = torch.linspace(-2, 2, len(counts) + has_background)[None]
    label = torch.tensor([len(counts) // 2])
    one = BalancedSoftmaxLoss(len(counts), counts, has_background)
    other = BalancedSoftmaxLoss(len(counts), [n * factor for n in counts], has_background)
    torch.testing.assert_close(one(logits, label), other(logits, label), rtol=1e-5, atol=1e-5)


@given(st.integers(0, 2**31 - 1), st.floats(0, 3))
def test_a_rarer_class_gets_a_larger_gradient(seed, tau):
    """At equal logits the true class is pushed up the harder, the rarer it is."""
    counts = sorted(torch.randint(1, 1000, (K,), generator=torch.Generator().manual_seed(seed)).tolist())
    logits = torch.zeros(K, K, requires_grad=True)
    LogitAdjustmentLoss(K, counts, tau, has_background=False)(logits, torch.arange(K))["loss_cls"].backward()
    assert (logits.grad.diagonal().diff() >= -1e-6).all()  # all are negative; the rarest comes first


def test_a_class_without_instances_counts_as_one(batch, has_background):
    loss = LogitAdjustmentLoss(K, [5000, 300, 40, 7, 0], has_background=has_background)
    torch.testing.assert_close(loss(*batch), LogitAdjustmentLoss(K, COUNTS, has_background=has_background)(*batch))
    assert torch.isfinite(loss.log_priors).all()


def test_it_is_a_cross_entropy_of_shifted_logits(batch, has_background):
    log_priors = F.pad(torch.tensor(COUNTS, dtype=torch.float64).div(sum(COUNTS)).log(), (0, int(has_background)))
    if has_background:
        log_priors[:K] -= log_priors[:K].mean()
    loss = LogitAdjustmentLoss(K, COUNTS, tau=1.2, has_background=has_background)
    expected = F.cross_entropy(batch[0] + 1.2 * log_priors, batch[1])
    assert loss(*batch)["loss_cls"].item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"tau": -0.5}, "tau is -0.5; it must not be negative"),
        ({"instance_counts": [1] * 4}, r"instance_counts has shape \(4,\); num_classes asks for \(5,\)"),
    ],
)
def test_bad_arguments_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        LogitAdjustmentLoss(K, **{"instance_counts": COUNTS, **arguments})
