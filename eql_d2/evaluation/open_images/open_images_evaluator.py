"""The metric of the Open Images Challenge 2019 as a Detectron2 evaluator."""

import csv
import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation.coco_evaluation import instances_to_coco_json

from eql_d2.errors import UserError
from eql_d2.evaluation.detection_evaluator import DetectionEvaluator, check_finite
from eql_d2.evaluation.open_images.export import HEADER, label_of_category, prediction_row
from eql_d2.evaluation.open_images.metric import OpenImagesMetric, group_means, mean_without_nan
from eql_d2.evaluation.open_images.truth import OpenImagesTruth
from eql_d2.evaluation.results.parts import ResultParts
from eql_d2.evaluation.results_table import FOR_TERMINAL, class_lines, class_table, results_table
from eql_d2.long_tail import CategoryCounts
from eql_d2.plain_files import csv_text

logger = logging.getLogger(__name__)

RESULTS_FILE = "open_images_results.json"
SUBMISSION_FILE = "open_images_predictions.csv"


class OpenImagesEvaluator(DetectionEvaluator):
    """AP50 by the challenge's rules (:mod:`eql_d2.evaluation.open_images.metric`), over all classes and in five groups.

    Results go to disk as they come, in COCO's form and in the challenge's. Boxes are given to the ancestors of their
    classes; detections are taken as they are.

    Args:
        dataset_name: registered dataset whose ``evaluator_type`` is "openimages".
        distributed: gather from all processes; False evaluates what this process saw.
        output_dir: folder for ``open_images_results.json``, ``open_images_predictions.csv`` and per-class AP as CSV;
            None writes nothing. Several machines have to share it.
        counts: of the training set, whose instances make the groups; None, or those of other classes, leave the groups
            undefined.
        show_classes: print the AP of each class, and not of the best and worst alone.

    Raises:
        UserError: the annotation file is missing or broken.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        counts: CategoryCounts | None = None,
        show_classes: bool = False,
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        if metadata.get("prepare"):
            metadata.prepare()
        self._truth = OpenImagesTruth(metadata.json_file, metadata.get("categories"))
        names = tuple(record["name"] for record in self._truth.categories)
        # By names: the ids may be others. Counts of other classes have no groups to give.
        known = counts if counts is not None and counts.names == names else None
        self._instance_counts = np.array(known.instance_counts) if known is not None else None
        self._labels = [label_of_category(record) for record in self._truth.categories]
        self._dataset_name, self._show_classes = dataset_name, show_classes
        self._distributed = distributed
        self._output_dir = Path(output_dir) if output_dir else None
        self._parts: list[ResultParts] = []
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        for parts in self._parts:
            parts.discard()
        if self._output_dir:
            csv_form = {"head": HEADER + b"\n", "separator": b"\n", "tail": b"\n"}
            self._parts = [
                ResultParts(self._output_dir / RESULTS_FILE),
                ResultParts(self._output_dir / SUBMISSION_FILE, **csv_form),
            ]
        self._metric = OpenImagesMetric(len(self._labels))
        self._seen: set[int] = set()

    def _process_image(self, image_id: int, instances: Any) -> None:
        image, truth = self._truth.image_and_truth(image_id)
        if image_id in self._seen:
            raise UserError(f"Image id {image_id} of {self._truth.source} was given twice.")
        self._seen.add(image_id)
        check_finite(image_id, instances)
        boxes, scores, classes = instances.pred_boxes.tensor, instances.scores, instances.pred_classes
        if self._truth.is_labelled:
            self._metric.add_image(image_id, boxes.double().numpy(), scores.double().numpy(), classes.numpy(), truth)
        if self._parts:
            instances.remove("pred_masks") if instances.has("pred_masks") else None
            results = instances_to_coco_json(instances, image_id)
            labels = [self._labels[result["category_id"]] for result in results]
            for result in results:
                result["category_id"] = self._truth.category_ids[result["category_id"]]
            results_file, submission = self._parts
            results_file.write(results)
            submission.append(prediction_row(image, labels, results))

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Compute the metrics.

        Returns:
            On the first process ``{"bbox": {"AP50", "AP1" … "AP5"}}`` in percent, NaN where undefined (a group
            without boxes, or no counts); elsewhere an empty dict.

        Raises:
            UserError: the results cannot be written.
        """
        for parts in self._parts:
            saved = parts.join(self._distributed)
            if saved:
                logger.info("Saved the results to %s.", saved)
        if not self._truth.is_labelled:
            logger.info("%s has no annotations; results are saved, not evaluated.", self._truth.source)
            return OrderedDict()
        class_ap = self._metric.class_ap(self._distributed)
        if class_ap is None:
            return OrderedDict()
        if self._output_dir:
            write_class_ap(self._output_dir / "per_class_ap_bbox.csv", self._truth, class_ap, self._instance_counts)
        values = summary(class_ap, self._instance_counts)
        names = [category["name"] for category in self._truth.categories]
        groups = [""] * len(names)
        classes = class_lines(names, groups, 100 * class_ap, "box")
        if self._show_classes:
            classes = class_table(names, groups, {"AP50": 100 * class_ap})
        title = f"{self._dataset_name}: {len(self._truth.images)} images by Open Images' rules, in percent"
        logger.info("%s\n%s\n%s", title, results_table({"bbox": values}), classes, extra=FOR_TERMINAL)
        return OrderedDict(bbox=values)


def summary(class_ap: np.ndarray, instance_counts: np.ndarray | None) -> dict[str, float]:
    """AP50 over all classes and, with counts, in five groups from rare (AP1) to frequent (AP5), in percent."""
    values = {"AP50": mean_without_nan(class_ap)}
    known = instance_counts is not None
    values |= group_means(class_ap, np.zeros(len(class_ap)) if instance_counts is None else instance_counts)
    return {name: 100 * v if known or name == "AP50" else float("nan") for name, v in values.items()}


def write_class_ap(
    path: Path, truth: OpenImagesTruth, class_ap: np.ndarray, instance_counts: np.ndarray | None
) -> None:
    """Write the AP of each class in percent as CSV, "nan" where a class has no box.

    Raises:
        UserError: the file cannot be written.
    """
    counts: list[Any] = [""] * len(class_ap) if instance_counts is None else instance_counts.tolist()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["category_id", "label", "name", "training_instances", "AP50"])
            for category, count, ap in zip(truth.categories, counts, class_ap, strict=True):
                label = label_of_category(category)
                writer.writerow([category["id"], csv_text(label), csv_text(category["name"]), count, f"{100 * ap:.4f}"])
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); set another folder.") from None
