"""Datasets that a function of the user's own gives (``DatasetCatalog.register``): their records as an annotation file.

Counts, checks and metrics read annotation files; training goes on with the function's own records.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as mask_api

from eql_d2.data.annotations.cache_files import cache_paths, write_whole
from eql_d2.data.annotations.made_files import digest_in
from eql_d2.data.pictures import header_size
from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def describe_records(name: str) -> None:
    """Write the records of a registered dataset in COCO's format, and name the file in its metadata.

    The file lies in the cache folder. Nothing is written for records without annotations, as of semantic segmentation.

    Args:
        name: of a registered dataset without annotation file.

    Raises:
        UserError: the dataset cannot be loaded or has no class names, or a record is not in Detectron2's standard
            form; the sentence names it.
    """
    metadata = MetadataCatalog.get(name)
    try:
        records = list(DatasetCatalog.get(name))
    except OSError as error:
        raise UserError(f"Dataset {name!r} cannot be loaded ({error}).") from None
    if metadata.get("json_file"):  # loading it has said so
        return
    names = metadata.get("thing_classes")
    if not names:
        raise UserError(
            f"Dataset {name!r} has no class names; describe it under DATASETS.CUSTOM, or set thing_classes in its "
            "metadata."
        )
    if not any(isinstance(record, dict) and "annotations" in record for record in records):
        return
    path = cache_paths(Path.cwd() / name)[-1].with_suffix(".json")
    known = metadata.get("thing_dataset_id_to_contiguous_id") or {i: i for i in range(len(names))}
    category_ids = {place: category_id for category_id, place in known.items()}
    numbers = _image_numbers(records)
    content = _content(name, records, numbers, [category_ids.get(i, i) for i in range(len(names))], names)
    text = orjson.dumps(content)
    digest = hashlib.sha1(text, usedforsecurity=False).hexdigest()
    if digest_in(path) != digest:
        try:
            write_whole(
                path, Path.cwd(), lambda file: file.write(orjson.dumps({"info": {"digest": digest}, **content}))
            ).close()
        except OSError as error:
            raise UserError(
                f"The records of dataset {name!r} cannot be written to {path} ({error.strerror}); set EQL_D2_CACHE to "
                "a folder for them."
            ) from None
        logger.info("Wrote the %d records of dataset %s to %s.", len(records), name, path)
    known_keys = {"image_root": os.getcwd(), "images_outside": True, "federated": False, "image_numbers": numbers}
    metadata.set(json_file=str(path), **{k: v for k, v in known_keys.items() if metadata.get(k) is None})


def _image_numbers(records: Sequence[Record]) -> dict[Any, int] | None:
    """Numbers for image ids that are none; empty where an image has no id of its own, None where all are good."""
    ids = [record.get("image_id") for record in records if isinstance(record, dict)]
    if all(type(i) is int and i >= 0 for i in ids) and len(set(ids)) == len(records):
        return None
    numbers = {image_id: number for number, image_id in enumerate(ids, start=1)}
    return numbers if len(numbers) == len(records) and None not in numbers else {}


def _content(
    name: str, records: Sequence[Record], numbers: dict[Any, int] | None, category_ids: list[int], names: Sequence[str]
) -> dict[str, Any]:
    images: list[Record] = []
    annotations: list[Record] = []
    for place, record in enumerate(records):
        where = f"Record {place} of dataset {name!r}"
        if not isinstance(record, dict) or "file_name" not in record:
            raise UserError(f"{where} has no file_name; Detectron2's standard form needs it.")
        width, height = _size(where, record)
        image_id = record["image_id"] if numbers is None else place + 1
        file_name = os.path.abspath(record["file_name"])
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for number, annotation in enumerate(record.get("annotations") or ()):
            of_image = _annotation(f"{where}: annotation {number}", annotation, len(names), height, width)
            of_image |= {"id": len(annotations) + 1, "image_id": image_id}
            of_image["category_id"] = category_ids[of_image["category_id"]]
            annotations.append(of_image)
    categories = [{"id": i, "name": str(of_class)} for i, of_class in zip(category_ids, names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _size(where: str, record: Record) -> tuple[int, int]:
    if "width" in record and "height" in record:
        return int(record["width"]), int(record["height"])
    size = header_size(Path(record["file_name"]))
    if size is None:
        raise UserError(f"{where} has no width and height, and its image {record['file_name']} does not exist.")
    return size


def _annotation(where: str, annotation: Any, num_classes: int, height: int, width: int) -> Record:
    """Box, area, class, flag and mask of an annotation, in COCO's form."""
    missing = [key for key in ("bbox", "bbox_mode", "category_id") if key not in annotation]
    if missing:
        raise UserError(f"{where} has no {' and no '.join(missing)}; Detectron2's standard form needs it.")
    category = annotation["category_id"]
    if not isinstance(category, (int, np.integer)) or not 0 <= category < num_classes:
        raise UserError(
            f"{where} has the category_id {category!r}; it must be a number from 0 to {num_classes - 1}, as "
            f"thing_classes has {num_classes} classes."
        )
    box = np.asarray(annotation["bbox"], float)
    if box.shape != (4,):
        raise UserError(f"{where} has the bbox {annotation['bbox']!r}; it must be four numbers.")
    box = BoxMode.convert(box.tolist(), BoxMode(annotation["bbox_mode"]), BoxMode.XYWH_ABS)
    clean = {"bbox": box, "area": box[2] * box[3], "category_id": int(category)}
    if annotation.get("iscrowd"):
        clean["iscrowd"] = 1
    segmentation = annotation.get("segmentation")
    if segmentation is not None and len(segmentation):
        clean["segmentation"] = _mask(where, segmentation)
        clean["area"] = _area(clean["segmentation"], height, width, clean["area"])
    return clean


def _mask(where: str, segmentation: Any) -> Any:
    """Polygons as lists, run lengths as text."""
    if isinstance(segmentation, dict):
        counts = segmentation.get("counts")
        return {**segmentation, "counts": counts.decode() if isinstance(counts, bytes) else counts}
    if isinstance(segmentation, np.ndarray) and segmentation.ndim == 2:
        encoded = mask_api.encode(np.asfortranarray(segmentation, np.uint8))
        return {"size": list(segmentation.shape), "counts": encoded["counts"].decode()}
    try:
        return [np.asarray(polygon, float).ravel().tolist() for polygon in segmentation]
    except (TypeError, ValueError):
        raise UserError(f"{where} has a segmentation that is neither polygons nor run lengths nor a bitmap.") from None


def _area(segmentation: Any, height: int, width: int, otherwise: float) -> float:
    """Pixels of a sound mask; of a broken one, which the check will name, the area of its box."""
    try:
        if isinstance(segmentation, list) and all(len(polygon) >= 6 for polygon in segmentation):
            segmentation = mask_api.merge(mask_api.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation.get("counts"), list):
            segmentation = mask_api.frPyObjects(segmentation, height, width)
        return float(mask_api.area(segmentation))
    except (AttributeError, KeyError, TypeError, ValueError):
        return otherwise
