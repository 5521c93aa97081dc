"""Numbers of a run's classes that are worked out from more than one file: weight norms, scores of positives."""

from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from detectron2.data import MetadataCatalog

from eql_d2.analysis.finished_runs import FinishedRun, Values
from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.lvis_format import annotation_content
from eql_d2.data.annotations.rules import is_region
from eql_d2.data.registration import register_custom_datasets
from eql_d2.drawing.instances import box_iou
from eql_d2.engine.description import read_description, register_classes
from eql_d2.errors import UserError
from eql_d2.evaluation.metrics.ground_truth import GroundTruth
from eql_d2.evaluation.results.results_file import ResultsFile
from eql_d2.modeling.loss_config import loss_of_config
from eql_d2.modeling.predictors import predictor_class

MIN_IOU = 0.5
_PREDICTOR, _WEIGHT = "roi_heads.box_predictor.", "cls_score.weight"


def weight_norms(run: FinishedRun) -> dict[str, Values]:
    """‖w_j‖ of the classifier's weights, times its learned scale where it has one (LWS).

    Returns:
        By the predictor's stage ("" of a single one), by category id.

    Raises:
        UserError: there is no checkpoint, or lengths of weights mean nothing to its classifier.
    """
    cfg = run.cfg.clone()
    if cfg.MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER:
        raise UserError(f"The classifier of {run.name} divides its weights by their norms, which then mean nothing.")
    classes = read_description(str(run.checkpoint)).get("classes", {})
    if not classes.get("num_images"):
        raise UserError(f"{run.checkpoint} does not say which classes its classifier tells apart.")
    name = f"classes of {run.checkpoint}"
    register_classes(name, classes)
    cfg.DATASETS.TRAIN, cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS = (name,), ""
    method = cfg.MODEL.ROI_BOX_HEAD.PREDICTOR
    predictor = predictor_class(method)
    if predictor is None:
        raise UserError(f"{run.name} has the box predictor {method}, which this project does not know.")
    columns = loss_of_config(predictor.loss_class, cfg, predictor.config_node).class_columns
    tensors = run.tensors()
    ids = [record["id"] for record in classes["categories"]]
    found = {}
    for key in tensors:
        if key.startswith(_PREDICTOR) and key.endswith(_WEIGHT):
            stage = key.removeprefix(_PREDICTOR).removesuffix(_WEIGHT).strip(".")
            scale = tensors.get(key.replace(_WEIGHT, "cls_score.scale"), torch.ones(()))
            norms = (scale.abs() * tensors[key].float().norm(dim=1))[columns]
            found[f"stage {int(stage) + 1}" if stage else ""] = dict(zip(ids, norms.tolist(), strict=True))
    if not found:
        raise UserError(f"{run.checkpoint} has no {_PREDICTOR}{_WEIGHT}.")
    return found


def positive_scores(run: FinishedRun, dataset: str) -> Values:
    """Mean score of the objects of each class, from saved detections.

    The score of an object is the highest that its own class has on a detection whose box overlaps it with an IoU of
    at least 0.5, and 0 without such a detection. Each detection may stand for several objects of its class.

    Args:
        run: with saved detections.
        dataset: one of its ``DATASETS.TEST``.

    Returns:
        By category id, of classes with objects.

    Raises:
        UserError: the detections or the dataset's annotations are missing or broken.
    """
    truth, results = open_results(run, dataset)
    totals: defaultdict[int, float] = defaultdict(float)
    numbers: defaultdict[int, int] = defaultdict(int)
    for image_id in truth.images:
        objects = [a for a in truth.annotations(image_id) if not is_region(a)]
        if not objects:
            continue
        detections = results.of_image(image_id)
        iou = box_iou(corners(objects), corners(detections))
        classes, found = (np.array([r["category_id"] for r in records], dtype=int) for records in (objects, detections))
        scores = np.array([d["score"] for d in detections])
        fits = (classes[:, None] == found[None, :]) & (iou >= MIN_IOU)
        best = np.where(fits, scores[None, :], 0).max(axis=1, initial=0)
        for annotation, score in zip(objects, best.tolist(), strict=True):
            totals[annotation["category_id"]] += score
            numbers[annotation["category_id"]] += 1
    return {category_id: totals[category_id] / number for category_id, number in numbers.items()}


def test_files(run: FinishedRun, dataset: str) -> tuple[Path, Path]:
    """Annotation file and image folder of a test set of a run.

    Raises:
        UserError: the dataset is unknown here, or its annotation file is missing.
    """
    register_custom_datasets(run.cfg)
    if dataset not in MetadataCatalog.list() or not MetadataCatalog.get(dataset).get("json_file"):
        raise UserError(f"Dataset {dataset} of {run.name} is not registered here.")
    metadata = MetadataCatalog.get(dataset)
    if not Path(metadata.json_file).is_file():
        raise UserError(f"{metadata.json_file}, the annotations of {dataset}, is missing; set DETECTRON2_DATASETS.")
    return Path(metadata.json_file), Path(metadata.image_root)


def open_results(run: FinishedRun, dataset: str) -> tuple[GroundTruth, ResultsFile]:
    """The ground truth of a test set and the detections of a run on it.

    Raises:
        UserError: one of them is missing or broken.
    """
    results_file = run.results_file(dataset)
    annotation_file, _ = test_files(run, dataset)
    metadata = MetadataCatalog.get(dataset)
    names = metadata.get("categories")
    truth = _ground_truth(
        annotation_file, tuple(names) if names else None, "lvis" if metadata.get("federated", True) else "coco"
    )
    return truth, _results(results_file, truth)


@lru_cache(maxsize=2)
def _ground_truth(annotation_file: Path, names: tuple[str, ...] | None, rules: str) -> GroundTruth:
    return GroundTruth(annotation_content(open_annotations(annotation_file), names), annotation_file, rules)


@lru_cache(maxsize=2)
def _results(results_file: Path, truth: GroundTruth) -> ResultsFile:
    return ResultsFile(results_file, truth, ("bbox",))


def corners(records: list[dict]) -> np.ndarray:
    """(N, 4) left, top, right, bottom of the boxes of annotations or results."""
    boxes = np.array([record["bbox"] for record in records], dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
