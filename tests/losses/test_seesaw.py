"""Seesaw Loss against a plain loop over twenty steps, hand-computed values and the first code's unit tests."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from eql_d2.losses import SeesawLoss

K = 5


def softmax(values):
    top = max(values)
    exponentials = [math.exp(v - top) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def step_by_loop(logits, gt_classes, counts, p=0.8, q=2.0, eps=1e-2, factors=None):
    """The definition, one number at a time, in float64; adds to ``counts`` and to the list ``factors``."""
    rows, classes = logits.shape[0], logits.shape[1] - 2
    for y in gt_classes.tolist():
        if y < classes:
            counts[y] += 1
    class_term = objectness_term = 0.0
    for i in range(rows):
        z, y = logits[i].tolist(), int(gt_classes[i])
        objectness_term -= math.log(softmax(z[classes:])[0 if y < classes else 1])
        if y == classes:
            continue
        s = softmax(z[:classes])
        own_score = max(s[y], eps)
        denominator = math.exp(z[y])
        for j in range(classes):
            if j == y:
                continue
            own, other = max(counts[y], 1), max(counts[j], 1)
            mitigation = (other / own) ** p if other < own else 1.0
            compensation = (s[j] / own_score) ** q if s[j] > own_score else 1.0
            if factors is not None:
                factors.append((i, j, mitigation * compensation))
            denominator += mitigation * compensation * math.exp(z[j])
        class_term -= math.log(math.exp(z[y]) / denominator)
    return class_term / rows, objectness_term / rows


def make_batches(number, rows=12):
    generator = torch.Generator().manual_seed(4)
    for _ in range(number):
        logits = torch.randn(rows, K + 2, generator=generator, dtype=torch.float64) * 3
        # Class 4 never occurs, class 0 often.
        yield logits, torch.tensor([0, 0, 0, 1, 2, 3, 5, 5])[torch.randint(0, 8, (rows,), generator=generator)]


@pytest.mark.parametrize("arguments", [{}, {"p": 0.0}, {"q": 0.0}, {"p": 1.7, "q": 0.5, "eps": 0.3}])
def test_twenty_steps_equal_the_loop(arguments):
    loss, counts = SeesawLoss(K, **arguments), [0] * K
    for logits, gt_classes in make_batches(20):
        values = loss(logits, gt_classes)
        classes, objectness = step_by_loop(logits, gt_classes, counts, **arguments)
        assert values["loss_cls"].item() == pytest.approx(classes, rel=1e-9)
        assert values["loss_objectness"].item() == pytest.approx(objectness, rel=1e-9)
        assert loss.cum_samples.tolist() == counts


# Facts of the first code's unit test: two classes, one RoI.
@pytest.mark.parametrize(
    ("p", "q", "count_of_0", "logits", "label", "classes", "objectness"),
    [
        (0, 0, 0, [-100, 100, -100, 100], 1, 0, 200),
        (1, 0, math.exp(20), [-100, 100, -100, 100], 0, 180, 200),
        (0, 1, 0, [-100, 100, -100, 100], 0, 200 + math.log(100), 200),
        (0, 1, 0, [100, -100, 100, -100], 0, 0, 0),
    ],
)
def test_values_of_the_first_code(p, q, count_of_0, logits, label, classes, objectness):
    loss = SeesawLoss(2, p=p, q=q)
    loss.cum_samples[0] = count_of_0
    values = loss(torch.tensor([logits], dtype=torch.float64), torch.tensor([label]))
    assert values["loss_cls"].item() == pytest.approx(classes, rel=1e-6)
    assert values["loss_objectness"].item() == pytest.approx(objectness)


def test_by_hand():
    # Three samples of class 0 with this RoI, none of class 1 (counts as 1); all logits 0.
    loss = SeesawLoss(2, p=1.0)
    loss.cum_samples[0] = 2
    values = loss(torch.zeros(2, 4), torch.tensor([0, 2]))
    assert values["loss_cls"].item() == pytest.approx(math.log(1 + 1 / 3) / 2)  # divided by all RoIs
    assert values["loss_objectness"].item() == pytest.approx(math.log(2))
    assert loss.cum_samples.tolist() == [3, 0]


def test_without_factors_it_is_softmax_cross_entropy():
    logits, gt_classes = next(make_batches(1))
    value = SeesawLoss(K, p=0, q=0)(logits, gt_classes)["loss_cls"]
    is_foreground = gt_classes < K
    expected = F.cross_entropy(logits[is_foreground, :K], gt_classes[is_foreground], reduction="sum") / len(logits)
    torch.testing.assert_close(value, expected)


def test_the_factors_are_constants_to_the_gradient():
    loss, counts = SeesawLoss(K), [0] * K
    for logits, gt_classes in make_batches(4):
        before = list(counts)
        step_by_loop(logits, gt_classes, counts)
        last_loss = copy.deepcopy(loss)
        loss(logits, gt_classes)
    factors = []
    step_by_loop(logits, gt_classes, before, factors=factors)
    log_factors = torch.zeros(len(logits), K, dtype=torch.float64)
    for i, j, factor in factors:
        log_factors[i, j] = math.log(factor)
    assert (log_factors > 0).any()
    assert (log_factors < 0).any()

    ours, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    last_loss(ours, gt_classes)["loss_cls"].backward()
    F.cross_entropy(plain[:, :K] + log_factors, gt_classes, ignore_index=K, reduction="sum").div(12).backward()
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-9, atol=1e-12)
    assert (ours.grad[gt_classes == K] == 0).all()
    assert not any(buffer.requires_grad for buffer in loss.buffers())


def test_no_foreground_roi():
    loss = SeesawLoss(K)
    logits = next(make_batches(1))[0].requires_grad_()
    values = loss(logits, torch.full((12,), K))
    sum(values.values()).backward()
    assert values["loss_cls"].item() == 0
    assert values["loss_objectness"].item() > 0
    assert loss.cum_samples.tolist() == [0] * K


def test_many_samples_of_one_class_stay_finite():
    loss = SeesawLoss(2)
    loss.cum_samples.copy_(torch.tensor([1e12, 0.0]))
    logits = torch.tensor([[-1e4, 1e4, 0, 0], [1e4, -1e4, 0, 0]], requires_grad=True)
    value = loss(logits, torch.tensor([0, 1]))["loss_cls"]
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


def test_evaluation_mode_uses_the_counts_and_leaves_them():
    loss, counts = SeesawLoss(K), [0] * K
    first, second = make_batches(2)
    loss(*first)
    step_by_loop(*first, counts)
    expected = copy.deepcopy(loss)(*second)
    # In training the second batch would be counted first; here its counts are in the state already.
    step_by_loop(*second, counts)
    loss.eval()
    loss.cum_samples.copy_(torch.tensor(counts))
    assert loss(*second) == expected
    assert loss.cum_samples.tolist() == counts


def test_scores():
    logits = torch.tensor([[0.0, math.log(3), math.log(4), 0.0]])
    torch.testing.assert_close(SeesawLoss(2).scores(logits), torch.tensor([[0.2, 0.6, 0.2]]))
    torch.testing.assert_close(
        SeesawLoss(2).scores(torch.tensor([[100.0, -100, 100, -100]])), torch.tensor([[1.0, 0, 0]])
    )
    assert SeesawLoss(2).scores(torch.randn(7, 4)).sum(dim=1).tolist() == pytest.approx([1] * 7)


def test_without_objectness_by_hand():
    # Two foreground classes of 4 and 1 samples, uniform scores: only the mitigation of class 1 in row 0 acts.
    loss = SeesawLoss(2, p=1.0, q=1.0, objectness=False)
    loss.cum_samples.copy_(torch.tensor([3.0, 0.0]))
    values = loss(torch.zeros(3, 3), torch.tensor([0, 1, 2]))
    expected = (math.log(1 + 1 / 4 + 1) + math.log(3) + math.log(3)) / 3
    assert set(values) == {"loss_cls"}
    assert values["loss_cls"].item() == pytest.approx(expected)
    torch.testing.assert_close(loss.scores(torch.zeros(1, 3)), torch.full((1, 3), 1 / 3))


def test_without_objectness_the_compensation_leaves_background_out():
    loss = SeesawLoss(2, p=0.0, q=1.0, objectness=False)
    z = torch.log(torch.tensor([[0.2, 0.4, 0.4], [0.2, 0.4, 0.4]]))
    value = loss(z, torch.tensor([0, 2]))["loss_cls"].item()
    # Row 0: class 1 is twice as likely as the true class, so its term is doubled; background's is not.
    assert value == pytest.approx((-math.log(0.2 / (0.2 + 0.8 + 0.4)) - math.log(0.4)) / 2, rel=1e-5)


def test_without_objectness_no_factor_acts_on_a_background_roi():
    # Class 0 is twelve times as likely as the last class, and that has fewer samples.
    loss = SeesawLoss(2, p=1.0, q=1.0, objectness=False)
    loss.cum_samples.copy_(torch.tensor([9.0, 3.0]))
    value = loss(torch.log(torch.tensor([[0.6, 0.05, 0.35]])), torch.tensor([2]))["loss_cls"].item()
    assert value == pytest.approx(-math.log(0.35), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"p": -0.1}, "p is -0.1"), ({"q": -1}, "q is -1"), ({"eps": 0}, "eps is 0"), ({"eps": 1.0}, "eps is 1.0")],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SeesawLoss(3, **arguments)
