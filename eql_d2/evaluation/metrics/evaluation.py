"""An evaluation in progress: results come image by image, metrics at the end."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eql_d2.errors import UserError
from eql_d2.evaluation.metrics.boundary_ap import BoundaryEngine
from eql_d2.evaluation.metrics.engines import AP_NAMES, COCO_METRIC_NAMES, METRIC_NAMES, SHAPE_OF_TASK, HotcocoEngine
from eql_d2.evaluation.metrics.fixed_ap import FixedAP
from eql_d2.evaluation.metrics.ground_truth import GroundTruth, Records
from eql_d2.evaluation.metrics.references import OfficialEngine, PycocotoolsEngine
from eql_d2.plain_files import csv_text

LVIS_MAX_DETECTIONS = 300

# By the rules of the ground truth: LVIS's engines, and COCO's.
ENGINES: dict[str, dict[str, Callable[..., Any]]] = {
    "lvis": {"hotcoco": HotcocoEngine, "lvis": OfficialEngine},
    "coco": {"hotcoco": HotcocoEngine, "pycocotools": PycocotoolsEngine},
}


@dataclass(frozen=True)
class TaskMetrics:
    """Metrics of boxes or masks.

    Attributes:
        values: metric → percent, NaN where undefined.
        class_ap: column → (K,) in [0, 1], NaN where a class has no ground truth.
    """

    values: dict[str, float]
    class_ap: dict[str, np.ndarray]


class Evaluation:
    """Feeds the engines of all tasks.

    By LVIS's rules the 300 best results of an image count, over all classes; by COCO's the 100 best of each class
    in an image.

    Args:
        ground_truth: images, categories and rules.
        tasks: "bbox", "segm" and/or "boundary" (masks by their boundaries; all results are kept in memory).
        engine: key of :data:`ENGINES` for the ground truth's rules; boundaries have one of their own.
        max_dets: results of an image that count by LVIS's rules, at most 300.
        fixed_ap: also compute AP-fixed of boxes and masks, of all results given.
        box_areas: whether masks are small, medium or large by their results' boxes, and not by their own areas.

    Raises:
        UserError: the engine is unknown, masks are broken, or AP-fixed is asked for by COCO's rules.
    """

    def __init__(
        self,
        ground_truth: GroundTruth,
        tasks: Sequence[str],
        engine: str = "hotcoco",
        max_dets: int = LVIS_MAX_DETECTIONS,
        fixed_ap: bool = False,
        box_areas: bool = False,
    ) -> None:
        if needs_masks(tasks):
            ground_truth.check_masks()
        if fixed_ap and ground_truth.rules != "lvis":
            raise UserError(f"AP-fixed is defined by LVIS's rules, and {ground_truth.source} is evaluated by COCO's.")
        self._ground_truth = ground_truth
        self._max_dets = min(max_dets, LVIS_MAX_DETECTIONS) if ground_truth.rules == "lvis" else None
        engine_class = engine_by_name(engine, ground_truth.rules)
        options = {task: {"box_areas": True} if box_areas and task == "segm" else {} for task in tasks}
        self._engines = {
            task: (BoundaryEngine if task == "boundary" else engine_class)(ground_truth, task, **options[task])
            for task in tasks
        }
        self._fixed = {
            task: FixedAP(ground_truth, task, **options[task]) for task in tasks if fixed_ap and task != "boundary"
        }
        self._seen: set[int] = set()

    def add_image(self, image_id: int, results: Records) -> None:
        """Take the results of an image; one without results has to be told of too.

        Args:
            image_id: id of an image of the ground truth.
            results: ``category_id``, ``score``, and ``bbox`` or ``segmentation`` (compressed run lengths) as the
                tasks need; in the model's order, which decides between equal scores.

        Raises:
            UserError: the image is not in the annotation file, or was there before.
        """
        if image_id not in self._ground_truth.images:
            raise UserError(f"Image id {image_id} is not in {self._ground_truth.source}.")
        if image_id in self._seen:
            raise UserError(f"Image id {image_id} of {self._ground_truth.source} was given twice.")
        self._seen.add(image_id)
        image, annotations = self._ground_truth.images[image_id], self._ground_truth.annotations(image_id)
        counting = results
        if self._max_dets is not None and len(results) > self._max_dets:
            counting = sorted(results, key=lambda result: -result["score"])[: self._max_dets]
        for engine in self._engines.values():
            engine.update(image, annotations, counting)
        for fixed in self._fixed.values():
            fixed.update(image, annotations, results)

    def compute(self, distributed: bool = False) -> dict[str, TaskMetrics]:
        """Metrics of each task.

        Args:
            distributed: over the images of all processes, every one of which has to call this.

        Returns:
            Task → metrics on the first process; elsewhere nothing.
        """
        metrics = {}
        for task, engine in self._engines.items():
            computed = engine.metrics(distributed)
            fixed = self._fixed[task].metrics(distributed) if task in self._fixed else None
            if computed is None:
                continue
            names = METRIC_NAMES if self._ground_truth.rules == "lvis" else COCO_METRIC_NAMES
            values, class_ap = computed
            percents = self._percents(values, names)
            columns = {"AP": class_ap}
            if fixed is not None:
                fixed_values, columns["AP-fixed"] = fixed
                fixed_percents = self._percents(fixed_values, AP_NAMES)
                percents |= {f"{name}-fixed": value for name, value in fixed_percents.items()}
            metrics[task] = TaskMetrics(percents, columns)
        return metrics

    def _percents(self, values: dict[str, float], names: Sequence[str]) -> dict[str, float]:
        percents = {name: 100 * float(values[name]) if values[name] >= 0 else float("nan") for name in names}
        if "" in self._ground_truth.frequencies:  # no groups without the frequency of every class
            percents |= dict.fromkeys(("APr", "APc", "APf"), float("nan"))
        return percents


def needs_masks(tasks: Sequence[str]) -> bool:
    """Whether a task is of masks."""
    return any(SHAPE_OF_TASK[task] == "segmentation" for task in tasks)


def engine_by_name(name: str, rules: str) -> Callable[..., Any]:
    """An engine's class.

    Raises:
        UserError: there is none of this name for these rules.
    """
    if name not in ENGINES[rules]:
        raise UserError(
            f"The evaluation engine is {name!r} (TEST.LVIS_ENGINE or --engine); "
            f"by {rules.upper()}'s rules it must be one of {', '.join(ENGINES[rules])}."
        )
    return ENGINES[rules][name]


def write_class_ap(path: Path, ground_truth: GroundTruth, class_ap: dict[str, np.ndarray]) -> None:
    """Write the AP of each class in percent as CSV, "nan" where a class has no ground truth."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["category_id", "name", "frequency", *class_ap])
        for index, category in enumerate(ground_truth.categories):
            values = [f"{100 * column[index]:.4f}" for column in class_ap.values()]
            writer.writerow([category["id"], csv_text(category["name"]), category["frequency"], *values])
