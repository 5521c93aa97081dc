"""The metric of the Open Images Challenge 2019, detection track: AP at an IoU of 0.5, as the official code computes it.

The definition is https://storage.googleapis.com/openimages/web/evaluation.html#object_detection_eval, and where that is
silent ``OpenImagesChallengeEvaluator`` of the TensorFlow Object Detection API, with a weight of 1 for groups:

1. A detection counts only if its class is labelled in the image: it has boxes, or people said that it is there or not.
2. By class and image, detections are taken in the order of their scores. Each goes to the box (not around a group) of
   the largest IoU; it is true if that is at least 0.5 and no better detection has got the box.
3. What is not true goes to the group that holds the largest share of its area. If that is at least 0.5, it is one of
   the group's detections. Each group that has any is one true detection, of their best score; the others are ignored.
4. Boxes and groups count alike in recall. AP is the area under the precision that does not fall with recall, over all
   recalls (PASCAL VOC 2010). Classes without boxes have none.

Where the official code leaves the order of equal scores to NumPy's unstable sort, here it is that of image ids, and
within an image that of the detections, so that the numbers do not depend on the number of processes.
"""

from typing import NamedTuple

import numpy as np
from detectron2.utils import comm

MATCHING_THRESHOLD = 0.5  # of IoU, and of the share of a detection's area within a group
NUM_GROUPS = 5


class ImageTruth(NamedTuple):
    """What is known of an image; boxes are given to the ancestors of their classes, too.

    Attributes:
        boxes: (G, 4) float64, x0, y0, x1, y1.
        classes: (G,) int64, in [0, K).
        is_group_of: (G,) bool, whether the box is around a group.
        labelled: (L,) int64, classes that the image is labelled for, those of the boxes among them.
    """

    boxes: np.ndarray
    classes: np.ndarray
    is_group_of: np.ndarray
    labelled: np.ndarray


class Matches(NamedTuple):
    """What an image gives to the curves of precision and recall.

    Attributes:
        scores: (M,) float64.
        classes: (M,) int64.
        is_true: (M,) bool.
    """

    scores: np.ndarray
    classes: np.ndarray
    is_true: np.ndarray


def match_image(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, truth: ImageTruth) -> Matches:
    """Tell true detections from false ones in one image (rules 1 to 3).

    Args:
        boxes: (D, 4) float64, x0, y0, x1, y1, in the units of the truth; those without area are left out.
        scores: (D,) float64.
        classes: (D,) int64, in [0, K).
        truth: of the image.

    Returns:
        The detections that count, by descending score, and behind them those of groups.
    """
    counts = (boxes[:, :2] < boxes[:, 2:]).all(axis=1) & np.isin(classes, truth.labelled)
    order = np.flatnonzero(counts)[np.argsort(-scores[counts], kind="stable")]
    boxes, scores, classes = boxes[order], scores[order], classes[order]
    overlaps = _intersections(boxes, truth.boxes)
    areas, truth_areas = _areas(boxes), _areas(truth.boxes)
    same_class = classes[:, None] == truth.classes[None, :]

    single = np.flatnonzero(~truth.is_group_of)
    unions = areas[:, None] + truth_areas[None, single] - overlaps[:, single]
    box_of, close = _best(overlaps[:, single] / unions, same_class[:, single])
    is_true = np.zeros(len(scores), bool)
    is_true[close[_first_of_each(box_of[close])]] = True

    groups = np.flatnonzero(truth.is_group_of)
    group_of, within = _best(overlaps[:, groups] / areas[:, None], same_class[:, groups])
    in_group = within[~is_true[within]]
    best = in_group[_first_of_each(group_of[in_group])]
    best = best[scores[best] > 0]  # the official code takes a best score of 0 for none
    alone = np.ones(len(scores), bool)
    alone[in_group] = False
    return Matches(
        np.concatenate([scores[alone], scores[best]]),
        np.concatenate([classes[alone], classes[best]]),
        np.concatenate([is_true[alone], np.ones(len(best), bool)]),
    )


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _intersections(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N, M) areas of the intersections of (N, 4) and (M, 4) boxes."""
    sides = np.minimum(one[:, None, 2:], other[None, :, 2:]) - np.maximum(one[:, None, :2], other[None, :, :2])
    return sides.clip(min=0).prod(axis=2)


def _best(shares: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each detection the column of its largest share, (D,); and the detections where that is large enough."""
    if not shares.shape[1]:
        return np.zeros(len(shares), np.int64), np.zeros(0, np.int64)
    shares = np.where(allowed, shares, -1.0)
    columns = shares.argmax(axis=1)
    return columns, np.flatnonzero(shares[np.arange(len(shares)), columns] >= MATCHING_THRESHOLD)


