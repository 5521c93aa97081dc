"""Ignore regions of a dataset from a second annotation file of the same images.

LVIS annotates COCO's photographs, and not all objects in them. EQL's entry to the LVIS Challenge 2019 (paper, appendix
A) takes COCO's boxes as regions in which nothing is sampled as background.
"""

import logging
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_api

from eql_d2.data.annotations.cache import PackedAnnotations, open_annotations
from eql_d2.data.annotations.lvis_format import LVISDataset
from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

MATCHED_IOU = 0.5
"""A box that overlaps an annotation by this much is of the same object, and no region: a choice of ours."""


def with_ignore_regions(dataset: LVISDataset, annotation_file: str | Path) -> "WithIgnoreRegions":
    """Add the unmatched boxes of a second annotation file to a dataset.

    Args:
        dataset: the dataset.
        annotation_file: JSON in the COCO or LVIS format with the same image ids; its categories do not matter.

    Returns:
        The same items, each with ``ignore_regions``.

    Raises:
        UserError: the file is missing or broken, has none of the dataset's images, or has other images by their ids.
    """
    regions, own = open_annotations(annotation_file), dataset.packed
    shared, of_regions, of_own = np.intersect1d(regions.image_ids, own.image_ids, return_indices=True)
    if not len(shared):
        raise UserError(
            f"ignore_regions {annotation_file} has none of the images of {own.source}; it must use the same image ids."
        )
    differing = (regions.sizes[of_regions] != own.sizes[of_own]).any(axis=1)
    if differing.any():
        raise UserError(
            f"Image {shared[differing][0]} has different sizes in ignore_regions {annotation_file} and "
            f"{own.source}; the ids must be of the same images."
        )
    logger.info("%s has boxes of %d of the %d images of %s.", annotation_file, len(shared), len(own), own.source)
    return WithIgnoreRegions(dataset, regions)


class WithIgnoreRegions(Sequence):
    """A dataset whose items have ``ignore_regions``: a list of boxes ``[x, y, width, height]`` in pixels.

    Args:
        dataset: the dataset.
        regions: annotations of the same images; those that no annotation of the dataset overlaps by
            :data:`MATCHED_IOU` are regions.
    """

    def __init__(self, dataset: LVISDataset, regions: PackedAnnotations) -> None:
        self._dataset = dataset
        self._regions = regions

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        item = self._dataset[operator.index(index)]
        return {**item, "ignore_regions": self._unmatched(item)}

    def _unmatched(self, item: dict[str, Any]) -> list[list[float]]:
        ids = self._regions.image_ids
        place = int(np.searchsorted(ids, np.uint64(item["image_id"])))
        if place == len(ids) or ids[place] != item["image_id"]:
            return []
        boxes = [annotation["bbox"] for annotation in self._regions.records(place)[1]]
        own = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYWH_ABS) for a in item["annotations"]]
        if not boxes or not own:
            return boxes
        ious = mask_api.iou(np.array(boxes, np.float64), np.array(own, np.float64), [0] * len(own))
        return [box for box, iou in zip(boxes, ious.max(axis=1), strict=True) if iou < MATCHED_IOU]

    def summaries(self) -> list[dict[str, Any]]:
        """What samplers read, as of :class:`LVISDataset`."""
        return self._dataset.summaries()
