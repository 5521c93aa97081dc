"""Losses without background, for image classification: by plain loops, and as what they reduce to."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from eql_d2.long_tail import CategoryCounts
from eql_d2.losses import (
    CLASSIFICATION_LOSSES,
    METHODS,
    BalancedGroupSoftmax,
    ClassBalancedLoss,
    FocalLoss,
    InverseFrequencyLoss,
    SeesawLoss,
    SigmoidCrossEntropy,
    SoftmaxEqualizationLoss,
    build_classification_loss,
)
from eql_d2.losses.random_choice import RandomChoice
from eql_d2.losses.registry import statistics_of
from tests.losses.test_balanced_group_softmax import groups_by_loop, softmax

# Groups of BAGS: {1, 4}, {0}, none, {2, 3}. Logits: [o 1 4] [o 0] [o] [o 2 3].
COUNTS = [10, 3, 1000, 5000, 9]
K = len(COUNTS)
OPTIONS = {"seql": {"lambda_": 0.01}, "seesaw": {"p": 0.8, "q": 1.0}}

pytestmark = pytest.mark.filterwarnings("ignore:No class has its number of instances in group")


def make_batch(seed=0, rows=12, width=K, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, width, generator=generator, dtype=torch.float64) * scale
    return logits, torch.randint(0, K, (rows,), generator=generator)


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_every_loss_is_without_background(name):
    loss = build_classification_loss(name, K, torch.tensor(COUNTS), **OPTIONS.get(name, {}))
    assert type(loss) is CLASSIFICATION_LOSSES[name]
    assert not loss.has_background
    assert loss.num_logits == (K + 4 if name == "bags" else K)
    logits, labels = make_batch(width=loss.num_logits)
    assert set(loss(logits, labels)) == {"loss_cls"}
    scores = loss.scores(logits)
    assert scores.shape == (12, K)
    if loss.exclusive and name != "bags":  # which has G distributions
        torch.testing.assert_close(scores.sum(dim=1), torch.ones(12, dtype=torch.float64))
    with pytest.raises(ValueError, match=rf"the class {K}; it must lie in \[0, {K - 1}\]"):
        loss(logits, labels.clone().fill_(K))


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_every_loss_learns(name):
    """A linear classifier on separable features ends with every image right, whatever the loss."""
    torch.manual_seed(1)
    counts = [40, 20, 10, 5, 3]
    labels = torch.arange(K).repeat_interleave(torch.tensor(counts))
    features = F.normalize(torch.eye(K)[labels] + 0.1 * torch.randn(len(labels), K))
    loss = build_classification_loss(name, K, counts, **OPTIONS.get(name, {}))
    weight = torch.zeros(K, loss.num_logits, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss(features @ weight, labels)["loss_cls"].backward()
        optimizer.step()
    with torch.no_grad():
        assert (loss.scores(features @ weight).argmax(dim=1) == labels).all()


def test_seql_takes_shares_of_the_images():
    loss = build_classification_loss("seql", 3, [60, 30, 10], lambda_=0.2, gamma=1.0)
    assert loss.is_tail.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("sofmax", {}, "The loss is 'sofmax'; it must be one of softmax, sigmoid, seesaw"),
        ("softmax", {"gamma": 2}, "softmax has no option 'gamma'; its options are: none"),
        ("focal", {"lambda_": 2}, "focal has no option 'lambda_'; its options are: gamma, alpha"),
        ("focal", {"has_background": True}, "focal has no option 'has_background'"),
        ("seql", {}, "seql needs a value for lambda_"),
        ("focal", {"gamma": -1}, "gamma is -1"),
        ("ldam", {"beta": 1}, "beta is 1"),
    ],
)
def test_bad_choices_are_named(name, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_classification_loss(name, K, COUNTS, **options)


def test_bad_counts_are_named():
    with pytest.raises(ValueError, match=r"instance_counts has shape \(2,\); num_classes asks for \(5,\)"):
        build_classification_loss("softmax", K, [1, 2])


def test_seql_s_gradient_with_a_fixed_mask(monkeypatch):
    """Slope of the denominator's terms by the definition, one number at a time."""
    logits, labels = make_batch()
    logits.requires_grad_()
    beta = torch.rand(12, K, generator=torch.Generator().manual_seed(7)) < 0.5
    monkeypatch.setattr(
        RandomChoice, "draw", lambda choice, rows, columns, probability: (beta[rows] * (probability > 0)).float()
    )
    frequencies, lambda_ = [0.3, 0.001, 0.2, 0.0005, 0.002], 0.0015
    loss = SoftmaxEqualizationLoss(K, frequencies, lambda_, gamma=0.5)
    loss(logits, labels)["loss_cls"].backward()
    for i, (row, y) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
        weights = [1 - float(beta[i, k]) * (frequencies[k] < lambda_) * (k != y) for k in range(K)]
        denominator = sum(w * math.exp(z) for w, z in zip(weights, row, strict=True))
        expected = [(weights[k] * math.exp(row[k]) / denominator - (k == y)) / 12 for k in range(K)]
        assert logits.grad[i].tolist() == pytest.approx(expected, rel=1e-10, abs=1e-14)
    assert (logits.grad == 0).any()  # a class was dropped


