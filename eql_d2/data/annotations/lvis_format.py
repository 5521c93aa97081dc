"""Reading annotation files in the LVIS and COCO formats, for Detectron2's dataset catalog."""

import difflib
import operator
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from eql_d2.data.annotations.cache import PackedAnnotations, open_annotations
from eql_d2.data.annotations.findings import defects_error
from eql_d2.data.annotations.image_paths import image_paths, images_present, leaving_finding, path_of
from eql_d2.data.annotations.rules import FEDERATED_KEYS, is_region, missing_file, not_lvis_format
from eql_d2.errors import UserError


class LazyAnnotations:
    """The annotation records of a file, unpacked as they are iterated over.

    Args:
        annotations: of the dataset.
        category_ids: ids of the classes whose annotations are given.
    """

    def __init__(self, annotations: PackedAnnotations, category_ids: set[int]) -> None:
        self._annotations, self._category_ids = annotations, category_ids

    def __len__(self) -> int:
        """Number of annotations of all classes, in all images."""
        return len(self._annotations.categories)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in range(len(self._annotations)):
            yield from (a for a in self._annotations.records(index)[1] if a["category_id"] in self._category_ids)


def annotation_content(annotations: PackedAnnotations, categories: Sequence[str] | None = None) -> dict[str, Any]:
    """What the annotation file would be parsed to, without its defective entries; the annotations are lazy.

    Args:
        annotations: of the dataset.
        categories: names of the classes to keep; None keeps all.

    Returns:
        A dict with the records of ``images``, ``categories`` and ``annotations`` (:class:`LazyAnnotations`).
    """
    records = chosen_categories(annotations, categories)
    kept = {record["id"] for record in records}
    images = [annotations.records(index)[0] for index in range(len(annotations))]
    if categories is not None:
        for image in images:
            for key in FEDERATED_KEYS:
                if key in image:
                    image[key] = [category_id for category_id in image[key] if category_id in kept]
    return {"images": images, "categories": records, "annotations": LazyAnnotations(annotations, kept)}


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


def load_lvis_format(
    annotation_file: str | Path,
    image_root: str | Path,
    *,
    categories: Sequence[str] | None = None,
    federated: bool = True,
    ignore_defects: bool = False,
    images_outside: bool = False,
) -> "LVISDataset":
    """Read an annotation file as Detectron2's standard dataset dicts.

    Args:
        annotation_file: JSON in the LVIS v0.5 or v1 format, or in COCO's.
        image_root: folder of the images (see :func:`~eql_d2.data.annotations.image_paths.candidate_paths`).
        categories: names of the classes to keep, in any order; None keeps all.
        federated: whether the file has to say which classes each image is labelled for, as LVIS does.
        ignore_defects: leave defective entries and missing images out instead of raising an error.
        images_outside: take images that lie outside the folder, by absolute paths or "..".

    Returns:
        The images in ascending order of their ids, as Detectron2 has them.

    Raises:
        UserError: the image folder is missing, or the file is broken or has defects; the sentence names it.
    """
    annotations = open_annotations(annotation_file)
    check_files_exist(annotation_file, image_root)
    check_annotations(annotations, federated, ignore_defects)
    if not images_outside:
        check_paths(annotations, image_root)
    present = images_present(image_paths(annotations, image_root), image_root) if ignore_defects else None
    images = None if present is None or present.all() else np.flatnonzero(present)
    return LVISDataset(annotations, image_root, categories, images)


def check_annotations(annotations: PackedAnnotations, federated: bool, ignore_defects: bool) -> None:
    """Make sure that an annotation file is good to train on; arguments as of :func:`load_lvis_format`.

    Raises:
        UserError: it is not, and the sentence says why.
    """
    if federated and not annotations.federated:
        raise not_lvis_format(
            annotations.source,
            "neg_category_ids and not_exhaustive_category_ids missing (of a dataset in COCO's format say format: coco)",
            or_coco="",
        )
    error = defects_error(annotations.source, annotations.findings)
    if error and not ignore_defects:
        raise error


