"""Evaluation of files: annotations and results of any framework."""

import dataclasses
import gc
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.file_text import loads
from eql_d2.data.annotations.findings import defects_error
from eql_d2.data.annotations.rules import broken_file
from eql_d2.data.annotations.values import clean_content
from eql_d2.data.category_counts import count_annotations
from eql_d2.errors import UserError
from eql_d2.evaluation.metrics.evaluation import Evaluation, engine_by_name, write_class_ap
from eql_d2.evaluation.metrics.ground_truth import FEDERATED_KEYS, GroundTruth
from eql_d2.evaluation.results.results_file import PROGRESS_AFTER, ResultsFile
from eql_d2.long_tail import CategoryCounts, FrequencyThresholds, read_count_file

logger = logging.getLogger(__name__)


def evaluate_files(
    annotations: str | Path,
    results: str | Path,
    tasks: Sequence[str] | None = None,
    *,
    engine: str = "hotcoco",
    rules: str | None = None,
    train_annotations: str | Path | None = None,
    category_counts: str | Path | None = None,
    thresholds: Sequence[int] | None = None,
    fixed_ap: bool = False,
    segm_area: str = "mask",
    class_ap_folder: str | Path | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluate a results file on all images of an annotation file.

    Args:
        annotations: LVIS- or COCO-format annotation file.
        results: JSON list of ``{"image_id", "category_id", "score", "bbox" and/or "segmentation"}``.
        tasks: "bbox", "segm" and/or "boundary"; None takes boxes and masks, as far as the results have them.
        engine: key of :data:`eql_d2.evaluation.metrics.evaluation.ENGINES`.
        rules: "lvis" or "coco"; None asks the annotation file (see :func:`read_ground_truth`).
        train_annotations: annotation file of the training set, whose image counts make the groups r, c, f.
        category_counts: file of such counts (form: datasets/metadata), instead.
        thresholds: most training images of a rare and of a common class; None takes LVIS's 10 and 100.
        fixed_ap: also compute AP-fixed.
        segm_area: what makes a mask small, medium or large for APs, APm and APl: "mask", its own area, as for the
            results of this project; or "box", the area of the result's ``bbox``, as the official packages do with
            results that have both.
        class_ap_folder: folder for ``per_class_ap_{task}.csv``; None writes none.

    Returns:
        Task → metric → percent, NaN where undefined.

    Raises:
        UserError: a file is missing or broken; the sentence names the entry.
    """
    ground_truth = read_ground_truth(annotations, rules, takes_frequencies=not (train_annotations or category_counts))
    engine_by_name(engine, ground_truth.rules)
    _set_groups(ground_truth, train_annotations, category_counts, thresholds)
    if segm_area not in ("mask", "box"):
        raise UserError(f"segm_area (--segm-area) is {segm_area!r}; it must be mask or box.")
    by_boxes = segm_area == "box"
    results_file = ResultsFile(results, ground_truth, tasks, masks_with_boxes=by_boxes)
    evaluation = Evaluation(ground_truth, results_file.tasks, engine, fixed_ap=fixed_ap, box_areas=by_boxes)
    for image_id in tqdm(ground_truth.images, desc="evaluating", unit="image", delay=PROGRESS_AFTER):
        evaluation.add_image(image_id, results_file.of_image(image_id))
    metrics = evaluation.compute()
    if class_ap_folder:
        folder = Path(class_ap_folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for task, of_task in metrics.items():
                write_class_ap(folder / f"per_class_ap_{task}.csv", ground_truth, of_task.class_ap)
        except OSError as error:
            raise UserError(f"Folder {folder} cannot be written ({error.strerror}); name another.") from None
    return {task: of_task.values for task, of_task in metrics.items()}


def read_ground_truth(path: str | Path, rules: str | None = None, takes_frequencies: bool = True) -> GroundTruth:
    """Read an annotation file in the LVIS or the COCO format.

    Args:
        path: the file.
        rules: "lvis" or "coco"; None is "lvis" if any image has ``neg_category_ids`` or
            ``not_exhaustive_category_ids``, else "coco".
        takes_frequencies: as of :class:`GroundTruth`.

    Raises:
        UserError: the file is missing or broken, or lacks what the rules need.
    """
    content = _read_annotations(path)
    if rules is None:
        federated = any(key in image for image in content["images"] for key in FEDERATED_KEYS)
        rules = "lvis" if federated else "coco"
        if rules == "coco":
            logger.warning(
                "%s has no neg_category_ids: evaluated by COCO's rules. A class not annotated in an image counts as "
                "verified not to be there, the 100 best results of each class in an image count, and crowds count "
                "neither for nor against a result.",
                path,
            )
    return GroundTruth(content, path, rules, takes_frequencies)


def read_lists(path: str | Path, names: Sequence[str]) -> dict[str, Any]:
    """Parse an annotation file in the LVIS or COCO format, with values made right.

    Args:
        path: the file.
        names: lists that it must hold, e.g. "images".

    Raises:
        UserError: the file is missing or broken, or lacks one of the lists.
    """
    collecting = gc.isenabled()
    gc.disable()  # millions of lists of numbers, none of them garbage
    try:
        content = loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"Annotation file {path} cannot be read ({error.strerror}); check the path.") from None
    except ValueError as error:
        raise broken_file(path, error) from None
    finally:
        if collecting:
            gc.enable()
    missing = [name for name in names if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if missing:
        raise UserError(f"Annotation file {path} is not in the LVIS or COCO format: no list {' and '.join(missing)}.")
    return clean_content(content)


def _read_annotations(path: str | Path) -> dict[str, Any]:
    content = read_lists(path, ("images", "annotations", "categories"))
    if not all(isinstance(image, dict) for image in content["images"]):
        raise UserError(f"Annotation file {path}: an entry of images is not a dictionary.")
    if not content["annotations"]:
        raise UserError(f"Annotation file {path} has no annotations, so that there is nothing to compare with.")
    return content


def _set_groups(
    ground_truth: GroundTruth, train_annotations: Any, category_counts: Any, thresholds: Sequence[int] | None
) -> None:
    if train_annotations and category_counts:
        raise UserError("--train-annotations and --category-counts both say how often classes are; give one of them.")
    source = train_annotations or category_counts
    if source:
        counts = read_count_file(str(source)) if category_counts else _training_counts(source)
        if thresholds:
            try:
                counts = dataclasses.replace(counts, thresholds=FrequencyThresholds(*thresholds))
            except (TypeError, ValueError) as error:
                raise UserError(f"--thresholds: {error}") from None
        letters = dict(zip(counts.category_ids, counts.frequency_groups, strict=True))
        ground_truth.set_frequencies(letters, str(source))
    elif thresholds:
        raise UserError("--thresholds part classes by training counts; add --train-annotations or --category-counts.")
    elif "" in ground_truth.frequencies:
        logger.warning(
            "%s does not say how frequent every class is: no APr, APc and APf without --train-annotations or "
            "--category-counts.",
            ground_truth.source,
        )


def _training_counts(path: str | Path) -> CategoryCounts:
    error = defects_error(path, open_annotations(path).findings, ignorable=False)
    if error:  # some instances would not be counted
        raise error
    return count_annotations(str(path))
