"""A results file of any size, read image by image."""

import json
import logging
import os
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
from tqdm import tqdm

from eql_d2.data.annotations.evaluation_rules import (
    complaint_about_box,
    complaint_about_mask,
    complaint_about_number,
    is_box,
)
from eql_d2.data.annotations.run_lengths import counts_complaint, total_pixels
from eql_d2.data.annotations.values import clean_result
from eql_d2.errors import UserError
from eql_d2.evaluation.metrics.engines import SHAPE_OF_TASK
from eql_d2.evaluation.metrics.fixed_ap import run_lengths
from eql_d2.evaluation.metrics.ground_truth import Records
from eql_d2.evaluation.results.box_sample import BoxSample
from eql_d2.evaluation.results.json_entries import json_entries

logger = logging.getLogger(__name__)

PROGRESS_AFTER = 10  # seconds; quicker work shows none


class ResultsTruth(Protocol):
    """What results are checked against: a :class:`GroundTruth`, or that of Open Images' metric."""

    @property
    def rules(self) -> str:
        """By which the results are evaluated: "lvis", "coco" or "openimages"."""

    @property
    def category_ids(self) -> Sequence[int]:
        """Ids of the categories, ascending."""

    @property
    def images(self) -> Mapping[int, dict[str, Any]]:
        """Records of the images by their ids."""