def seesaw_by_loop(logits, labels, counts, p, q, eps=1e-2):
    """The class term and its gradient, in which the factors S are constants; adds to ``counts``."""
    for y in labels.tolist():
        counts[y] += 1
    total, gradient = 0.0, []
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        s = softmax(z)
        factors = []
        for j in range(len(z)):
            mitigation = (max(counts[j], 1) / max(counts[y], 1)) ** p if counts[j] < counts[y] else 1.0
            compensation = (s[j] / max(s[y], eps)) ** q if s[j] > max(s[y], eps) else 1.0
            factors.append(1.0 if j == y else mitigation * compensation)
        terms = [factor * math.exp(v) for factor, v in zip(factors, z, strict=True)]
        total -= math.log(terms[y] / sum(terms))
        gradient.append([(term / sum(terms) - (j == y)) / len(labels) for j, term in enumerate(terms)])
    return total / len(labels), torch.tensor(gradient, dtype=torch.float64)


@pytest.mark.parametrize(("p", "q"), [(0.8, 1.0), (0.8, 2.0), (0.0, 1.5), (1.2, 0.0)])
def test_seesaw_equals_the_loop(p, q):
    loss, counts = SeesawLoss(K, p, q, has_background=False), [0] * K
    for step in range(8):
        logits, labels = make_batch(step)
        labels[labels == 4] = 0  # class 4 never occurs
        logits.requires_grad_()
        value = loss(logits, labels)["loss_cls"]
        value.backward()
        expected, gradient = seesaw_by_loop(logits, labels, counts, p, q)
        assert value.item() == pytest.approx(expected, rel=1e-6)  # counts are kept in float32
        torch.testing.assert_close(logits.grad, gradient, rtol=1e-5, atol=1e-8)
        assert loss.cum_samples.tolist() == counts


def test_seesaw_with_equal_counts_and_without_compensation_is_softmax():
    loss = SeesawLoss(K, p=0.8, q=0, has_background=False)
    logits, _ = make_batch(rows=10)
    labels = torch.arange(10) % K
    torch.testing.assert_close(loss(logits, labels)["loss_cls"], F.cross_entropy(logits, labels))
    torch.testing.assert_close(loss.scores(logits), logits.softmax(dim=1))
    # With other counts it is not.
    loss(logits, torch.zeros(10, dtype=torch.int64))
    assert loss(logits, labels)["loss_cls"] < F.cross_entropy(logits, labels) - 0.01


