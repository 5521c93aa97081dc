"""Reading annotation files in the LVIS format, for Detectron2's dataset catalog."""

import operator
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
from detectron2.structures import BoxMode
from pycocotools import mask as mask_api

from eql_d2.data.annotation_cache import PackedAnnotations, open_annotations, warn_of_change
from eql_d2.data.annotation_rules import (
    broken_file,
    id_complaint,
    missing_file,
    not_lvis_format,
    relative_path,
    unreadable_file,
)
from eql_d2.errors import UserError


def read_annotation_file(path: str | Path) -> dict[str, Any]:
    """Parse an LVIS-format annotation file, whole; :func:`open_annotations` is faster and lighter for large ones.

    Args:
        path: a JSON file with the lists ``images`` and ``categories``, and ``annotations`` unless it is of a
            test set, whose annotations are secret.

    Returns:
        The parsed file, with an empty list ``annotations`` for a test set.

    Raises:
        UserError: the file is missing, truncated, not JSON or not in the LVIS format.
    """
    path = Path(path)
    try:
        content = orjson.loads(path.read_bytes())
        warn_of_change(path)
    except OSError as error:
        raise unreadable_file(path, error) from None
    except orjson.JSONDecodeError as error:
        raise broken_file(path, error) from None
    try:
        complaint = _complaint(content)
    except (KeyError, TypeError, AttributeError) as error:
        complaint = f"{type(error).__name__} {error} in a record"
    if complaint:
        raise not_lvis_format(path, complaint)
    return content


def _complaint(content: Any) -> str | None:
    """What is wrong with a parsed annotation file; adds the empty ``annotations`` of a test set."""
    if not isinstance(content, dict):
        return f"it holds a {type(content).__name__}, not a dictionary"
    missing = [key for key in ("images", "categories") if key not in content]
    if not missing and content.setdefault("annotations", []):
        federated = ("neg_category_ids", "not_exhaustive_category_ids")
        missing = [key for key in federated if any(key not in image for image in content["images"])]
    if missing:
        return f"{' and '.join(missing)} missing"
    annotations = content["annotations"]
    return id_complaint(
        [image["id"] for image in content["images"]],
        [category["id"] for category in content["categories"]],
        [annotation["id"] for annotation in annotations if "id" in annotation],
        [annotation["image_id"] for annotation in annotations],
        [annotation["category_id"] for annotation in annotations],
    )


def check_files_exist(annotation_file: str | Path, image_root: str | Path) -> None:
    """Make sure that a dataset is there, without reading it.

    Raises:
        UserError: the annotation file or the image folder is missing.
    """
    if not Path(annotation_file).exists():
        raise missing_file(annotation_file)
    if not Path(image_root).is_dir():
        raise UserError(
            f"Image folder {image_root} does not exist; put the images there or set DETECTRON2_DATASETS "
            "to the folder that holds the dataset (see datasets/README.md)."
        )


def contiguous_ids(categories: list[dict[str, Any]]) -> dict[int, int]:
    """Map dataset category ids to 0 … K-1 in ascending order of the ids."""
    return {category_id: index for index, category_id in enumerate(sorted(c["id"] for c in categories))}


def load_lvis_format(annotation_file: str | Path, image_root: str | Path) -> "LVISDataset":
    """Read an LVIS-format file as Detectron2's standard dataset dicts.

    Args:
        annotation_file: JSON in the LVIS v0.5 or v1 format.
        image_root: folder of the images; v1's ``coco_url`` gives the path below it ("val2017/NAME.jpg").

    Returns:
        The images in ascending order of their ids, as Detectron2 has them.

    Raises:
        UserError: the image folder is missing, or the file is broken; the sentence names it.
    """
    annotations = open_annotations(annotation_file)
    check_files_exist(annotation_file, image_root)
    if annotations.complaint:
        raise not_lvis_format(annotation_file, annotations.complaint)
    return LVISDataset(annotations, image_root)


class LVISDataset(Sequence):
    """Detectron2's standard dataset dicts, each made from the packed annotations when it is asked for.

    An item has ``file_name, height, width, image_id, neg_category_ids, not_exhaustive_category_ids`` (both in
    contiguous ids) and ``annotations`` with ``bbox, bbox_mode, segmentation`` and contiguous ``category_id``. A slice
    is a list of items. Each access gives a new dict, so changes to it are not kept: work on ``list(dataset)``, which
    takes all the memory that this class saves, to keep them.

    Args:
        annotations: of the dataset.
        image_root: folder of the images.
    """

    def __init__(self, annotations: PackedAnnotations, image_root: str | Path) -> None:
        self._annotations = annotations
        self._image_root = Path(image_root)

    def __reduce__(self) -> tuple:
        return LVISDataset, (self._annotations, self._image_root)

    @property
    def packed(self) -> PackedAnnotations:
        """What the items are made from."""
        return self._annotations

    def __len__(self) -> int:
        return len(self._annotations)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"image {position} of {len(self)}")
        image, annotations = self._annotations.records(position % len(self))
        return {
            "file_name": str(self._image_root / relative_path(image)),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "neg_category_ids": [self._contiguous[i] for i in image.get("neg_category_ids", ())],
            "not_exhaustive_category_ids": [self._contiguous[i] for i in image.get("not_exhaustive_category_ids", ())],
            "annotations": [self._instance(annotation) for annotation in annotations],
        }

    def _instance(self, annotation: dict[str, Any]) -> dict[str, Any]:
        return {
            "bbox": annotation["bbox"],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": self._contiguous[annotation["category_id"]],
            "segmentation": _compressed(annotation["segmentation"]),
        }

    @cached_property
    def _contiguous(self) -> dict[int, int]:
        return contiguous_ids(self._annotations.category_records)

    def summaries(self) -> list[dict[str, Any]]:
        """What samplers and statistics read of each image, without unpacking it.

        Returns:
            A dict an image with ``width``, ``height`` and ``annotations`` that hold nothing but ``category_id``.
        """
        by_class = [{"category_id": index} for index in range(len(self._contiguous))]
        instances = [by_class[category] for category in self._annotations.categories.tolist()]
        return [
            {"width": width, "height": height, "annotations": instances[start:stop]}
            for (width, height), (start, stop) in zip(
                self._annotations.sizes.tolist(), pairwise(self._annotations.annotation_starts.tolist()), strict=True
            )
        ]


def _compressed(segmentation: list | dict[str, Any]) -> list | dict[str, Any]:
    """An RLE as Detectron2 reads it; polygons as they are."""
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        rle = mask_api.frPyObjects(segmentation, *segmentation["size"])
        return {"size": segmentation["size"], "counts": rle["counts"].decode()}
    return segmentation


def image_ids_by_path(annotation_file: str | Path) -> dict[str, int]:
    """The ids of an annotation file's images by their path below the image folder.

    Args:
        annotation_file: JSON in the LVIS format; annotations are not needed.

    Raises:
        UserError: the file is missing or broken.
    """
    return {relative_path(image): image["id"] for image in read_annotation_file(annotation_file)["images"]}
