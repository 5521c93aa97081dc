"""Merging of overlapping detections: non-maximum suppression and weighted boxes fusion, of many images at once.

All groups of detections (of one class in one image) go through their ranks together, so that Python loops over ranks,
and NumPy over pairs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Overlap = Callable[[Integers, Integers], Floats]


def box_iou(boxes: Floats, others: Floats) -> Floats:
    """Intersection over union of boxes (N, 4) with as many others, in x0, y0, x1, y1; 0 where both are empty."""
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    common = sides.clip(min=0).prod(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (others[:, 2:] - others[:, :2]).prod(axis=1) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def mask_overlap(masks: Sequence[dict[str, Any]], groups: Integers) -> Overlap:
    """Looks up the intersection over union of masks in the same group.

    Args:
        masks: N compressed run lengths.
        groups: (N,) number of each one's group, ascending.
    """
    starts, sizes = _spans(groups)
    tables = [
        np.asarray(mask_utils.iou(list(masks[a : a + n]), list(masks[a : a + n]), [0] * n)).ravel()
        if n > 1
        else np.ones(1)
        for a, n in zip(starts.tolist(), sizes.tolist(), strict=True)
    ]
    table = np.concatenate([*tables, np.zeros(0)])
    bases = np.cumsum(sizes**2) - sizes**2

    def overlap(first: Integers, second: Integers) -> Floats:
        group = groups[first]
        return table[bases[group] + (first - starts[group]) * sizes[group] + second - starts[group]]

    return overlap


def suppress(groups: Integers, overlap: Overlap, threshold: float) -> Integers:
    """Greedy non-maximum suppression within each group.

    Args:
        groups: (N,) number of each detection's group, 0, 1, … ascending; within a group the best comes first.
        overlap: gives the intersection over union of pairs of detections, (M,) and (M,) indices to (M,).
        threshold: a detection that overlaps a better one, itself kept, more than this is dropped.

    Returns:
        (N,) of each detection the one that stays for it: itself, or the kept one that it overlaps most.
    """
    return _join(groups, overlap, threshold, lambda new, leaders: None)


def fuse(groups: Integers, boxes: Floats, scores: Floats, weights: Floats, threshold: float) -> tuple[Integers, Floats]:
    """Weighted boxes fusion (Solovyev, Wang, Gabruseva, 2021, section 2) within each group.

    From the best on, each box joins the fused box that it overlaps most, or starts one of its own; a fused box is the
    mean of its members weighted by their confidence, here weight · score.

    Args:
        groups: as of :func:`suppress`, ordered by weight · score.
        boxes: (N, 4), in x0, y0, x1, y1.
        scores: (N,), not negative.
        weights: (N,) weight of each one's model, positive.
        threshold: intersection over union with the fused box above which a box joins it.

    Returns:
        (N,) of each detection the first member of its fused box, and (N, 4) the fused boxes at their first members.
    """
    confidences = weights * scores
    totals = confidences.copy()
    sums = boxes * confidences[:, None]
    fused = boxes.copy()

    def take_in(new: Integers, leaders: Integers) -> None:
        totals[leaders] += confidences[new]
        sums[leaders] += boxes[new] * confidences[new, None]
        positive = leaders[totals[leaders] > 0]
        fused[positive] = sums[positive] / totals[positive, None]

    leaders = _join(groups, lambda first, second: box_iou(fused[first], boxes[second]), threshold, take_in)
    return leaders, fused


def fused_scores(leaders: Integers, scores: Floats, weights: Floats, total_weights: Floats) -> Floats:
    """Scores of fused boxes: the weighted mean of the members, times the share of the models that found the object.

    With weights of 1 this is the paper's mean · min(T, N) / N for T members and N models. With others, T and N are the
    sums of the weights.

    Args:
        leaders: (N,) first result of :func:`fuse`.
        scores: (N,).
        weights: (N,) weight of each one's model.
        total_weights: (N,) sum of the weights of all models that know its class.

    Returns:
        (N,) at the first members; meaningless elsewhere.
    """
    found = np.bincount(leaders, weights, len(leaders))
    mean = np.bincount(leaders, weights * scores, len(leaders)) / np.where(found > 0, found, 1)
    return mean * np.minimum(found, total_weights) / total_weights


def rescore(scores: Floats, factors: Floats) -> Floats:
    """Multiply the odds s / (1 - s) of scores by factors.

    The order within a class stays, and so does its AP but for what is kept of an image: where more detections compete
    than ``max_detections``, classes with a factor above 1 win places. Small scores are multiplied by the factor itself,
    and none passes 1, where ties would arise.

    Args:
        scores: (N,) in [0, 1].
        factors: (N,) positive.

    Returns:
        (N,) in [0, 1].
    """
    return np.where(factors == 1, scores, factors * scores / (1 + (factors - 1) * scores))


def _join(
    groups: Integers, overlap: Overlap, threshold: float, take_in: Callable[[Integers, Integers], None]
) -> Integers:
    """Let each detection join the leader that it overlaps most, or lead; rank by rank, all groups at once."""
    starts, sizes = _spans(groups)
    leaders = np.arange(len(groups))
    slots = np.arange(len(groups))  # from the start of each group on, its leaders so far
    num_leaders = np.ones_like(starts)
    by_size = np.argsort(-sizes, kind="stable")
    for rank in range(1, int(sizes.max(initial=0))):
        active = by_size[: np.searchsorted(-sizes[by_size], -rank, side="left")]  # of more than `rank` detections
        new = starts[active] + rank
        counts = num_leaders[active]
        ends = np.cumsum(counts)
        pair = np.repeat(np.arange(len(active)), counts)
        place = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
        candidates = slots[starts[active][pair] + place]
        overlaps = overlap(candidates, new[pair])
        most = np.maximum.reduceat(overlaps, ends - counts)
        first = np.minimum.reduceat(np.where(overlaps == most[pair], place, len(groups)), ends - counts)
        joins = most > threshold
        chosen = slots[starts[active] + np.where(joins, first, 0)]
        leaders[new[joins]] = chosen[joins]
        take_in(new[joins], chosen[joins])
        leading = active[~joins]
        slots[starts[leading] + num_leaders[leading]] = new[~joins]
        num_leaders[leading] += 1
    return leaders


def _spans(groups: Integers) -> tuple[Integers, Integers]:
    """Start and size of each group 0, 1, …."""
    sizes = np.bincount(groups)
    return np.cumsum(sizes) - sizes, sizes
