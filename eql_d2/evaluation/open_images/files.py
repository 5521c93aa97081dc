"""Evaluation of a results file by Open Images' rules, and its export in the challenge's CSV form."""

import logging
from pathlib import Path

import numpy as np
from tqdm import tqdm

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.findings import defects_error
from eql_d2.data.category_counts import count_annotations
from eql_d2.errors import UserError
from eql_d2.evaluation.open_images.export import HEADER, label_of_category, prediction_row
from eql_d2.evaluation.open_images.metric import OpenImagesMetric
from eql_d2.evaluation.open_images.open_images_evaluator import summary, write_class_ap
from eql_d2.evaluation.open_images.truth import OpenImagesTruth, instance_counts_by_id
from eql_d2.evaluation.results.results_file import PROGRESS_AFTER, ResultsFile
from eql_d2.long_tail import read_count_file

logger = logging.getLogger(__name__)


def evaluate_open_images(
    annotations: str | Path,
    results: str | Path,
    *,
    train_annotations: str | Path | None = None,
    category_counts: str | Path | None = None,
    class_ap_folder: str | Path | None = None,
    export: str | Path | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluate a results file on all images of an annotation file, by the rules of the Open Images Challenge 2019.

    Args:
        annotations: file made from the official CSV files.
        results: JSON list of ``{"image_id", "category_id", "score", "bbox"}``.
        train_annotations: annotation file of the training set, whose numbers of boxes make the groups AP1 to AP5.
        category_counts: file of such counts (form: datasets/metadata), instead.
        class_ap_folder: folder for ``per_class_ap_bbox.csv``; None writes none.
        export: where the results go in the challenge's form; None exports nothing.

    Returns:
        {"bbox": metric → percent}, NaN where undefined.

    Raises:
        UserError: a file is missing, broken or defective; the sentence names the entry.
    """
    truth = OpenImagesTruth(annotations)
    error = defects_error(annotations, open_annotations(annotations).findings, ignorable=False)
    if error:  # without the entries that it names, the numbers would be those of another set
        raise error
    if not truth.is_labelled:
        raise UserError(f"Annotation file {annotations} has no annotations, so that there is nothing to compare with.")
    instance_counts = _instance_counts(truth, train_annotations, category_counts)
    results_file = ResultsFile(results, truth, ("bbox",))
    index_of = {category_id: index for index, category_id in enumerate(truth.category_ids)}
    labels = {record["id"]: label_of_category(record) for record in truth.categories}
    metric, rows = OpenImagesMetric(len(labels)), [HEADER]
    for image_id in tqdm(truth.images, desc="evaluating", unit="image", delay=PROGRESS_AFTER):
        known = [result for result in results_file.of_image(image_id) if result["category_id"] in index_of]
        image, of_image = truth.image_and_truth(image_id)
        corners = np.array([result["bbox"] for result in known], np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        scores = np.array([result["score"] for result in known], np.float64)
        classes = np.array([index_of[result["category_id"]] for result in known], np.int64)
        metric.add_image(image_id, corners, scores, classes, of_image)
        if export:
            rows.append(prediction_row(image, [labels[result["category_id"]] for result in known], known))
    if export:
        _write(Path(export), rows)
    class_ap = metric.class_ap()
    assert class_ap is not None  # this is the only process
    if class_ap_folder:
        write_class_ap(Path(class_ap_folder) / "per_class_ap_bbox.csv", truth, class_ap, instance_counts)
    return {"bbox": summary(class_ap, instance_counts)}


def _instance_counts(
    truth: OpenImagesTruth, train_annotations: str | Path | None, category_counts: str | Path | None
) -> np.ndarray | None:
    if train_annotations and category_counts:
        raise UserError("--train-annotations and --category-counts both say how often classes are; give one of them.")
    source = train_annotations or category_counts
    if not source:
        logger.warning(
            "No AP1 to AP5 without the number of training boxes of each class: give --train-annotations or "
            "--category-counts."
        )
        return None
    counts = read_count_file(str(source)) if category_counts else count_annotations(str(source))
    return instance_counts_by_id(truth, counts.category_ids, counts.instance_counts, str(source))


def _write(path: Path, rows: list[bytes]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\n".join(rows) + b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); name another file.") from None
