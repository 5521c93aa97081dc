"""The compiled engine: hotcoco, fed image by image, and led to the very numbers of the official packages."""

import contextlib
import io
from typing import Any

import numpy as np
from detectron2.utils import comm
from hotcoco import StreamingEval
from hotcoco import mask as mask_utils

from eql_d2.evaluation.metrics.ground_truth import GroundTruth, Records

AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
METRIC_NAMES = (*AP_NAMES, "AR@300", "ARs@300", "ARm@300", "ARl@300")
COCO_METRIC_NAMES = (*AP_NAMES, "AR@100", "ARs@100", "ARm@100", "ARl@100")
Metrics = tuple[dict[str, float], np.ndarray]

SHAPE_OF_TASK = {"bbox": "bbox", "segm": "segmentation", "boundary": "segmentation"}

# An area outside every range makes an object one to ignore.
IGNORED_AREA = 1e12


class HotcocoEngine:
    """Matches image by image as predictions arrive; only compact states travel between processes.

    Where hotcoco's own rules differ from those of the official ``lvis`` package, the engine is given what makes
    them agree: objects and detections without area left out, ``iscrowd`` unsaid, ``ignore`` said by an area
    outside all ranges.

    Args:
        ground_truth: images, categories and rules.
        task: "bbox" or "segm".
        box_areas: whether masks are small, medium or large by their results' boxes.
    """

    def __init__(self, ground_truth: GroundTruth, task: str, box_areas: bool = False) -> None:
        self._task, self._box_areas = task, box_areas
        self._rules = ground_truth.rules
        self._frequencies = ground_truth.frequencies
        self._known_categories = set(ground_truth.category_ids)
        # Without a letter hotcoco sees no groups; what it says of them is replaced by the caller.
        categories = [{**c, "frequency": c["frequency"] or "f"} for c in ground_truth.categories]
        self._stream = StreamingEval(categories, iou_type=task, lvis_style=self._rules == "lvis")

    def update(self, image: dict[str, Any], annotations: Records, results: Records) -> None:
        """Match one image's results; an image without results has to be told of too.

        Args:
            image: an entry of ``ground_truth.images``.
            annotations: the objects of the image.
            results: its results, no more than count.
        """
        if self._rules == "lvis":
            known = self._known_categories
            annotations, results = lvis_view(image, annotations, results, known, self._task, self._box_areas)
        else:
            annotations = [{key: value for key, value in a.items() if key != "ignore"} for a in annotations]
            results = [result for result in results if result["category_id"] in self._known_categories]
        self._stream.update([image], annotations, [of_task(result, self._task, self._box_areas) for result in results])

    def metrics(self, distributed: bool) -> Metrics | None:
        """Metrics in [0, 1] (-1 where undefined) and per-class AP (K,); None on all processes but the first."""
        streams = [self._stream]
        if distributed:
            states = comm.gather(self._stream.to_bytes(), dst=0)
            if not states:
                return None
            streams = [StreamingEval.from_bytes(state) for state in states]
        evaluation = StreamingEval.merge(streams).finalize()
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
            evaluation.summarize()
        assert evaluation.eval is not None  # accumulate() fills it
        precision = np.asarray(evaluation.eval["precision"])[..., 0, -1]
        values = dict(evaluation.get_results())
        if self._rules == "coco":
            values = coco_values(values, precision, self._frequencies)
        return values, per_class_ap(precision)


def lvis_view(
    image: dict[str, Any],
    annotations: Records,
    results: Records,
    known: set[int],
    task: str,
    box_areas: bool = False,
) -> tuple[Records, Records]:
    """The objects and results of an image that the official ``lvis`` package goes by, as it takes them."""
    annotations = [_as_lvis_sees_it(annotation) for annotation in annotations if annotation["area"] > 0]
    results = labelled_results(image, annotations, results, known)
    areas = result_areas(results, task, box_areas)
    return annotations, [result for result, area in zip(results, areas, strict=True) if area > 0]


def _as_lvis_sees_it(annotation: dict[str, Any]) -> dict[str, Any]:
    if "ignore" not in annotation and "iscrowd" not in annotation:
        return annotation
    seen = {key: value for key, value in annotation.items() if key not in ("ignore", "iscrowd")}
    return {**seen, "area": IGNORED_AREA} if annotation.get("ignore") else seen


def labelled_results(image: dict[str, Any], annotations: Records, results: Records, known: set[int]) -> Records:
    """The results of classes that the image is labelled for: annotated in it, or verified not to be in it."""
    labelled = {annotation["category_id"] for annotation in annotations}.union(image["neg_category_ids"]) & known
    return [result for result in results if result["category_id"] in labelled]


def result_areas(results: Records, task: str, box_areas: bool = False) -> list[float]:
    """Areas of boxes or masks, in pixels; with ``box_areas`` those of the boxes that masks come with."""
    if task == "bbox" or box_areas:
        return [result["bbox"][2] * result["bbox"][3] for result in results]
    # Not pycocotools', which fails on a list of more than 255 masks under NumPy 2.
    return mask_utils.area([result["segmentation"] for result in results]).tolist() if results else []


def of_task(result: dict[str, Any], task: str, box_areas: bool = False) -> dict[str, Any]:
    """A result without the other task's shape: with a box in it, mask evaluation uses box areas, as all engines do."""
    shape = SHAPE_OF_TASK[task]
    return {
        "image_id": result["image_id"],
        "category_id": result["category_id"],
        "score": result["score"],
        shape: result[shape],
        **({"bbox": result["bbox"]} if box_areas else {}),
    }


def per_class_ap(precision: np.ndarray) -> np.ndarray:
    """Average precision of each class.

    Args:
        precision: (T thresholds, recalls, K), -1 where a class has no ground truth.

    Returns:
        (K,) in [0, 1], NaN where a class has no ground truth.
    """
    # A class without ground truth has -1 at every threshold and recall.
    return np.where(precision[0, 0] < 0, np.nan, precision.mean(axis=(0, 1)))


def mean_defined(values: np.ndarray) -> float:
    """Mean of what is not -1; -1 if nothing is left."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def group_values(precision: np.ndarray, frequencies: list[str]) -> dict[str, float]:
    """APr, APc and APf of a (T, recalls, K) array of precisions, -1 where undefined."""
    letters = np.array(frequencies)
    return {f"AP{letter}": mean_defined(precision[:, :, letters == letter]) for letter in "rcf"}


def coco_values(values: dict[str, float], precision: np.ndarray, frequencies: list[str]) -> dict[str, float]:
    """COCO's metrics under this project's names, with those of the groups added."""
    recalls = {f"{name}@100": values[key] for name, key in zip(("AR", "ARs", "ARm", "ARl"), COCO_RECALLS, strict=True)}
    return {**values, **recalls, **group_values(precision, frequencies)}


COCO_RECALLS = ("AR100", "ARs", "ARm", "ARl")
