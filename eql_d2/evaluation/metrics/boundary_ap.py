"""Boundary AP through vernier, an optional package: masks matched by how well their boundaries agree.

Cheng, Girshick, Dollár, Berg, Kirillov, "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation",
CVPR 2021: the overlap of two masks is the lower of their IoU and the IoU of their boundaries, where the boundary of a
mask is what lies in it within 2% of the image's diagonal from its outline.
"""

import itertools
import json
from typing import Any

from detectron2.utils import comm
from hotcoco import mask as mask_utils

from eql_d2.errors import import_extra
from eql_d2.evaluation.metrics.engines import (
    COCO_METRIC_NAMES,
    COCO_RECALLS,
    METRIC_NAMES,
    Metrics,
    coco_values,
    lvis_view,
    per_class_ap,
)
from eql_d2.evaluation.metrics.ground_truth import GroundTruth, Records

BOUNDARY_WIDTH = 0.02  # of the image's diagonal
RESULT_KEYS = ("image_id", "category_id", "score", "segmentation")
MAX_DETECTIONS = {"lvis": 300, "coco": 100}


class BoundaryEngine:
    """Collects run lengths on the first process, and lets vernier match them there.

    Args:
        ground_truth: images, categories and rules.
        task: "boundary".

    Raises:
        UserError: vernier is not installed.
    """

    def __init__(self, ground_truth: GroundTruth, task: str = "boundary") -> None:
        # Its public classes know neither the groups r, c, f nor areas of masks; these functions of 0.5 do.
        self._core = import_extra("vernier", "boundary", "Boundary AP")._core
        self._ground_truth = ground_truth
        self._known_categories = set(ground_truth.category_ids)
        self._images: Records = []
        self._annotations: Records = []
        self._results: Records = []

    def update(self, image: dict[str, Any], annotations: Records, results: Records) -> None:
        """Keep one image's objects and results, those that count."""
        if self._ground_truth.rules == "lvis":
            annotations, results = lvis_view(image, annotations, results, self._known_categories, "segm")
            image, results = self._without_conflicts(image, annotations, results)
        else:
            results = [result for result in results if result["category_id"] in self._known_categories]
        self._images.append(image)
        self._annotations += annotations
        for result in results:
            box = mask_utils.to_bbox(result["segmentation"]).tolist()  # the package wants one, and does not use it
            self._results.append({**{key: result[key] for key in RESULT_KEYS}, "bbox": box})

    def _without_conflicts(
        self, image: dict[str, Any], annotations: Records, results: Records
    ) -> tuple[dict[str, Any], Records]:
        """Federated labels in vernier's strict form, with the official package's meaning.

        A class that is annotated is not verified to be absent; one that is not exhaustively annotated, and not
        annotated at all, has results that count for nothing.
        """
        present = {annotation["category_id"] for annotation in annotations}
        exempt = set(image["not_exhaustive_category_ids"])
        absent = set(image["neg_category_ids"]) & self._known_categories
        labels = {
            "neg_category_ids": sorted(absent - present - exempt),
            "not_exhaustive_category_ids": sorted(exempt & present),
        }
        return {**image, **labels}, [r for r in results if r["category_id"] not in exempt - present]

    def metrics(self, distributed: bool) -> Metrics | None:
        """Metrics in [0, 1] (-1 where undefined) and per-class AP (K,); None on all processes but the first."""
        shards = [(self._images, self._annotations, self._results)]
        if distributed:
            shards = comm.gather(shards[0], dst=0)
        if not shards:
            return None
        images, annotations, results = (
            list(itertools.chain.from_iterable(parts)) for parts in zip(*shards, strict=True)
        )
        rules = self._ground_truth.rules
        counts = {"image_count": 0, "instance_count": 0}  # it wants them, and goes by the letter
        categories = [{**c, **counts, "frequency": c["frequency"] or "f"} for c in self._ground_truth.categories]
        content = {
            "images": images,
            "annotations": [{"iscrowd": 0, **a} for a in annotations],
            "categories": categories,
        }
        read = self._core.CocoDataset.from_lvis_json if rules == "lvis" else self._core.CocoDataset.from_json
        truth = read(json.dumps(content).encode())
        limit = MAX_DETECTIONS[rules]
        accumulated = self._core.evaluate_boundary_grid(
            truth,
            sorted(results, key=lambda result: result["image_id"]),
            parity_mode="strict",
            max_dets_per_image=limit,
            use_cats=True,
            dilation_ratio=BOUNDARY_WIDTH,
            dt_area="mask",
        ).accumulate([limit] if rules == "lvis" else [1, 10, limit])
        precision = accumulated.precision[..., 0, -1]
        if rules == "lvis":
            values = dict(zip(METRIC_NAMES, accumulated.summarize_lvis(truth, [limit]).stats, strict=True))
        else:
            names = (*COCO_METRIC_NAMES[:6], "AR1", "AR10", *COCO_RECALLS)
            stats = dict(zip(names, accumulated.summarize([1, 10, limit]).stats, strict=True))
            values = coco_values(stats, precision, self._ground_truth.frequencies)
        return values, per_class_ap(precision)