def bags_by_loop(logits, labels, counts, edges=(10, 100, 1000)):
    """The class groups with all their others: sums of softmax cross-entropies, each divided by the images."""
    total, start, n = 0.0, 0, len(labels)
    gradient = torch.zeros_like(logits)
    for members in groups_by_loop(counts, edges):
        width = 1 + len(members)
        if any(int(y) in members for y in labels):
            for i, y in enumerate(labels.tolist()):
                p = softmax(logits[i, start : start + width].tolist())
                target = 1 + members.index(y) if y in members else 0
                total -= math.log(p[target]) / n
                for j in range(width):
                    gradient[i, start + j] = (p[j] - (j == target)) / n
        start += width
    return total, gradient


def test_bags_equals_the_loop():
    loss = BalancedGroupSoftmax(K, COUNTS, others_ratio=1000, has_background=False)
    assert loss.class_columns.tolist() == [4, 1, 7, 8, 2]
    for seed in range(4):
        logits, labels = make_batch(seed, width=K + 4)
        labels = labels if seed else labels.clamp(max=0)  # first of one group alone
        logits.requires_grad_()
        value = loss(logits, labels)["loss_cls"]
        value.backward()
        expected, gradient = bags_by_loop(logits.detach(), labels, COUNTS)
        assert value.item() == pytest.approx(expected, rel=1e-12)
        torch.testing.assert_close(logits.grad, gradient)


def test_scores_of_bags_are_those_of_the_groups():
    logits, _ = make_batch(width=K + 4)
    scores = BalancedGroupSoftmax(K, COUNTS, has_background=False).scores(logits)
    for row, expected in zip(logits.tolist(), scores.tolist(), strict=True):
        first, second, last = softmax(row[:3]), softmax(row[3:5]), softmax(row[6:])
        assert [second[1], first[1], last[1], last[2], first[2]] == pytest.approx(expected)


def test_groups_of_bags_train_on_a_choice_of_others():
    labels = torch.tensor([0] * 10 + [2] * 40)
    loss = BalancedGroupSoftmax(K, COUNTS, others_ratio=2.5, has_background=False)
    in_use = loss.choose_rois(labels)
    assert in_use.sum(dim=0).tolist() == [0, 10 + 25, 0, 40 + 10]
    assert in_use[:10, 1].all()
    assert in_use[10:, 3].all()


@given(st.integers(0, 2**31 - 1), st.integers(1, 12))
def test_focal_without_focusing_is_half_a_binary_cross_entropy(seed, rows):
    logits, labels = make_batch(seed, rows)
    plain = F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, K).double(), reduction="sum") / rows
    ours = FocalLoss(K, gamma=0, alpha=0.5, has_background=False)
    torch.testing.assert_close(ours(logits, labels)["loss_cls"], plain / 2)
    torch.testing.assert_close(SigmoidCrossEntropy(K, has_background=False)(logits, labels)["loss_cls"], plain)
    torch.testing.assert_close(ours.scores(logits), logits.sigmoid())


@pytest.mark.parametrize("loss_class", [ClassBalancedLoss, InverseFrequencyLoss])
def test_class_weights_are_those_of_detection_without_background(loss_class):
    loss = loss_class(K, COUNTS, has_background=False)
    assert torch.equal(loss.class_weights, loss_class(K, COUNTS).class_weights[:K])
    logits, labels = make_batch()
    by_row = F.cross_entropy(logits, labels, reduction="none")
    expected = (loss.class_weights[labels].double() * by_row).sum() / 12
    torch.testing.assert_close(loss(logits, labels)["loss_cls"], expected)


def test_options_are_what_neither_the_data_nor_the_task_decides():
    assert set(METHODS["seesaw"].options) == {"p", "q", "eps", "objectness"}


def test_data_without_instances_has_no_class_frequencies():
    counts = CategoryCounts((1, 2), ("a", "b"), (0, 0), (0, 0), 5)
    assert statistics_of(counts)["class_frequencies"].tolist() == [0, 0]
