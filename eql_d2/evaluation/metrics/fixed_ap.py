"""AP-fixed: a number of detections for each class over the whole set, instead of one for all classes of an image.

Dave, Dollár, Ramanan, Kirillov, Girshick, "Evaluating Large-Vocabulary Object Detectors: The Devil is in the
Details", 2021, section 3: the 10,000 best detections of each class count, however many of them an image holds.
"""

from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
from detectron2.utils import comm

from eql_d2.evaluation.metrics.engines import (
    AP_NAMES,
    Metrics,
    group_values,
    labelled_results,
    mean_defined,
    per_class_ap,
    result_areas,
)
from eql_d2.evaluation.metrics.ground_truth import GroundTruth, Records

DETECTIONS_PER_CLASS = 10_000

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
# All, small, medium, large: (A, 2) pixels, as in the official package.
AREAS = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]], dtype=np.float64)

A, T = len(AREAS), len(IOU_THRESHOLDS)
NOT_COUNTED = 2 ** (A * T) - 1
# A detection as matching leaves it: bit (area * T + threshold) says whether it matched, and whether it is left out.
DETECTION = np.dtype(
    [
        ("class", "<i4"),
        ("place", "<i4"),
        ("image", "<i8"),
        ("score", "<f8"),
        ("matched", "<u8"),
        ("ignored", "<u8"),
    ]
)
BIT = np.left_shift(np.uint64(1), np.arange(A * T, dtype=np.uint64)).reshape(A, T)


class FixedAP:
    """Matches image by image, and keeps of each class no more than the detections that can count.

    A detection's match depends on better ones of its class and image alone, so that cutting the worst off after
    matching is the same as cutting before it. Of equal scores at the cut, those of the lower image id stay, and of
    one image those that come first. At most 480 MB for LVIS's 1203 classes in each process; the first process
    collects what all have kept.

    Args:
        ground_truth: images and categories, by LVIS's rules.
        task: "bbox" or "segm".
        limit: detections of a class that count.
        buffer: detections to take in before the worst are cut off.
        box_areas: whether masks are small, medium or large by their results' boxes.
    """

    def __init__(
        self,
        ground_truth: GroundTruth,
        task: str,
        limit: int = DETECTIONS_PER_CLASS,
        buffer: int = 1_000_000,
        box_areas: bool = False,
    ) -> None:
        self._box_areas = box_areas
        self._task, self._limit, self._buffer = task, limit, buffer
        self._class_of = {category_id: index for index, category_id in enumerate(ground_truth.category_ids)}
        self._frequencies = ground_truth.frequencies
        num_classes = len(self._class_of)
        self._num_objects = np.zeros((num_classes, A), dtype=np.int64)
        self._kept = np.zeros(0, dtype=DETECTION)
        self._cutoffs = np.full(num_classes, -np.inf)
        self._pending: list[np.ndarray] = []
        self._num_pending = 0

    def update(self, image: dict[str, Any], annotations: Records, results: Records) -> None:
        """Match one image's results, all that the model has."""
        annotations = [annotation for annotation in annotations if annotation["area"] > 0]
        results = [result for result in results if result["category_id"] in self._class_of]
        detections = np.zeros(len(results), dtype=DETECTION)
        detections["class"] = [self._class_of[result["category_id"]] for result in results]
        detections["score"] = [result["score"] for result in results]
        detections["image"], detections["place"] = image["id"], np.arange(len(results))
        detections["ignored"] = NOT_COUNTED  # what is not labelled takes a place among the best, and counts for nothing
        number_of = {id(result): number for number, result in enumerate(results)}
        labelled = labelled_results(image, annotations, results, set(self._class_of))
        areas = dict(zip(map(id, labelled), result_areas(labelled, self._task, self._box_areas), strict=True))
        for category_id in {annotation["category_id"] for annotation in annotations} | {
            result["category_id"] for result in labelled
        }:
            objects = [annotation for annotation in annotations if annotation["category_id"] == category_id]
            found = [r for r in labelled if r["category_id"] == category_id and areas[id(r)] > 0]
            found.sort(key=lambda result: -result["score"])
            rows = [number_of[id(result)] for result in found]
            left_out = _outside_ranges([annotation["area"] for annotation in objects])
            left_out |= np.array([bool(annotation.get("ignore")) for annotation in objects], dtype=bool)
            self._num_objects[self._class_of[category_id]] += (~left_out).sum(axis=1)
            matched, ignored = match(self._overlaps(image, objects, found), left_out)
            exempt = _outside_ranges([areas[id(result)] for result in found])
            exempt |= category_id in image["not_exhaustive_category_ids"]
            ignored |= ~matched & exempt[:, None]
            detections["matched"][rows] = (matched * BIT[..., None]).sum(axis=(0, 1), dtype=np.uint64)
            detections["ignored"][rows] = (ignored * BIT[..., None]).sum(axis=(0, 1), dtype=np.uint64)
        self._take_in(detections)

    def _overlaps(self, image: dict[str, Any], objects: Records, found: Records) -> np.ndarray:
        """(D, G) intersection over union."""
        if not objects or not found:
            return np.zeros((len(found), len(objects)))
        if self._task == "bbox":
            sides: list[Any] = [
                np.array([r["bbox"] for r in records], dtype=np.float64) for records in (found, objects)
            ]
        else:
            size = image["height"], image["width"]
            sides = [[r["segmentation"] for r in found], [run_lengths(r["segmentation"], *size) for r in objects]]
        return np.asarray(mask_utils.iou(*sides, [0] * len(objects)))

    def _take_in(self, detections: np.ndarray) -> None:
        self._pending.append(detections[detections["score"] >= self._cutoffs[detections["class"]]])
        self._num_pending += len(self._pending[-1])
        if self._num_pending > self._buffer:
            self._cut()

    def _cut(self) -> None:
        self._kept = best_of_each_class([self._kept, *self._pending], self._limit)
        self._pending, self._num_pending = [], 0
        classes, starts, counts = np.unique(self._kept["class"], return_index=True, return_counts=True)
        full = counts >= self._limit
        self._cutoffs[classes[full]] = self._kept["score"][starts[full] + self._limit - 1]

    def metrics(self, distributed: bool) -> Metrics | None:
        """Metrics in [0, 1] (-1 where undefined) and per-class AP (K,); None on all processes but the first."""
        self._cut()
        shards = [(self._kept, self._num_objects)]
        if distributed:
            shards = comm.gather(shards[0], dst=0)
        if not shards:
            return None
        kept = best_of_each_class([kept for kept, _ in shards], self._limit)
        precision = precisions(kept, np.sum([num_objects for _, num_objects in shards], axis=0))
        everything = precision[..., 0]
        values = {
            "AP": mean_defined(everything),
            "AP50": mean_defined(everything[0]),
            "AP75": mean_defined(everything[5]),
            **{f"AP{size}": mean_defined(precision[..., i]) for i, size in enumerate("sml", start=1)},
            **group_values(everything, self._frequencies),
        }
        return {name: values[name] for name in AP_NAMES}, per_class_ap(everything)


