"""EBL against a plain loop over several steps, with and without numbers of objects."""

import math

import pytest
import torch

from eql_d2.losses import EquilibriumLoss
from tests.losses.loops import make_batch, softmax

K = 4


def ebl_by_loop(steps, alpha, background_score, use_objects):
    """Of each step the loss, and at last the mean scores."""
    mean = [0.01] * (K + 1)
    losses = []
    for logits, gt_classes, objects in steps:
        rows, classes = logits.tolist(), gt_classes.tolist()
        entries = {c: [] for c in range(K)}
        numbers = objects.tolist() if use_objects else range(len(rows))
        for number in set(numbers):
            members = [i for i, of in enumerate(numbers) if of == number and classes[i] < K]
            if members:
                c = classes[members[0]]
                entries[c].append(sum(softmax(rows[i])[c] for i in members) / len(members))
        for c, scores in entries.items():
            if scores:
                kept = alpha ** len(scores)
                mean[c] = kept * mean[c] + (1 - kept) * sum(scores) / len(scores)
        mean[K] = background_score
        total = 0.0
        for row, y in zip(rows, classes, strict=True):
            terms = [m * math.exp(z) for m, z in zip(mean, row, strict=True)]
            total -= math.log(terms[y] / sum(terms))
        losses.append(total / len(rows))
    return losses, mean


def make_steps():
    for seed in range(4):
        logits, gt_classes = make_batch(K + 1, K, seed)
        # Objects of one class each: a class's rows are shared out to two objects, not in order.
        objects = torch.where(gt_classes == K, -1, gt_classes * 7 + torch.arange(12) % 2)
        yield logits, gt_classes, objects


@pytest.mark.parametrize("use_objects", [True, False])
def test_equals_the_loop(use_objects):
    loss = EquilibriumLoss(K, alpha=0.8, background_score=0.02).double()
    loss.mean_score.fill_(0.01)
    losses, mean = ebl_by_loop(make_steps(), 0.8, 0.02, use_objects)
    for (logits, gt_classes, objects), expected in zip(make_steps(), losses, strict=True):
        labels = {"gt_instances": objects} if use_objects else {}
        assert loss(logits, gt_classes, **labels)["loss_cls"].item() == pytest.approx(expected, rel=1e-11)
    assert loss.mean_score.tolist() == pytest.approx(mean, rel=1e-11)


def test_two_rois_of_one_object_count_once():
    logits, gt_classes = torch.zeros(2, 3), torch.tensor([0, 0])
    one, two = EquilibriumLoss(2), EquilibriumLoss(2)
    one(logits, gt_classes, gt_instances=torch.tensor([5, 5]))
    two(logits, gt_classes, gt_instances=torch.tensor([5, 6]))
    assert one.mean_score[0].item() == pytest.approx(0.9 * 0.01 + 0.1 / 3)
    assert two.mean_score[0].item() == pytest.approx(0.81 * 0.01 + 0.19 / 3)


def test_the_mean_is_a_constant_to_the_gradient():
    logits, gt_classes = make_batch(K + 1, K)
    loss = EquilibriumLoss(K)
    leaf = logits.clone().requires_grad_()
    loss(leaf, gt_classes)["loss_cls"].backward()
    shifted = (logits + loss.mean_score.double().log()).softmax(dim=1)
    expected = (shifted - torch.nn.functional.one_hot(gt_classes, K + 1)) / len(logits)
    torch.testing.assert_close(leaf.grad, expected)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="alpha is 2; it must lie between 0 and 1"):
        EquilibriumLoss(2, alpha=2)
    with pytest.raises(ValueError, match="background_score is 0; it must be above 0"):
        EquilibriumLoss(2, background_score=0)
