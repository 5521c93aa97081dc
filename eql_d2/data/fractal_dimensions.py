"""The fractal dimensions of registered datasets' classes, counted once."""

import contextlib
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import orjson
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from tqdm import tqdm

from eql_d2.data.annotations.cache_files import cache_paths, file_digest, write_whole
from eql_d2.data.annotations.rules import is_region
from eql_d2.data.box_centres import dimensions_of_classes
from eql_d2.errors import UserError

SUFFIX = ".fractal.json"
PROGRESS_AFTER = 10


@lru_cache(maxsize=8)
def fractal_dimensions(dataset_names: tuple[str, ...], num_classes: int) -> tuple[float, ...]:
    """:func:`eql_d2.data.fractal_dimension` of the box centres of each class of registered datasets.

    They are counted once and kept in a file beside the annotation file's cache (``….fractal.json``).

    Args:
        dataset_names: datasets trained on together.
        num_classes: K.

    Raises:
        UserError: an annotation has no box, or a dataset is not registered.
    """
    caches, digest = _caches(dataset_names, num_classes)
    for cache in caches:
        if (kept := _read(cache, digest)) is not None:
            return kept
    centres, classes = _centres(dataset_names, num_classes)
    dimensions = tuple(dimensions_of_classes(centres, classes, num_classes).tolist())
    content = orjson.dumps({"digest": digest, "dimensions": dimensions})
    for cache in caches:
        with contextlib.suppress(OSError):  # a folder that does not take it: the next one, or counted anew next time
            write_whole(cache, MetadataCatalog.get(dataset_names[0]).json_file, lambda out: out.write(content)).close()
            break
    return dimensions


def _caches(dataset_names: Sequence[str], num_classes: int) -> tuple[list[Path], str]:
    """The files that may keep the dimensions, and what identifies their source; none for datasets that are no file."""
    identity = [str(num_classes)]
    for name in dataset_names:
        if name not in DatasetCatalog:
            raise UserError(f"Dataset {name!r} is not registered; describe it under DATASETS.CUSTOM.")
        DatasetCatalog.get(name)  # which may be what sets the metadata
        metadata = MetadataCatalog.get(name)
        if not metadata.get("json_file") or not Path(metadata.json_file).is_file():
            return [], ""
        identity += [file_digest(metadata.json_file), repr(metadata.get("thing_classes"))]
    paths = cache_paths(MetadataCatalog.get(dataset_names[0]).json_file)
    digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()
    return [path.with_name(path.name.removesuffix(".cache") + SUFFIX) for path in paths], digest


def _read(cache: Path, digest: str) -> tuple[float, ...] | None:
    try:
        content = orjson.loads(cache.read_bytes())
        return tuple(content["dimensions"]) if content["digest"] == digest else None
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return None  # none yet, or damaged: made again


def _centres(dataset_names: Sequence[str], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Box centres (n, 2) relative to the image's size, and classes (n,), of all instances."""
    centres, classes = [], []
    for name in dataset_names:
        for record in tqdm(DatasetCatalog.get(name), f"box centres of {name}", unit="image", delay=PROGRESS_AFTER):
            for instance in record["annotations"]:
                if is_region(instance):
                    continue
                if "bbox" not in instance:
                    raise UserError(
                        f"TEST.FRACAL.ENABLED is True, but image {record.get('image_id')} of {name} has an annotation "
                        "without bbox; add the boxes, or set the key to False."
                    )
                x, y, width, height = BoxMode.convert(
                    list(instance["bbox"]), instance.get("bbox_mode", BoxMode.XYWH_ABS), BoxMode.XYWH_ABS
                )
                centres.append(((x + width / 2) / record["width"], (y + height / 2) / record["height"]))
                classes.append(instance["category_id"])
    return np.array(centres, np.float64).reshape(-1, 2), np.array(classes, np.int64)
