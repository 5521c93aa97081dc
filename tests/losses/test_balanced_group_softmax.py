"""BAGS against a plain loop, hand-computed values, the layout of LVIS and the random choice of others."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eql_d2.long_tail import LVIS_COUNT_FILES
from eql_d2.losses import BalancedGroupSoftmax

# Groups: {1, 4}, {0}, none, {2, 3}, background. Logits: [o 1 4] [o 0] [o] [o 2 3] [o b].
COUNTS = [10, 3, 1000, 5000, 9]
K = len(COUNTS)
WIDTH = K + 6


def softmax(values):
    exponentials = [math.exp(v - max(values)) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def groups_by_loop(counts, edges):
    """The layout by its definition: for each class group its classes in order, without "others"."""
    groups = [[] for _ in range(len(edges) + 1)]
    for class_id, count in enumerate(counts):
        groups[sum(count >= edge for edge in edges)].append(class_id)
    return groups


def loss_by_loop(logits, gt_classes, counts, edges=(10, 100, 1000), used=None):
    """The definition, one number at a time; ``used[i][g]`` says whether group g uses RoI i (default: all)."""
    groups = groups_by_loop(counts, edges)
    rows, classes = len(logits), len(counts)
    total, start = 0.0, 0
    for g, members in enumerate([*groups, [classes]]):
        is_last = g == len(groups)
        kept = sum(int(y) in members for y in gt_classes)
        group_sum, count = 0.0, 0
        for i in range(rows):
            y = int(gt_classes[i])
            if used is not None and not is_last and not used[i][g]:
                continue
            target = 1 + members.index(y) if y in members else 0
            probability = softmax(logits[i, start : start + 1 + len(members)].tolist())[target]
            group_sum -= math.log(probability)
            count += 1
        if kept or is_last:
            total += group_sum / count
        start += 1 + len(members)
    assert start == logits.shape[1]
    return total


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(14, WIDTH, generator=generator, dtype=torch.float64) * 3
    return logits, torch.tensor([0, 1, 2, 3, 4, 5, 5, 5, 2, 2, 5, 3, 5, 5])


@pytest.mark.parametrize("labels", [range(K + 1), (5,), (0, 5), (1, 2, 3)])
def test_with_all_others_equals_the_loop(batch, labels):
    logits, gt_classes = batch
    of_interest = torch.tensor([y in labels for y in gt_classes.tolist()])
    logits, gt_classes = logits[of_interest], gt_classes[of_interest]
    value = BalancedGroupSoftmax(K, COUNTS, others_ratio=1000)(logits, gt_classes)["loss_cls"]
    assert value.item() == pytest.approx(loss_by_loop(logits, gt_classes, COUNTS), rel=1e-12)


@pytest.mark.parametrize("others_ratio", [0, 0.5, 1.0, 8.0])
def test_with_the_same_choice_equals_the_loop(batch, others_ratio):
    logits, gt_classes = batch
    loss = BalancedGroupSoftmax(K, COUNTS, others_ratio=others_ratio)
    torch.manual_seed(0)
    used = loss.choose_rois(gt_classes)
    torch.manual_seed(0)
    value = loss(logits, gt_classes)["loss_cls"]
    assert value.item() == pytest.approx(loss_by_loop(logits, gt_classes, COUNTS, used=used.tolist()), rel=1e-12)


def test_other_bin_edges(batch):
    logits, gt_classes = batch
    loss = BalancedGroupSoftmax(K, COUNTS, bin_edges=(500,), others_ratio=1000)
    assert loss.num_logits == K + 1 + 3
    logits = logits[:, : loss.num_logits]
    value = loss(logits, gt_classes)["loss_cls"]
    assert value.item() == pytest.approx(loss_by_loop(logits, gt_classes, COUNTS, edges=(500,)), rel=1e-12)


def test_by_hand():
    # One group [others, class 0, class 1], then [others, background]; all logits 0. One RoI of class 1 and three of
    # background, all of which are others of the class group.
    loss = BalancedGroupSoftmax(2, [50, 60], bin_edges=(), others_ratio=8)
    assert loss.num_logits == 5
    value = loss(torch.zeros(4, 5), torch.tensor([1, 2, 2, 2]))["loss_cls"]
    assert value.item() == pytest.approx(math.log(3) + math.log(2))
    # Only background: the class group gives 0.
    assert loss(torch.zeros(4, 5), torch.full((4,), 2))["loss_cls"].item() == pytest.approx(math.log(2))


def test_layout():
    loss = BalancedGroupSoftmax(K, COUNTS)
    assert loss.group_sizes == [3, 2, 1, 3, 2]
    assert loss.num_logits == WIDTH
    assert loss.logit_of_class.tolist() == [4, 1, 7, 8, 2, 10]
    assert loss.group_of_class.tolist() == [1, 0, 3, 3, 0, 4]
    assert loss.target_logit[2].tolist() == [0, 3, 5, 7, 9]
    assert loss.target_logit[5].tolist() == [0, 3, 5, 6, 10]


# Facts from the instance counts of LVIS; 1236 logits are also the first code's.
@pytest.mark.parametrize(
    ("version", "edges", "classes", "logits"),
    [
        ("lvis_v0.5", (10, 100, 1000), [294, 453, 302, 181], 1236),
        ("lvis_v0.5", (100,), [747, 483], 1234),
        ("lvis_v0.5", (5, 10, 50, 100, 500, 1000, 5000), [178, 116, 327, 126, 224, 78, 156, 25], 1240),
        ("lvis_v1", (10, 100, 1000), [200, 412, 334, 257], 1209),
    ],
)
def test_layout_of_lvis(version, edges, classes, logits):
    content = json.loads(LVIS_COUNT_FILES[version].read_text())
    counts = [category["instance_count"] for category in content["categories"]]
    loss = BalancedGroupSoftmax(len(counts), counts, bin_edges=edges)
    assert [size - 1 for size in loss.group_sizes] == [*classes, 1]
    assert loss.num_logits == logits == sum(loss.group_sizes)
    start = 0
    for members in groups_by_loop(counts, edges):
        assert loss.logit_of_class[members].tolist() == list(range(start + 1, start + 1 + len(members)))
        start += 1 + len(members)


@settings(deadline=None)
@given(
    gt_classes=st.lists(st.integers(0, K), max_size=40),
    others_ratio=st.sampled_from([0.0, 0.1, 0.29, 0.5, 1.0, 3.0, 8.0]),
    seed=st.integers(0, 100),
)
def test_number_of_chosen_rois(gt_classes, others_ratio, seed):
    loss = BalancedGroupSoftmax(K, COUNTS, others_ratio=others_ratio)
    torch.manual_seed(seed)
    used = loss.choose_rois(torch.tensor(gt_classes, dtype=torch.int64))
    assert used.shape == (len(gt_classes), 5)
    assert used[:, -1].all()
    for g, members in enumerate(groups_by_loop(COUNTS, (10, 100, 1000))):
        in_group = torch.tensor([y in members for y in gt_classes], dtype=torch.bool)
        kept = int(in_group.sum())
        assert used[in_group, g].all()
        assert used[~in_group, g].sum() == min(int(others_ratio * kept), len(gt_classes) - kept)


def test_every_other_is_chosen_equally_often():
    loss = BalancedGroupSoftmax(K, COUNTS, others_ratio=2.0)
    gt_classes = torch.tensor([0, 5, 5, 1, 2, 5, 3, 5, 5])
    torch.manual_seed(0)
    share = torch.stack([loss.choose_rois(gt_classes)[:, 1] for _ in range(2000)]).double().mean(dim=0)
    assert share[0] == 1
    # 2 of 8; four standard deviations of 2000 draws are 0.039.
    assert share[1:].tolist() == pytest.approx([0.25] * 8, abs=0.039)


def test_others_that_are_not_used_get_no_gradient(batch):
    logits, gt_classes = batch
    logits = logits.requires_grad_()
    loss = BalancedGroupSoftmax(K, COUNTS, others_ratio=1.0)
    torch.manual_seed(0)
    used = loss.choose_rois(gt_classes)
    torch.manual_seed(0)
    loss(logits, gt_classes)["loss_cls"].backward()
    by_group = torch.stack([part.abs().sum(dim=1) for part in logits.grad.split(loss.group_sizes, dim=1)], dim=1)
    used[:, 2] = False  # an empty group has a single logit, whose softmax is constant
    assert torch.equal(by_group > 0, used)


def test_scores(batch):
    loss = BalancedGroupSoftmax(K, COUNTS)
    logits = batch[0]
    scores = loss.scores(logits)
    for row, values in zip(scores.tolist(), logits.tolist(), strict=True):
        foreground, background = softmax(values[9:])
        low, middle, high = softmax(values[0:3]), softmax(values[3:5]), softmax(values[6:9])
        expected = [p * foreground for p in (middle[1], low[1], high[1], high[2], low[2])]
        assert row == pytest.approx([*expected, background])
    # A group's scores sum to its probability of holding the class, times that of foreground.
    group = [1, 4]
    inside = 1 - logits[:, :3].softmax(dim=1)[:, 0]
    torch.testing.assert_close(scores[:, group].sum(dim=1), inside * (1 - scores[:, -1]))


def test_an_empty_group_works_and_is_told(batch):
    with pytest.warns(UserWarning, match=r"No class has its number of instances in group 1 of bin_edges \(10, 11\)"):
        loss = BalancedGroupSoftmax(2, [5, 50], bin_edges=(10, 11))
    assert loss.group_sizes == [2, 1, 2, 2]
    logits = torch.randn(3, loss.num_logits, requires_grad=True)
    value = loss(logits, torch.tensor([0, 1, 2]))["loss_cls"]
    value.backward()
    assert value.isfinite()
    assert (logits.grad[:, 2] == 0).all()  # the empty group's only logit
    assert loss.scores(logits).shape == (3, 3)


def test_the_grouping_is_not_in_checkpoints():
    assert BalancedGroupSoftmax(K, COUNTS).state_dict() == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"instance_counts": [1, 2]}, r"instance_counts has shape \(2,\); num_classes asks for \(5,\)"),
        ({"instance_counts": [1, 2, 3, 4, -1]}, "instance_counts must not be negative"),
        ({"bin_edges": (10, 10)}, r"bin_edges is \(10, 10\); each edge must be above the one before"),
        ({"others_ratio": -1.0}, "others_ratio is -1.0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        BalancedGroupSoftmax(K, **{"instance_counts": COUNTS, **arguments})
