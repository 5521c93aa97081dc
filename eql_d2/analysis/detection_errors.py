"""What is right and what is wrong about the detections of one image."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from eql_d2.drawing.instances import box_iou, shared_areas

MIN_IOU = 0.5


class Judgement(NamedTuple):
    """What became of detections and objects.

    Attributes:
        kinds: for each detection a key of :data:`KINDS`.
        missed: (M,) bool, objects that no detection found with their class.
    """

    kinds: list[str]
    missed: np.ndarray


KINDS = {
    "right": "an object of its class, overlapping with an IoU of at least 0.5",
    "class": "lies on an object of another class; the metric counts it where the image is labelled for its class",
    "place": "no object of any class is there",
    "twice": "its object has a better detection already",
    "open": "the image is not labelled for its class, or a region to ignore is there; the metric leaves it out",
}


def judge_detections(
    boxes: np.ndarray,
    classes: np.ndarray,
    true_boxes: np.ndarray,
    true_classes: np.ndarray,
    *,
    labelled: Collection[int] | None = None,
    not_exhaustive: Collection[int] = (),
    regions: np.ndarray | None = None,
) -> Judgement:
    """Match detections to objects as LVIS's metric does at an IoU of 0.5, and name the errors.

    In the order given, each detection takes the object of its class that it overlaps most, of those that are left.
    One without such an object is, in this order, a second detection of its object, on an object of another class,
    not to be judged, or in the wrong place.

    Args:
        boxes: (N, 4) left, top, right, bottom, best score first.
        classes: (N,) integers.
        true_boxes: (M, 4).
        true_classes: (M,).
        labelled: classes that the image is labelled for; None is all.
        not_exhaustive: classes of which the image may hold more than is annotated.
        regions: (R, 4) regions to ignore; a detection with half its area in one is not judged.
    """
    iou = box_iou(boxes, true_boxes)
    same = classes[:, None] == true_classes[None, :]
    ignored = np.zeros(len(boxes), dtype=bool)
    if regions is not None and len(regions) and len(boxes):
        areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-9)
        ignored = (shared_areas(boxes, regions) / areas[:, None]).max(axis=1) >= 0.5
    free, kinds = np.ones(len(true_boxes), dtype=bool), []
    for index, class_id in enumerate(classes.tolist()):
        fits = np.where(same[index] & free & (iou[index] >= MIN_IOU), iou[index], 0)
        if fits.max(initial=0) > 0:
            free[fits.argmax()] = False
            kinds.append("right")
        elif (same[index] & (iou[index] >= MIN_IOU)).any() and class_id not in not_exhaustive:
            kinds.append("twice")
        elif (~same[index] & (iou[index] >= MIN_IOU)).any():
            kinds.append("class")
        elif ignored[index] or class_id in not_exhaustive or (labelled is not None and class_id not in labelled):
            kinds.append("open")
        else:
            kinds.append("place")
    return Judgement(kinds, free)
