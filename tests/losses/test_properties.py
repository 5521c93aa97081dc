"""What holds for any logits and labels: reductions of one loss to another, bounds, symmetries."""

import copy

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from eql_d2.losses import (
    BalancedGroupSoftmax,
    EqualizationLoss,
    EqualizationLossV2,
    SeesawLoss,
    SigmoidCrossEntropy,
    SoftmaxEqualizationLoss,
)
from tests.losses.all_losses import FREQUENCIES, INSTANCE_COUNTS, LOSSES, K
from tests.losses.test_interface import compute

seeds = st.integers(0, 2**31 - 1)
rows = st.integers(1, 12)


def make_batch(seed, rows, width, scale=4.0, last=K):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, width, generator=generator, dtype=torch.float64) * scale
    return logits, torch.randint(0, last + 1, (rows,), generator=generator)


@given(seeds, rows)
def test_eql_without_a_tail_is_binary_cross_entropy(seed, rows):
    logits, gt_classes = make_batch(seed, rows, K)
    ours = EqualizationLoss(K, FREQUENCIES, lambda_=0.0)(logits, gt_classes)["loss_cls"]
    targets = F.one_hot(gt_classes, K + 1)[:, :K].double()
    torch.testing.assert_close(ours, F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / rows)


@given(seeds, rows, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_tail_never_costs_more(seed, rows, one, other):
    logits, gt_classes = make_batch(seed, rows, K)
    small, large = (
        EqualizationLoss(K, FREQUENCIES, lambda_=value)(logits, gt_classes)["loss_cls"]
        for value in sorted((one, other))
    )
    assert large <= small + 1e-12
    assert small <= SigmoidCrossEntropy(K)(logits, gt_classes)["loss_cls"] + 1e-12


@given(seeds, rows)
def test_eqlv2_s_first_step_is_binary_cross_entropy(seed, rows):
    logits, gt_classes = make_batch(seed, rows, K + 1)
    targets = F.one_hot(gt_classes, K + 1).double()
    ours = EqualizationLossV2(K)(logits, gt_classes)["loss_cls"]
    torch.testing.assert_close(ours, F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / rows)


@given(seeds, rows)
def test_seesaw_without_factors_is_softmax_and_objectness(seed, rows):
    logits, gt_classes = make_batch(seed, rows, K + 2)
    ours = SeesawLoss(K, p=0, q=0)(logits, gt_classes)
    foreground = gt_classes < K
    classes = F.cross_entropy(logits[foreground, :K], gt_classes[foreground], reduction="sum") / rows
    torch.testing.assert_close(ours["loss_cls"], classes)
    torch.testing.assert_close(ours["loss_objectness"], F.cross_entropy(logits[:, K:], (~foreground).long()))


@given(seeds, rows)
def test_bags_with_one_bin_is_two_softmaxes(seed, rows):
    logits, gt_classes = make_batch(seed, rows, K + 3)
    ours = BalancedGroupSoftmax(K, INSTANCE_COUNTS, bin_edges=(), others_ratio=1e9)(logits, gt_classes)["loss_cls"]
    is_background = gt_classes == K
    in_bin = torch.where(is_background, 0, gt_classes + 1)  # background is the bin's "others"
    classes = F.cross_entropy(logits[:, : K + 1], in_bin) if not is_background.all() else 0.0
    torch.testing.assert_close(ours, classes + F.cross_entropy(logits[:, K + 1 :], is_background.long()))


@given(seeds, rows)
def test_seql_without_drops_is_softmax(seed, rows):
    logits, gt_classes = make_batch(seed, rows, K, last=K - 1)
    ours = SoftmaxEqualizationLoss(K, FREQUENCIES, lambda_=0.5, gamma=0.0)(logits, gt_classes)["loss_cls"]
    torch.testing.assert_close(ours, F.cross_entropy(logits, gt_classes))


@settings(max_examples=15)
@given(st.sampled_from(sorted(LOSSES)), seeds, st.floats(0.1, 1e4))
def test_losses_are_finite_positive_and_fall_along_the_gradient(name, seed, scale):
    loss = LOSSES[name]()
    logits, gt_classes = make_batch(seed, 8, loss.num_logits, scale, last=K if loss.has_background else K - 1)
    logits.requires_grad_()
    value = sum(compute(loss, logits, gt_classes).values())
    value.backward()
    assert value.isfinite()
    assert value >= 0
    assert logits.grad.isfinite().all()
    if name.startswith("seesaw"):
        return  # its compensation changes with the logits, which the gradient leaves out
    with torch.no_grad():
        step = 1e-3 / logits.grad.norm().clamp(min=1e-12)
        assert sum(compute(loss, logits - step * logits.grad, gt_classes).values()) <= value + 1e-9


DRAWS = ("acsl", "bags", "seql", "federated", "drop_loss")  # random numbers for each RoI or class


@settings(max_examples=15)
@given(st.sampled_from([name for name in LOSSES if not name.startswith(DRAWS)]), seeds)
def test_the_order_of_rois_does_not_matter(name, seed):
    loss = LOSSES[name]()
    logits, gt_classes = make_batch(seed, 8, loss.num_logits, last=K if loss.has_background else K - 1)
    other = copy.deepcopy(loss)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(other(logits[order], gt_classes[order]), loss(logits, gt_classes))
    for ours, theirs in zip(loss.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