class ResultsFile:
    """A JSON list of results, checked in one pass and indexed by image; nothing but the index stays in memory.

    Args:
        path: the file, a list of ``{"image_id", "category_id", "score", "bbox" and/or "segmentation"}``.
        ground_truth: what it will be evaluated on.
        tasks: "bbox", "segm" and/or "boundary"; None takes those that the first result has shapes for.
        masks_with_boxes: whether each mask has to have a box as well.

    Attributes:
        tasks: the tasks.
        dropped: what the official packages leave out, with how often and where first.

    Raises:
        UserError: the file is missing, truncated or not such a list, or a result names an unknown image, has no
            finite score, or has a broken shape.
    """

    def __init__(
        self,
        path: str | Path,
        ground_truth: ResultsTruth,
        tasks: Sequence[str] | None = None,
        masks_with_boxes: bool = False,
    ) -> None:
        self._masks_with_boxes = masks_with_boxes
        self._path, self._ground_truth = Path(path), ground_truth
        self.tasks = tuple(tasks or ())  # of none, the first result decides
        self._categories = set(ground_truth.category_ids)
        self._dropped: Counter[str] = Counter()
        self._first_dropped: dict[str, int] = {}
        self._lenient = False  # NaN somewhere in a field that nobody reads
        self._unclean = False  # values that have to be made right
        self._sample = BoxSample()
        self._counts: list[tuple[int, str, int]] = []  # to be checked together: number, counts, pixels of the image
        image_ids, self._offsets, self._lengths = array("Q"), array("q"), array("q")
        try:
            self._file = open(self._path, "rb")  # noqa: SIM115 (read image by image, later)
            with tqdm(
                total=self._path.stat().st_size, unit="B", unit_scale=True, desc="reading results", delay=PROGRESS_AFTER
            ) as bar:
                for number, (offset, length, result, strict) in enumerate(json_entries(self._file, self._path)):
                    self._lenient |= not strict
                    result = self._checked(number, result)
                    image_ids.append(result["image_id"])
                    self._offsets.append(offset)
                    self._lengths.append(length)
                    if number % 1000 == 0:
                        self._check_counts()
                        bar.update(offset - bar.n)
                self._check_counts()
        except OSError as error:
            raise UserError(f"Results file {path} cannot be read ({error.strerror}); check the path.") from None
        self.tasks = self.tasks or ("bbox",)  # an empty list
        if found := self._sample.sentence():
            logger.warning("%s: %s.", path, found)
        ids = np.frombuffer(image_ids, dtype=np.uint64) if image_ids else np.zeros(0, dtype=np.uint64)
        self._order = np.argsort(ids, kind="stable")
        self._sorted_ids = ids[self._order]
        for what, count in self._dropped.items():
            logger.warning(
                "%s: %d of %d results %s and are left out, as the official evaluation does; the first is result %d.",
                *(path, count, len(self), what, self._first_dropped[what]),
            )

    def __len__(self) -> int:
        """Number of results."""
        return len(self._offsets)

    @property
    def dropped(self) -> dict[str, int]:
        """Reason → number of results that the official packages leave out."""
        return dict(self._dropped)

    def of_image(self, image_id: int) -> Records:
        """The results of an image in the order of the file, masks as compressed run lengths."""
        start, stop = (np.searchsorted(self._sorted_ids, np.uint64(image_id), side) for side in ("left", "right"))
        numbers = self._order[start:stop]
        if not len(numbers):
            return []
        results: Records = []
        for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):  # entries next to each other
            first, last = int(run[0]), int(run[-1])
            offset = self._offsets[first]
            block = os.pread(self._file.fileno(), self._offsets[last] + self._lengths[last] - offset, offset)
            try:
                results += json.loads(b"[" + block + b"]") if self._lenient else orjson.loads(b"[" + block + b"]")
            except ValueError:
                raise UserError(f"Results file {self._path} has changed while it was read; run again.") from None
        if self._unclean:
            results = [clean_result(result) for result in results]
        if any(SHAPE_OF_TASK[task] == "segmentation" for task in self.tasks):
            image = self._ground_truth.images[image_id]
            for result in results:
                result["segmentation"] = run_lengths(result["segmentation"], image["height"], image["width"])
        return results

    def _checked(self, number: int, result: Any) -> dict[str, Any]:
        """A result that is good, its values made right if need be."""
        complaint = self._complaint_about(number, result)
        if complaint:
            result = clean_result(result)
            complaint = self._complaint_about(number, result)
            self._unclean = True
        if complaint:
            raise self._refusal(number, complaint)
        if "bbox" in self.tasks:
            self._sample.add(result, self._ground_truth.images[result["image_id"]])
        return result

    def _refusal(self, number: int, complaint: str) -> UserError:
        return UserError(f"Results file {self._path}: result {number} (counted from 0) {complaint}.")

    def _check_counts(self) -> None:
        """Make sure that masks cover their images: one that does not would match nothing, in silence."""
        totals = total_pixels([counts for _, counts, _ in self._counts]).tolist()
        for (number, counts, pixels), total in zip(self._counts, totals, strict=True):
            if total != pixels:
                raise self._refusal(number, f"has {counts_complaint(counts, pixels)}")
        self._counts.clear()

    def _complaint_about(self, number: int, result: dict[str, Any]) -> str | None:
        missing = [key for key in ("image_id", "category_id", "score") if key not in result]
        if missing:
            return f"has no {' and no '.join(missing)}"
        image = self._ground_truth.images.get(result["image_id"]) if _is_id(result["image_id"]) else None
        if image is None:
            return f"names the unknown image_id {result['image_id']!r}; give the annotations of the same images"
        complaint = complaint_about_number(result["score"], "score")
        if complaint:
            return complaint
        if not self.tasks:
            self.tasks = tuple(task for task in ("bbox", "segm") if SHAPE_OF_TASK[task] in result)
            if not self.tasks:
                return "has neither bbox nor segmentation"
        if not _is_id(result["category_id"]):
            return f"has the category_id {result['category_id']!r}, not a whole number"
        if result["category_id"] not in self._categories:
            self._drop("name a category that is not among the annotations'", number)
        for task in self.tasks:
            of_shape = self._complaint_about_bbox if task == "bbox" else self._complaint_about_mask
            complaint = of_shape(number, result, image)
            if complaint:
                return complaint
        if self._masks_with_boxes and "segm" in self.tasks and "bbox" not in self.tasks:
            if result.get("bbox") is None:
                return "has no bbox, whose area is asked for; leave --segm-area at mask"
            return self._complaint_about_bbox(number, result, image)
        return None

    def _complaint_about_bbox(self, number: int, result: dict[str, Any], image: dict[str, Any]) -> str | None:
        box = result.get("bbox")
        if box is None:
            return "has no bbox; leave bbox out of --iou-type"
        if self._ground_truth.rules == "lvis" and is_box(box) and box[2] * box[3] < 0:
            self._drop("have a box of negative area", number)
            return None
        return complaint_about_box(box)

    def _complaint_about_mask(self, number: int, result: dict[str, Any], image: dict[str, Any]) -> str | None:
        segmentation = result.get("segmentation")
        if segmentation is None:
            return "has no segmentation; leave segm and boundary out of --iou-type"
        complaint = complaint_about_mask(segmentation, image, texts_later=True)
        if complaint is None and isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
            self._counts.append((number, segmentation["counts"], image["height"] * image["width"]))
        return complaint

    def _drop(self, what: str, number: int) -> None:
        self._dropped[what] += 1
        self._first_dropped.setdefault(what, number)


def _is_id(value: Any) -> bool:
    return type(value) is int  # bool and float compare equal to ints, and are no ids
