"""Two engines that compute LVIS metrics, with the very same numbers: compiled hotcoco and the official package."""

import contextlib
import io
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from detectron2.utils import comm
from hotcoco import StreamingEval

from eql_d2.errors import UserError

METRIC_NAMES = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"),
    *("AR@300", "ARs@300", "ARm@300", "ARl@300"),
)
Records = list[dict[str, Any]]


class HotcocoEngine:
    """Matches image by image as predictions arrive; only compact states travel between processes.

    Args:
        ground_truth: parsed LVIS-format annotation file.
        task: "bbox" or "segm".
    """

    def __init__(self, ground_truth: dict[str, Any], task: str) -> None:
        self._task = task
        self._stream = StreamingEval(ground_truth["categories"], iou_type=task, lvis_style=True)

    def update(self, image: dict[str, Any], annotations: Records, results: Records) -> None:
        """Match one image's results; an image without results has to be told of too."""
        self._stream.update([image], annotations, [_of_task(result, self._task) for result in results])

    def metrics(self, distributed: bool) -> tuple[dict[str, float], np.ndarray] | None:
        """Metrics in [0, 1] (-1 where undefined) and per-class AP (K,); None on all processes but the first."""
        states = comm.gather(self._stream.to_bytes(), dst=0) if distributed else [self._stream.to_bytes()]
        if not states:
            return None
        evaluation = StreamingEval.merge(StreamingEval.from_bytes(state) for state in states).finalize()
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
            evaluation.summarize()
        return dict(evaluation.get_results()), per_class_ap(np.asarray(evaluation.eval["precision"])[..., 0, -1])


class OfficialEngine:
    """The reference: collects everything on the first process and runs the official ``lvis`` package."""

    def __init__(self, ground_truth: dict[str, Any], task: str) -> None:
        self._task = task
        self._ground_truth = ground_truth
        self._images: Records = []
        self._results: Records = []

    def update(self, image: dict[str, Any], annotations: Records, results: Records) -> None:
        """Keep one image's results."""
        self._images.append(image)
        self._results.extend(_of_task(result, self._task) for result in results)

    def metrics(self, distributed: bool) -> tuple[dict[str, float], np.ndarray] | None:
        """As :meth:`HotcocoEngine.metrics`."""
        shards = [(self._images, self._results)]
        if distributed:
            shards = comm.gather(shards[0], dst=0)
        if not shards:
            return None
        evaluated = {image["id"] for images, _ in shards for image in images}
        ground_truth = {
            **self._ground_truth,
            "images": [image for image in self._ground_truth["images"] if image["id"] in evaluated],
            "annotations": [a for a in self._ground_truth["annotations"] if a["image_id"] in evaluated],
        }
        evaluation = run_official_evaluation(ground_truth, [r for _, rs in shards for r in rs], self._task)
        return dict(evaluation.get_results()), per_class_ap(evaluation.eval["precision"][..., 0])


def _of_task(result: dict[str, Any], task: str) -> dict[str, Any]:
    """A result without the other task's shape: with a box in it, mask evaluation would use box areas."""
    other = {"bbox": "segmentation", "segm": "bbox"}[task]
    return {key: value for key, value in result.items() if key != other}


def per_class_ap(precision: np.ndarray) -> np.ndarray:
    """Average precision of each class.

    Args:
        precision: (T thresholds, recalls, K), -1 where a class has no ground truth.

    Returns:
        (K,) in [0, 1], NaN where a class has no ground truth.
    """
    defined = np.ma.masked_less(precision, 0)
    return defined.mean(axis=(0, 1)).filled(np.nan)


def run_official_evaluation(ground_truth: dict[str, Any], results: Records, task: str) -> Any:
    """Run the official package on parsed ground truth and results.

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
    evaluation = LVISEval(truth, _official_results(truth, results, LVISResults), task)
    evaluation.run()
    return evaluation


def _official_results(truth: Any, results: Records, results_class: type) -> Any:
    if results:
        return results_class(truth, [dict(result) for result in results])
    return _indexed(results_class, {**truth.dataset, "annotations": []})  # its constructor refuses an empty list


def _indexed(official_class: type, content: dict[str, Any]) -> Any:
    """An instance of an official class without its constructor, which takes files only."""
    instance = official_class.__new__(official_class)
    instance.logger = logging.getLogger("lvis")
    instance.dataset = content
    instance._create_index()
    return instance


ENGINES: dict[str, Callable[[dict[str, Any], str], HotcocoEngine | OfficialEngine]] = {
    "hotcoco": HotcocoEngine,
    "lvis": OfficialEngine,
}
