"""Suppression and fusion against their definitions: by hand, and as loops over one detection after the other."""

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from eql_d2.evaluation.results.fusion import box_iou, fuse, fused_scores, mask_overlap, rescore, suppress


def random_groups(seed, count, num_groups, levels=None):
    """Groups, boxes around a few places, and scores that fall within each group."""
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(0, num_groups, count))
    groups = np.unique(groups, return_inverse=True)[1]
    scores = rng.random(count) if levels is None else rng.integers(0, levels + 1, count) / levels
    order = np.lexsort((-scores, groups))
    corner = rng.choice([10.0, 14.0, 30.0], (count, 2)) + rng.normal(size=(count, 2))
    boxes = np.concatenate([corner, corner + 8 + 2 * rng.random((count, 2))], axis=1)
    return groups, boxes, scores[order]


def iou(box, other):
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    common = max(width, 0) * max(height, 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return common / (sum(areas) - common) if sum(areas) > 0 else 0.0


def plain_suppression(groups, boxes, threshold):
    kept, leaders = [], []
    for i, box in enumerate(boxes):
        overlaps = [(iou(boxes[k], box), -k) for k in kept if groups[k] == groups[i]]
        best, place = max(overlaps, default=(0, 0))
        leaders.append(-place if best > threshold else i)
        if leaders[-1] == i:
            kept.append(i)
    return leaders


def plain_fusion(groups, boxes, scores, weights, threshold):
    clusters = []  # [group, fused box, members]
    for i, box in enumerate(boxes):
        overlaps = [(iou(c[1], box), -n) for n, c in enumerate(clusters) if c[0] == groups[i]]
        best, place = max(overlaps, default=(0, 0))
        if best > threshold:
            cluster = clusters[-place]
            cluster[2].append(i)
            confidence = [weights[m] * scores[m] for m in cluster[2]]
            if sum(confidence) > 0:
                cluster[1] = sum(c * boxes[m] for c, m in zip(confidence, cluster[2], strict=True)) / sum(confidence)
        else:
            clusters.append([groups[i], box, [i]])
    return clusters


cases = given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 60),
    num_groups=st.integers(1, 12),
    levels=st.sampled_from([None, 3]),
    threshold=st.sampled_from([0.0, 0.3, 0.55, 1.0]),
)


@settings(max_examples=60, deadline=None)
@cases
def test_suppression_is_greedy(seed, count, num_groups, levels, threshold):
    groups, boxes, _ = random_groups(seed, count, num_groups, levels)
    leaders = suppress(groups, lambda a, b: box_iou(boxes[a], boxes[b]), threshold)
    assert leaders.tolist() == plain_suppression(groups, boxes, threshold)


@settings(max_examples=60, deadline=None)
@cases
def test_fusion_is_that_of_the_paper(seed, count, num_groups, levels, threshold):
    groups, boxes, scores = random_groups(seed, count, num_groups, levels)
    leaders, fused = fuse(groups, boxes, scores, np.ones(count), threshold)
    clusters = plain_fusion(groups, boxes, scores, np.ones(count), threshold)
    assert np.flatnonzero(leaders == np.arange(count)).tolist() == sorted(members[0] for _, _, members in clusters)
    merged = fused_scores(leaders, scores, np.ones(count), np.full(count, 3.0))
    for _, box, members in clusters:
        assert (leaders[members] == members[0]).all()
        assert fused[members[0]] == pytest.approx(box, abs=1e-9)
        assert merged[members[0]] == pytest.approx(scores[members].mean() * min(len(members), 3) / 3)


def test_suppression_equals_torchvision():
    groups, boxes, scores = random_groups(1, 3000, 40)
    leaders = suppress(groups, lambda a, b: box_iou(boxes[a], boxes[b]), 0.5)
    kept = batched_nms(*(torch.from_numpy(a) for a in (boxes, scores, groups)), 0.5)
    assert np.flatnonzero(leaders == np.arange(3000)).tolist() == sorted(kept.tolist())
    assert 100 < len(kept) < 1500


def test_fusion_by_hand():
    """Weights 2 and 1: confidences 1.6 and 0.4, so four fifths of the first box and one fifth of the second."""
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 8.0], [50, 50, 60, 60]])
    scores, weights = np.array([0.8, 0.4, 0.3]), np.array([2.0, 1.0, 1.0])
    leaders, fused = fuse(np.zeros(3, dtype=int), boxes, scores, weights, 0.55)
    assert leaders.tolist() == [0, 0, 2]
    assert fused[0] == pytest.approx([0, 0, 10, 9.6])
    assert fused[2].tolist() == [50, 50, 60, 60]
    merged = fused_scores(leaders, scores, weights, np.full(3, 3.0))
    assert merged[0] == pytest.approx((2 * 0.8 + 0.4) / 3)
    assert merged[2] == pytest.approx(0.3 / 3)  # only one of three thirds found it


def test_a_box_joins_the_fused_box_not_its_first_member():
    """The third overlaps the first by 6/12 = 0.5, but the mean of the first two by 6.5/11.5 = 0.565."""
    boxes = np.array([[0, 0, 9, 1], [1, 0, 10, 1.0], [3, 0, 12, 1]])
    threshold = 0.55
    assert iou(boxes[0], boxes[2]) == 0.5
    leaders, fused = fuse(np.zeros(3, dtype=int), boxes, np.array([0.9, 0.9, 0.5]), np.ones(3), threshold)
    assert leaders.tolist() == [0, 0, 0]
    # (0.9 · 0 + 0.9 · 1 + 0.5 · 3) / 2.3
    assert fused[0] == pytest.approx([2.4 / 2.3, 0, 9 + 2.4 / 2.3, 1])
    kept = suppress(np.zeros(3, dtype=int), lambda a, b: box_iou(boxes[a], boxes[b]), threshold)
    assert kept.tolist() == [0, 0, 2]


def test_a_model_that_finds_an_object_twice_does_not_lift_it_above_its_scores():
    leaders, scores = np.zeros(4, dtype=int), np.array([0.9, 0.9, 0.6, 0.4])
    merged = fused_scores(leaders, scores, np.array([5.0, 5, 1, 1]), np.full(4, 6.0))
    assert merged[0] == pytest.approx((5 * 0.9 + 5 * 0.9 + 0.6 + 0.4) / 12)


def test_scores_of_zero():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9.0]])
    leaders, fused = fuse(np.zeros(2, dtype=int), boxes, np.zeros(2), np.ones(2), 0.5)
    assert leaders.tolist() == [0, 0]
    assert fused[0].tolist() == [0, 0, 10, 10]
    assert fused_scores(leaders, np.zeros(2), np.ones(2), np.full(2, 2.0))[0] == 0


def test_empty_boxes_overlap_nothing():
    boxes = np.array([[5, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10.0]])
    assert box_iou(boxes[[0, 0, 2]], boxes[[1, 2, 2]]).tolist() == [0, 0, 1]


def test_masks_in_the_same_group_are_compared():
    rng = np.random.default_rng(0)
    pixels = rng.random((9, 12, 15)) < 0.5
    masks = mask_utils.encode(np.asfortranarray(pixels.transpose(1, 2, 0), dtype=np.uint8))
    groups = np.array([0, 0, 0, 1, 2, 2, 2, 2, 3])
    overlap = mask_overlap(masks, groups)
    first, second = (a.ravel() for a in np.meshgrid(np.arange(9), np.arange(9)))
    same = groups[first] == groups[second]
    first, second = first[same], second[same]
    expected = [
        (pixels[a] & pixels[b]).sum() / (pixels[a] | pixels[b]).sum() for a, b in zip(first, second, strict=True)
    ]
    assert overlap(first, second) == pytest.approx(expected)


def test_rescoring_keeps_the_order_and_the_range():
    scores = np.linspace(0, 1, 101)
    assert rescore(scores, np.ones(101)).tolist() == scores.tolist()
    lifted = rescore(scores, np.full(101, 4.0))
    assert lifted[[0, 20, 50, 100]] == pytest.approx([0, 0.5, 0.8, 1])  # odds 1/4 → 1, 1 → 4
    assert (np.diff(lifted) > 0).all()
    assert rescore(np.array([1e-4]), np.array([3.0]))[0] == pytest.approx(3e-4, rel=1e-3)
    assert rescore(lifted, np.full(101, 0.25)) == pytest.approx(scores)
