"""The official packages, as engines: slow, and the reference that the compiled engine is held to."""

import contextlib
import io
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from eql_d2.errors import UserError
from eql_d2.evaluation.metrics.engines import COCO_RECALLS, Metrics, coco_values, of_task, per_class_ap
from eql_d2.evaluation.metrics.ground_truth import GroundTruth, Records


class CollectingEngine:
    """Collects everything on the first process, and computes there.

    Args:
        ground_truth: images, categories and rules.
        task: "bbox" or "segm".
        box_areas: whether masks are small, medium or large by their results' boxes.
    """

    def __init__(self, ground_truth: GroundTruth, task: str, box_areas: bool = False) -> None:
        self._task, self._box_areas = task, box_areas
        self._ground_truth = ground_truth
        self._image_ids: list[int] = []
        self._results: Records = []

    def update(self, image: dict[str, Any], annotations: Records, results: Records) -> None:
        """Keep one image's results."""
        self._image_ids.append(image["id"])
        self._results.extend(of_task(result, self._task, self._box_areas) for result in results)

    def metrics(self, distributed: bool) -> Metrics | None:
        """Metrics in [0, 1] (-1 where undefined) and per-class AP (K,); None on all processes but the first."""
        shards = [(self._image_ids, self._results)]
        if distributed:
            shards = comm.gather(shards[0], dst=0)
        if not shards:
            return None
        content = self._ground_truth.content(i for ids, _ in shards for i in ids)
        return self._compute(content, [result for _, results in shards for result in results])

    def _compute(self, content: dict[str, Any], results: Records) -> Metrics:
        raise NotImplementedError


class OfficialEngine(CollectingEngine):
    """LVIS's rules by the official ``lvis`` package."""

    def _compute(self, content: dict[str, Any], results: Records) -> Metrics:
        categories = [{**c, "frequency": c["frequency"] or "f"} for c in content["categories"]]
        evaluation = run_official_evaluation({**content, "categories": categories}, results, self._task)
        return dict(evaluation.get_results()), per_class_ap(evaluation.eval["precision"][..., 0])


class PycocotoolsEngine(CollectingEngine):
    """COCO's rules by ``pycocotools``."""

    def _compute(self, content: dict[str, Any], results: Records) -> Metrics:
        evaluation = run_pycocotools(content, results, self._task)
        names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", *COCO_RECALLS)
        precision = evaluation.eval["precision"][..., 0, -1]
        values = dict(zip(names, evaluation.stats.tolist(), strict=True))
        return coco_values(values, precision, self._ground_truth.frequencies), per_class_ap(precision)


def run_official_evaluation(ground_truth: dict[str, Any], results: Records, task: str, max_dets: int = 300) -> Any:
    """Run the official ``lvis`` package on parsed ground truth and results.

    Args:
        ground_truth: content of an LVIS-format annotation file.
        results: content of a results file.
        task: "bbox" or "segm".
        max_dets: results of an image that count; -1 is all.

    Returns:
        Its ``LVISEval`` after ``run()``.

    Raises:
        UserError: the package is not installed.
    """
    try:
        import lvis.eval
        from lvis import LVIS, LVISEval, LVISResults
    except ImportError:
        raise UserError(
            "TEST.LVIS_ENGINE is 'lvis', but the official package is not installed: "
            "pip install 'eql_d2[reference]', or set the key to 'hotcoco'."
        ) from None
    # The package uses np.float, which NumPy removed; it gets a namespace of its own that still has it.
    lvis.eval.np = SimpleNamespace(**{**vars(np), "float": float})
    truth = _indexed(LVIS, ground_truth)
    if results:
        official_results = LVISResults(truth, [dict(result) for result in results], max_dets)
    else:  # its constructor refuses an empty list
        official_results = _indexed(LVISResults, {**ground_truth, "annotations": []})
    evaluation = LVISEval(truth, official_results, task)
    evaluation.run()
    return evaluation


def _indexed(official_class: type, content: dict[str, Any]) -> Any:
    """An instance of an official class without its constructor, which takes files only."""
    instance: Any = object.__new__(official_class)
    instance.logger = logging.getLogger("lvis")
    instance.dataset = content
    instance._create_index()
    return instance


def run_pycocotools(ground_truth: dict[str, Any], results: Records, task: str) -> COCOeval:
    """Run ``pycocotools`` on parsed ground truth and results.

    Args:
        ground_truth: content of a COCO-format annotation file.
        results: content of a results file.
        task: "bbox" or "segm".

    Returns:
        Its ``COCOeval`` after ``summarize()``.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = {
            **ground_truth,
            "annotations": [{"iscrowd": 0, **annotation} for annotation in ground_truth["annotations"]],
        }
        found.dataset = {**ground_truth, "annotations": []}
        for index in (truth, found):
            index.createIndex()
        if results:  # it refuses an empty list
            found = truth.loadRes([dict(result) for result in results])
        evaluation = COCOeval(truth, found, task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation
