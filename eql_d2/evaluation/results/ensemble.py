"""Ensembles of result files: the detections of several models merged image by image and class by class."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pycocotools.mask as mask_utils
from tqdm import tqdm

from eql_d2.errors import UserError
from eql_d2.evaluation.evaluate_files import read_lists
from eql_d2.evaluation.metrics.ground_truth import GroundTruth, Records
from eql_d2.evaluation.results.ensemble_rules import Member, Rules
from eql_d2.evaluation.results.fusion import (
    Floats,
    Integers,
    box_iou,
    fuse,
    fused_scores,
    mask_overlap,
    rescore,
    suppress,
)
from eql_d2.evaluation.results.results_file import PROGRESS_AFTER, ResultsFile

DETECTIONS_AT_ONCE = 50_000

logger = logging.getLogger(__name__)


def merge_results(ground_truth: GroundTruth, members: Sequence[Member], output: str | Path, rules: Rules) -> int:
    """Merge the result files of several models into one.

    A class is shared by the models that know it, and by no other: under WBF a box that all of them found keeps its
    score, whatever the number of models that do not know the class; under NMS scores are multiplied by the model's
    weight over the largest weight among them. Results of categories that an expert is said not to know are left out.

    Args:
        ground_truth: images and categories (see :func:`read_images_and_categories`).
        members: the models; of equal detections the earlier model's is kept.
        output: file to write, a JSON list of results by image and falling score.
        rules: how to merge.

    Returns:
        Number of detections written.

    Raises:
        UserError: a file is missing or broken, or does not go with the others; the sentence names it.
    """
    merger = _Merger(ground_truth, members, rules)
    output = Path(output)
    unfinished = output.with_name(output.name + ".unfinished")
    count = 0
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(b"[")
            for results in merger.merged():
                if results:
                    file.write((b",\n" if count else b"\n") + orjson.dumps(results)[1:-1])
                    count += len(results)
            file.write(b"\n]\n")
        os.replace(unfinished, output)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written ({error.strerror}); name another.") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return count


def read_images_and_categories(path: str | Path) -> GroundTruth:
    """Read what an ensemble needs of an annotation file in the LVIS or COCO format, also of a test set.

    Raises:
        UserError: the file is missing or broken.
    """
    content = read_lists(path, ("images", "categories"))
    # COCO's rules need nothing else of an image, and drop no result.
    return GroundTruth({key: content[key] for key in ("images", "categories")}, path, rules="coco")


class _Merger:
    """Reads, merges and caps; image by image to whoever asks, many images at once inside."""

    def __init__(self, ground_truth: GroundTruth, members: Sequence[Member], rules: Rules) -> None:
        self._ground_truth, self._rules = ground_truth, rules
        self._class_of = {category_id: i for i, category_id in enumerate(ground_truth.category_ids)}
        self._weights = np.array([member.weight for member in members], dtype=np.float64)
        if not len(members) or not (np.isfinite(self._weights) & (self._weights > 0)).all():
            raise UserError(
                f"--weights are {self._weights.tolist()}; they must be positive, one for each results file."
            )
        self._knows = self._known_classes(members)
        # (K,) of the models that know each class.
        self._total_weights = self._weights @ self._knows
        self._largest_weights = (self._weights[:, None] * self._knows).max(axis=0)
        self._factors = self._class_factors()
        self._files = [ResultsFile(member.results, ground_truth) for member in members]
        self._names = [str(member.results) for member in members]
        self._tasks = self._common_tasks()
        self._num_unknown = np.zeros(len(members), dtype=int)

    def _known_classes(self, members: Sequence[Member]) -> np.ndarray:
        """(models, K) booleans."""
        knows = np.ones((len(members), len(self._class_of)), dtype=bool)
        for row, member in zip(knows, members, strict=True):
            if member.categories is not None:
                row[:] = [category_id in member.categories for category_id in self._class_of]
        return knows

    def _class_factors(self) -> Floats:
        factors = self._rules.factors or {}
        frequencies = self._ground_truth.frequencies
        if factors and "" in frequencies:
            raise UserError(
                f"{self._ground_truth.source} does not say how frequent every class is, which --rescore needs; give "
                'its categories a "frequency" r, c or f.'
            )
        return np.array([factors.get(letter, 1.0) for letter in frequencies], dtype=np.float64)

    def _common_tasks(self) -> tuple[str, ...]:
        filled = [(n, file.tasks) for n, file in zip(self._names, self._files, strict=True) if len(file)]
        for name, tasks in filled:
            if tasks != filled[0][1]:
                raise UserError(
                    f"{name} has results with {' and '.join(tasks)}, {filled[0][0]} with {' and '.join(filled[0][1])}; "
                    "an ensemble needs the same of all."
                )
        tasks = filled[0][1] if filled else ("bbox",)
        if filled and self._rules.iou_type not in tasks and self._rules.iou_type == "segm":
            raise UserError(f"--iou-type segm needs masks, and the results of {filled[0][0]} have none; use bbox.")
        return tasks

    def merged(self) -> Iterator[Records]:
        """Merged results of some images after the other."""
        images: list[tuple[int, Records, list[int]]] = []
        waiting = 0
        for image_id in tqdm(self._ground_truth.images, desc="merging", unit="image", delay=PROGRESS_AFTER):
            records, models = self._of_image(image_id)
            images.append((image_id, records, models))
            waiting += len(records)
            if waiting > DETECTIONS_AT_ONCE:
                yield self._merge(images)
                images, waiting = [], 0
        yield self._merge(images)
        for name, count in zip(self._names, self._num_unknown, strict=True):
            if count:
                logger.warning("%s: %d results of categories that it is said not to know are left out.", name, count)

    def _of_image(self, image_id: int) -> tuple[Records, list[int]]:
        """Results of all models for an image, and the models' numbers."""
        records: Records = []
        models: list[int] = []
        for model, file in enumerate(self._files):
            found = [r for r in file.of_image(image_id) if r["category_id"] in self._class_of]
            known = [r for r in found if self._knows[model, self._class_of[r["category_id"]]]]
            self._num_unknown[model] += len(found) - len(known)
            for result in known:
                if not 0 <= result["score"] <= 1:
                    raise UserError(
                        f"Results file {self._names[model]}: a result of image {image_id} has the score "
                        f"{result['score']}, outside [0, 1]; scores of several models must be comparable."
                    )
            records += known
            models += [model] * len(known)
        return records, models

    def _merge(self, images: list[tuple[int, Records, list[int]]]) -> Records:
        records = [result for _, of_image, _ in images for result in of_image]
        if not records:
            return []
        image = np.repeat(np.arange(len(images)), [len(of_image) for _, of_image, _ in images])
        classes = np.array([self._class_of[result["category_id"]] for result in records])
        scores = np.array([result["score"] for result in records], dtype=np.float64)
        weights = self._weights[np.array([model for _, _, models in images for model in models])]
        boxes = _boxes(records, self._tasks)

        order = np.lexsort((-scores * weights, classes, image))  # stable: of equals the earlier model's comes first
        records = [records[i] for i in order]
        image, classes = image[order], classes[order]
        scores, weights, boxes = scores[order], weights[order], boxes[order]
        starts_group = np.diff(image, prepend=-1).astype(bool) | np.diff(classes, prepend=-1).astype(bool)
        groups = np.cumsum(starts_group) - 1

        leaders, boxes, scores = self._join(records, groups, boxes, scores, weights, classes)
        kept = np.flatnonzero(leaders == np.arange(len(leaders)))
        scores = rescore(scores, self._factors[classes])
        # The order of the files again, so that equal scores are kept by model and place, not by class.
        kept = kept[np.lexsort((order[kept], -scores[kept], image[kept]))]
        rank = np.arange(len(kept)) - np.searchsorted(image[kept], image[kept])
        kept = kept[rank < self._rules.max_detections]
        return [self._output(records[i], scores[i], boxes[i]) for i in kept]

    def _join(
        self, records: Records, groups: Integers, boxes: Floats, scores: Floats, weights: Floats, classes: Integers
    ) -> tuple[Integers, Floats, Floats]:
        """The detection that each one joins, and boxes and scores of those that are joined."""
        threshold = self._rules.threshold
        if self._rules.merge == "wbf":
            leaders, boxes = fuse(groups, boxes, scores, weights, threshold)
            return leaders, boxes, fused_scores(leaders, scores, weights, self._total_weights[classes])
        if self._rules.iou_type == "segm":
            overlap = mask_overlap([result["segmentation"] for result in records], groups)
        else:
            overlap = lambda first, second: box_iou(boxes[first], boxes[second])  # noqa: E731
        return suppress(groups, overlap, threshold), boxes, scores * weights / self._largest_weights[classes]

    def _output(self, result: dict[str, Any], score: float, box: Floats) -> dict[str, Any]:
        merged = {"image_id": result["image_id"], "category_id": result["category_id"], "score": float(score)}
        if "bbox" in self._tasks:
            x0, y0, x1, y1 = box.tolist()
            merged["bbox"] = result["bbox"] if self._rules.merge == "nms" else [x0, y0, x1 - x0, y1 - y0]
        if "segm" in self._tasks:
            counts = result["segmentation"]["counts"]
            counts = counts.decode() if isinstance(counts, bytes) else counts
            merged["segmentation"] = {"size": list(result["segmentation"]["size"]), "counts": counts}
        return merged


def _boxes(records: Records, tasks: Sequence[str]) -> Floats:
    """(N, 4) boxes x0, y0, x1, y1; of results with masks only, the boxes around these."""
    if "bbox" in tasks:
        boxes = np.array([result["bbox"] for result in records], dtype=np.float64)
    else:
        boxes = np.asarray(mask_utils.toBbox([result["segmentation"] for result in records]), dtype=np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