def run_lengths(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """A mask as compressed run lengths, from polygons or run lengths of either form."""
    if isinstance(segmentation, list):
        return mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_utils.frPyObjects(segmentation, height, width)
    return segmentation


def _outside_ranges(areas: list[float]) -> np.ndarray:
    """(A, N), which areas lie outside which range."""
    values = np.array(areas, dtype=np.float64)
    return (values < AREAS[:, :1]) | (values > AREAS[:, 1:])


def match(overlaps: np.ndarray, left_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give detections, best first, the free object that they overlap most, for all thresholds and areas at once.

    Args:
        overlaps: (D, G) intersection over union, detections by falling score.
        left_out: (A, G), objects that do not count; one is taken only if no other will do.

    Returns:
        (A, T, D) whether matched, and (A, T, D) whether matched to an object that does not count.
    """
    num_detections, num_objects = overlaps.shape
    matched = np.zeros((A, T, num_detections), dtype=bool)
    ignored = np.zeros_like(matched)
    if not num_objects:
        return matched, ignored
    free = np.ones((A, T, num_objects), dtype=bool)
    needed = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[:, None]
    # Equal overlaps go to the later object, as in the official package: so objects are looked at from the end.
    overlaps, left_out = overlaps[:, ::-1], left_out[:, ::-1]
    for number in np.flatnonzero(overlaps.max(axis=1, initial=0) >= IOU_THRESHOLDS[0]):
        overlap = overlaps[number]
        possible = free & (overlap >= needed)
        counting = possible & ~left_out[:, None]
        has_counting = counting.any(axis=2)
        candidates = np.where(has_counting[..., None], counting, possible)
        chosen = np.where(candidates, overlap, -1).argmax(axis=2)
        hit = candidates.any(axis=2)
        matched[..., number] = hit
        ignored[..., number] = hit & ~has_counting
        areas, thresholds = np.nonzero(hit)
        free[areas, thresholds, chosen[areas, thresholds]] = False
    return matched, ignored


def best_of_each_class(parts: list[np.ndarray], limit: int) -> np.ndarray:
    """The best detections of each class, ordered by class, falling score, image and place."""
    everything = np.concatenate(parts)
    order = np.lexsort((everything["place"], everything["image"], -everything["score"], everything["class"]))
    everything = everything[order]
    starts = np.searchsorted(everything["class"], everything["class"])
    return everything[np.arange(len(everything)) - starts < limit]


def precisions(kept: np.ndarray, num_objects: np.ndarray) -> np.ndarray:
    """Interpolated precision at 101 recalls.

    Args:
        kept: detections ordered as by :func:`best_of_each_class`.
        num_objects: (K, A) objects that count.

    Returns:
        (T, 101, K, A), -1 where there is no object.
    """
    num_classes = len(num_objects)
    result = -np.ones((T, len(RECALLS), num_classes, A))
    bounds = np.searchsorted(kept["class"], np.arange(num_classes + 1))
    for index, area in np.argwhere(num_objects > 0):
        rows = kept[bounds[index] : bounds[index + 1]]
        bits = BIT[area][:, None]
        matched, counted = (rows["matched"] & bits) != 0, (rows["ignored"] & bits) == 0
        right = np.cumsum(matched & counted, axis=1, dtype=np.float64)
        wrong = np.cumsum(~matched & counted, axis=1, dtype=np.float64)
        precision = right / (right + wrong + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = right / num_objects[index, area]
        for threshold in range(T):
            at = np.searchsorted(recall[threshold], RECALLS)
            reached = at < len(rows)
            result[threshold, :, index, area] = 0
            result[threshold, reached, index, area] = precision[threshold, at[reached]]
    return result
