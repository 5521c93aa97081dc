"""LVIS metrics as a Detectron2 evaluator, for any dataset in the LVIS or COCO format."""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.lvis_format import annotation_content, check_annotations
from eql_d2.data.registration import ignores_defects, is_federated
from eql_d2.errors import UserError
from eql_d2.evaluation.detection_evaluator import DetectionEvaluator, check_finite
from eql_d2.evaluation.metrics.evaluation import (
    LVIS_MAX_DETECTIONS,
    Evaluation,
    TaskMetrics,
    engine_by_name,
    write_class_ap,
)
from eql_d2.evaluation.metrics.ground_truth import GroundTruth
from eql_d2.evaluation.results.mask_encoding import instances_to_results
from eql_d2.evaluation.results.parts import ResultParts
from eql_d2.evaluation.results_table import FOR_TERMINAL, SHAPES, class_lines, class_table, results_table
from eql_d2.long_tail import CategoryCounts

logger = logging.getLogger(__name__)

RESULTS_FILES = {"lvis": "lvis_instances_results.json", "coco": "coco_instances_results.json"}
"""Names of the files of results, by the rules that they are evaluated by."""


TASKS = ("bbox", "segm")


class LVISEvaluator(DetectionEvaluator):
    """AP, AP of rare, common and frequent classes, and AR by LVIS's federated rules.

    Nothing grows with the dataset but the ground truth (about the size of its file, in every process) and the
    engine's compact states: results go to disk as they come. With several machines, ``output_dir`` has to be a
    folder that they share for the results of all to be saved; the metrics do not depend on it.

    Args:
        dataset_name: registered dataset whose metadata has ``json_file`` in the LVIS format, or in COCO's with
            ``federated`` False or as Detectron2 registers it, which is evaluated by COCO's rules.
        tasks: "bbox" and/or "segm"; None infers them from the first predictions.
        distributed: gather from all processes; False evaluates what this process saw.
        output_dir: folder for the results (:data:`RESULTS_FILES`) and per-class AP as CSV; None writes nothing.
        max_dets_per_image: detections of an image that count, at most LVIS's 300; None or -1 is 300.
        engine: key of :data:`eql_d2.evaluation.metrics.evaluation.ENGINES` for LVIS's rules.
        fixed_ap: also compute AP-fixed, and save all detections.
        counts: of the training data, from which the groups rare, common and frequent follow; None takes them from the
            annotation file.
        show_classes: print the AP of each class, and not of the best and worst alone.

    Raises:
        UserError: the annotation file is missing or broken, or the engine is unknown.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        engine: str = "hotcoco",
        fixed_ap: bool = False,
        counts: CategoryCounts | None = None,
        show_classes: bool = False,
    ) -> None:
        wrong = next((task for task in tasks or () if task not in TASKS), None)
        if wrong is not None:
            raise UserError(f"{wrong!r} cannot be evaluated; tasks are of {', '.join(TASKS)}.")
        metadata = MetadataCatalog.get(dataset_name)
        if metadata.get("prepare"):
            metadata.prepare()
        if not metadata.get("json_file"):
            raise UserError(f"Dataset {dataset_name!r} has no annotation file; register it, or correct the name.")
        self._ground_truth = _ground_truth(dataset_name, counts)
        self._numbers = metadata.get("image_numbers") or {}  # of images whose ids are no numbers
        if engine == "lvis" and self._ground_truth.rules == "coco":
            engine = "pycocotools"  # the official one by these rules
        engine_by_name(engine, self._ground_truth.rules)
        self._category_ids = self._ground_truth.category_ids
        self._tasks = tuple(tasks) if tasks else None
        self._dataset_name, self._show_classes = dataset_name, show_classes
        self._distributed = distributed
        self._output_dir = Path(output_dir) if output_dir else None
        self._max_dets = LVIS_MAX_DETECTIONS
        if max_dets_per_image is not None and max_dets_per_image >= 0:  # -1 is Detectron2's "all"
            self._max_dets = min(max_dets_per_image, LVIS_MAX_DETECTIONS)
        self._engine, self._fixed_ap = engine, fixed_ap
        self._parts: ResultParts | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        if self._parts:
            self._parts.discard()
        name = RESULTS_FILES[self._ground_truth.rules]
        self._parts = ResultParts(self._output_dir / name) if self._output_dir else None
        self._evaluation = self._start(self._tasks) if self._tasks else None

    def _start(self, tasks: Sequence[str]) -> Evaluation | None:
        """None for a test set, which has no annotations."""
        if not self._ground_truth.is_labelled:
            return None
        return Evaluation(self._ground_truth, tasks, self._engine, self._max_dets, self._fixed_ap)

    def _process_image(self, image_id: int, instances: Any) -> None:
        image_id = self._numbers.get(image_id, image_id)
        if image_id not in self._ground_truth.images:
            raise UserError(f"Image id {image_id} is not in {self._ground_truth.source}.")
        check_finite(image_id, instances)
        if self._tasks is None:
            self._tasks = TASKS if instances.has("pred_masks") else ("bbox",)
            self._evaluation = self._start(self._tasks)
        # The sort is stable, so that detections of equal score keep the model's order.
        best = instances.scores.argsort(descending=True, stable=True)
        results = instances_to_results(instances[best if self._fixed_ap else best[: self._max_dets]], image_id)
        for result in results:
            result["category_id"] = self._category_ids[result["category_id"]]
        if self._evaluation:
            self._evaluation.add_image(image_id, results)
        if self._parts:
            self._parts.write(results)

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Compute the metrics.

        Returns:
            On the first process ``{"bbox": {metric: percent}, "segm": …}``, NaN where a metric is undefined
            (no class of that group); elsewhere an empty dict.

        Raises:
            UserError: the results cannot be written.
        """
        if self._parts:
            saved = self._parts.join(self._distributed)
            if saved:
                logger.info("Saved the results to %s.", saved)
        if not self._ground_truth.is_labelled:
            logger.info("%s has no annotations; results are saved, not evaluated.", self._ground_truth.source)
            return OrderedDict()
        self._agree_on_tasks()
        metrics = self._evaluation.compute(self._distributed) if self._evaluation else {}
        if self._output_dir:
            for task, of_task in metrics.items():
                self._output_dir.mkdir(parents=True, exist_ok=True)
                write_class_ap(self._output_dir / f"per_class_ap_{task}.csv", self._ground_truth, of_task.class_ap)
        if metrics:
            logger.info("%s", self._told(metrics), extra=FOR_TERMINAL)
        return OrderedDict((task, of_task.values) for task, of_task in metrics.items())

    def _told(self, metrics: Mapping[str, TaskMetrics]) -> str:
        """The metrics for the terminal."""
        truth = self._ground_truth
        lines = [
            f"{self._dataset_name}: {len(truth)} images by {truth.rules.upper()}'s rules, in percent",
            results_table({task: of_task.values for task, of_task in metrics.items()}),
        ]
        names = [category["name"] for category in truth.categories]
        columns = {SHAPES[task]: 100 * of_task.class_ap["AP"] for task, of_task in metrics.items()}
        if self._show_classes:
            lines.append(class_table(names, truth.frequencies, columns))
        else:
            shape, ap = list(columns.items())[-1]
            lines.append(class_lines(names, truth.frequencies, ap, shape))
            if self._output_dir:
                lines.append(f"each class: {self._output_dir}/per_class_ap_*.csv, or here by TEST.SHOW_CLASSES True")
        return "\n".join(filter(None, lines))

    def _agree_on_tasks(self) -> None:
        """Let a process that saw no image join in the tasks that the others inferred."""
        if self._distributed:
            self._tasks = next((tasks for tasks in comm.all_gather(self._tasks) if tasks), None)
        if self._tasks and not self._evaluation:
            self._evaluation = self._start(self._tasks)


def _ground_truth(dataset_name: str, counts: CategoryCounts | None) -> GroundTruth:
    """The ground truth of a registered dataset, read from its cache, with the groups of some counts."""
    metadata, federated = MetadataCatalog.get(dataset_name), is_federated(dataset_name)
    annotations = open_annotations(metadata.json_file)
    check_annotations(annotations, federated, ignores_defects(dataset_name))
    content = annotation_content(annotations, metadata.get("categories"))
    rules = "lvis" if federated else "coco"
    known = counts is not None and counts.names == tuple(category["name"] for category in content["categories"])
    ground_truth = GroundTruth(content, metadata.json_file, rules, takes_frequencies=not known)
    if known and counts is not None:
        ids = ground_truth.category_ids  # its own: those of the training file may be others
        ground_truth.set_frequencies(dict(zip(ids, counts.frequency_groups, strict=True)), "the training data")
    return ground_truth
