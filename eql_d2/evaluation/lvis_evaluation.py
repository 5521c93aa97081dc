"""LVIS metrics as a Detectron2 evaluator, for any dataset in the LVIS format."""

import csv
import itertools
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm

from eql_d2.data.categories import dataset_counts
from eql_d2.data.lvis_format import read_annotation_file
from eql_d2.errors import UserError
from eql_d2.evaluation.engines import ENGINES, METRIC_NAMES

LVIS_MAX_DETECTIONS = 300

logger = logging.getLogger(__name__)


class LVISEvaluator(DatasetEvaluator):
    """AP, AP of rare, common and frequent classes, and AR by LVIS's federated rules.

    Args:
        dataset_name: registered dataset whose metadata has ``json_file`` in the LVIS format.
        tasks: "bbox" and/or "segm"; None infers them from the first predictions.
        distributed: gather from all processes; False evaluates what this process saw.
        output_dir: folder for ``lvis_instances_results.json`` and per-class AP as CSV; None writes nothing.
        max_dets_per_image: detections of an image that count, at most LVIS's 300; None or -1 is 300.
        engine: key of :data:`ENGINES`.

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
    ) -> None:
        if engine not in ENGINES:
            raise UserError(f"TEST.LVIS_ENGINE is {engine!r}; it must be one of {', '.join(ENGINES)}.")
        counts = dataset_counts((dataset_name,))
        self._category_ids, self._class_names = counts.category_ids, counts.names
        self._annotation_file = MetadataCatalog.get(dataset_name).json_file
        self._ground_truth = read_annotation_file(self._annotation_file)
        self._images = {image["id"]: image for image in self._ground_truth["images"]}
        self._annotations: dict[int, list] = defaultdict(list)
        for annotation in self._ground_truth["annotations"]:
            self._annotations[annotation["image_id"]].append(annotation)
        self._tasks = tuple(tasks) if tasks else None
        self._distributed = distributed
        self._output_dir = Path(output_dir) if output_dir else None
        unlimited = max_dets_per_image is None or max_dets_per_image < 0  # -1 is Detectron2's "all"
        self._max_dets = LVIS_MAX_DETECTIONS if unlimited else min(max_dets_per_image, LVIS_MAX_DETECTIONS)
        self._engine_class = ENGINES[engine]
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._results: list[dict[str, Any]] = []
        self._engines = self._make_engines() if self._tasks else {}

    def _make_engines(self) -> dict[str, Any]:
        return {task: self._engine_class(self._ground_truth, task) for task in self._tasks}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take the predictions of some images.

        Args:
            inputs: dataset dicts with ``image_id``.
            outputs: dicts with ``instances``, in the size of the original images.

        Raises:
            UserError: an image is not in the annotation file.
        """
        for image, output in zip(inputs, outputs, strict=True):
            self._process_image(image["image_id"], output["instances"].to("cpu"))

    def _process_image(self, image_id: int, instances: Any) -> None:
        if image_id not in self._images:
            raise UserError(f"Image id {image_id} is not in {self._annotation_file}.")
        if not self._engines:
            self._tasks = self._tasks or (("bbox", "segm") if instances.has("pred_masks") else ("bbox",))
            self._engines = self._make_engines()
        # The sort is stable, so that detections of equal score keep the model's order.
        best = instances.scores.argsort(descending=True, stable=True)[: self._max_dets]
        results = instances_to_coco_json(instances[best], image_id)
        for result in results:
            result["category_id"] = self._category_ids[result["category_id"]]
        for engine in self._engines.values():
            engine.update(self._images[image_id], self._annotations.get(image_id, []), results)
        if self._output_dir:
            self._results.extend(results)

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Compute the metrics.

        Returns:
            On the first process ``{"bbox": {metric: percent}, "segm": …}``, NaN where a metric is undefined
            (no class of that group); elsewhere an empty dict.
        """
        if self._output_dir:
            self._save_results()
        metrics = OrderedDict()
        if not self._ground_truth["annotations"]:
            logger.info("%s has no annotations; results are saved, not evaluated.", self._annotation_file)
            return metrics
        self._agree_on_tasks()
        for task, engine in self._engines.items():
            computed = engine.metrics(self._distributed)
            if computed is not None:
                values, class_ap = computed
                metrics[task] = {name: _percent(values[name]) for name in METRIC_NAMES}
                if self._output_dir:
                    self._save_class_ap(task, class_ap)
        return metrics

    def _agree_on_tasks(self) -> None:
        """Let a process that saw no image join in the tasks that the others inferred."""
        if self._distributed:
            self._tasks = next((tasks for tasks in comm.all_gather(self._tasks) if tasks), None)
        if self._tasks and not self._engines:
            self._engines = self._make_engines()

    def _save_results(self) -> None:
        shards = comm.gather(self._results, dst=0) if self._distributed else [self._results]
        if shards:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            path = self._output_dir / "lvis_instances_results.json"
            path.write_bytes(orjson.dumps(list(itertools.chain(*shards))))
            logger.info("Saved the results to %s.", path)

    def _save_class_ap(self, task: str, class_ap: np.ndarray) -> None:
        frequencies = {c["id"]: c.get("frequency", "") for c in self._ground_truth["categories"]}
        with open(self._output_dir / f"per_class_ap_{task}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["category_id", "name", "frequency", "AP"])
            for category_id, name, ap in zip(self._category_ids, self._class_names, class_ap, strict=True):
                writer.writerow([category_id, name, frequencies[category_id], f"{100 * ap:.4f}"])


def _percent(value: float) -> float:
    return 100 * float(value) if value >= 0 else float("nan")