def _first_of_each(values: np.ndarray) -> np.ndarray:
    """Where each of the values occurs first."""
    return np.unique(values, return_index=True)[1]


class OpenImagesMetric:
    """Collects images, and computes the AP of each class.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._num_objects = np.zeros(num_classes, np.int64)
        self._matches: list[Matches] = []
        self._image_ids: list[int] = []

    def add_image(
        self, image_id: int, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, truth: ImageTruth
    ) -> None:
        """Take the detections of an image; arguments as of :func:`match_image`."""
        self._num_objects += np.bincount(truth.classes, minlength=self._num_classes)
        self._matches.append(match_image(boxes, scores, classes, truth))
        self._image_ids.append(image_id)

    def class_ap(self, distributed: bool = False) -> np.ndarray | None:
        """AP of each class.

        Args:
            distributed: over the images of all processes, every one of which has to call this.

        Returns:
            (K,) in [0, 1], NaN where a class has no box; None on all processes but the first.
        """
        lengths = [len(match.scores) for match in self._matches]
        columns = [np.concatenate(column) for column in zip(*self._matches, strict=True)] or list(_NOTHING)
        state = (*columns, np.repeat(np.array(self._image_ids, np.int64), lengths), self._num_objects)
        states = comm.gather(state, dst=0) if distributed else [state]
        if not states:
            return None
        *of_detections, num_objects = zip(*states, strict=True)
        scores, classes, is_true, image_ids = map(np.concatenate, of_detections)
        return average_precision(scores, classes, is_true, image_ids, np.sum(num_objects, axis=0))


_NOTHING = (np.zeros(0), np.zeros(0, np.int64), np.zeros(0, bool))


def average_precision(
    scores: np.ndarray, classes: np.ndarray, is_true: np.ndarray, image_ids: np.ndarray, num_objects: np.ndarray
) -> np.ndarray:
    """AP of each class (rule 4).

    Args:
        scores: (M,) of the detections of all images.
        classes: (M,) int64, in [0, K).
        is_true: (M,) bool.
        image_ids: (M,), which decide between equal scores; within an image the order given does.
        num_objects: (K,) boxes and groups of each class.

    Returns:
        (K,) in [0, 1], NaN where a class has no object.
    """
    order = np.lexsort((image_ids, -scores, classes))  # stable
    is_true = is_true[order]
    starts = np.searchsorted(classes[order], np.arange(len(num_objects) + 1))
    ap = np.full(len(num_objects), np.nan)
    for index in np.flatnonzero(num_objects):
        hits = is_true[starts[index] : starts[index + 1]]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        ap[index] = envelope[hits].sum() / num_objects[index]
    return ap


def group_means(class_ap: np.ndarray, instance_counts: np.ndarray) -> dict[str, float]:
    """Mean AP of five groups of classes by their number of training instances, as in EQLv2's README.

    AP1 is that of the rarest fifth (100 of 500 classes), AP5 that of the most frequent. The first EQL paper counts
    the other way round: its AP1 is the most frequent.

    Args:
        class_ap: (K,), NaN where undefined.
        instance_counts: (K,) boxes in the training set.

    Returns:
        "AP1" to "AP5", NaN where a group has no class with an AP.
    """
    groups = np.array_split(np.argsort(instance_counts, kind="stable"), NUM_GROUPS)
    return {f"AP{number}": mean_without_nan(class_ap[group]) for number, group in enumerate(groups, start=1)}


def mean_without_nan(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN if nothing is left."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