def check_paths(annotations: PackedAnnotations, image_root: str | Path) -> None:
    """Make sure that no image lies outside the folder of the images.

    Raises:
        UserError: one does.
    """
    leaving = leaving_finding(image_paths(annotations, image_root), image_root)
    if leaving:
        raise UserError(f"Annotation file {annotations.source}: {leaving}.")


class LVISDataset(Sequence):
    """Detectron2's standard dataset dicts, each made from the packed annotations when it is asked for.

    An item has ``file_name, height, width, image_id``, from a federated file ``neg_category_ids`` and
    ``not_exhaustive_category_ids`` (both in contiguous ids), and ``annotations`` with ``bbox, bbox_mode``, contiguous
    ``category_id``, ``segmentation`` where there is one, and ``iscrowd`` 1 of a region to ignore. A slice is a list of
    items. Each access gives a new dict, so changes to it are not kept: work on ``list(dataset)``, which takes all the
    memory that this class saves, to keep them.

    Args:
        annotations: of the dataset.
        image_root: folder of the images.
        categories: names of the classes to keep; None keeps all.
        images: (n,) int64, places of the images to keep among all; None keeps all.
    """

    def __init__(
        self,
        annotations: PackedAnnotations,
        image_root: str | Path,
        categories: Sequence[str] | None = None,
        images: np.ndarray | None = None,
    ) -> None:
        self._annotations = annotations
        self._image_root = Path(image_root)
        self._categories = categories
        self._images = images

    def __reduce__(self) -> tuple:
        return LVISDataset, (self._annotations, self._image_root, self._categories, self._images)

    @property
    def packed(self) -> PackedAnnotations:
        """What the items are made from."""
        return self._annotations

    def __len__(self) -> int:
        return len(self._annotations if self._images is None else self._images)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"image {position} of {len(self)}")
        position %= len(self)
        place = position if self._images is None else int(self._images[position])
        image, annotations = self._annotations.records(place)
        item = {
            "file_name": str(self._image_root / path_of(image, self._annotations.federated, self._image_root)),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
        }
        if self._annotations.federated:
            for key in FEDERATED_KEYS:
                item[key] = [self._contiguous[i] for i in image.get(key, ()) if i in self._contiguous]
        item["annotations"] = [self._instance(a) for a in annotations if a["category_id"] in self._contiguous]
        return item

    def _instance(self, annotation: dict[str, Any]) -> dict[str, Any]:
        instance = {
            "bbox": annotation["bbox"],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": self._contiguous[annotation["category_id"]],
        }
        if annotation.get("segmentation"):
            instance["segmentation"] = annotation["segmentation"]
        if is_region(annotation):
            instance["iscrowd"] = 1
        return instance

    @cached_property
    def _contiguous(self) -> dict[int, int]:
        return contiguous_ids(chosen_categories(self._annotations, self._categories))

    def summaries(self) -> list[dict[str, Any]]:
        """What samplers and statistics read of each image, without unpacking it.

        Returns:
            A dict per image with ``width``, ``height`` and ``annotations`` that hold nothing but ``category_id``;
            regions to ignore are left out.
        """
        packed = self._annotations
        class_of = np.array([self._contiguous.get(c["id"], -1) for c in packed.category_records] + [-1])
        classes = class_of[packed.categories]
        kept = (classes >= 0) & ~packed.regions
        starts = np.concatenate(([0], np.cumsum(kept)))[packed.annotation_starts]
        by_class = [{"category_id": index} for index in range(len(self._contiguous))]
        instances = [by_class[category] for category in classes[kept].tolist()]
        summaries = [
            {"width": width, "height": height, "annotations": instances[start:stop]}
            for (width, height), (start, stop) in zip(packed.sizes.tolist(), pairwise(starts.tolist()), strict=True)
        ]
        return summaries if self._images is None else [summaries[place] for place in self._images]


def chosen_categories(annotations: PackedAnnotations, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """The category records of some names, in ascending order of ids; of all for None.

    Raises:
        UserError: the file has no category of a name.
    """
    records = annotations.category_records
    if names is None:
        return records
    known = {record["name"] for record in records}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(known)[:5])} …"
            raise UserError(f"Annotation file {annotations.source} has no category {name!r}; {hint}")
    wanted = set(names)
    return [record for record in records if record["name"] in wanted]
