"""Labelled images in files: a folder of classes, a list, or JSON in iNaturalist's format."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson

from eql_d2.classification.image_set import ImageSet
from eql_d2.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


def read_image_folder(name: str, images: Path, annotations: Path | None = None) -> ImageSet:
    """Images whose class is the name of the folder they are in, at any depth below it; classes in order of name.

    Args:
        name: of the set.
        images: folder with a folder for each class.
        annotations: not used.

    Raises:
        UserError: the folder is missing, or has fewer than two classes, or a class is empty.
    """
    if not images.is_dir():
        raise UserError(f"Dataset {name}: folder {images} does not exist; it holds a folder of images for each class.")
    classes = sorted(folder.name for folder in images.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    paths, labels = [], []
    for label, class_name in enumerate(classes):
        found = (images / class_name).rglob("*")
        files = sorted(str(path) for path in found if path.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise UserError(f"Dataset {name}: folder {images / class_name} has no images; fill it or delete it.")
        paths += files
        labels += [label] * len(files)
    return ImageSet(name, tuple(classes), np.array(labels, np.int64), paths)


def read_image_list(name: str, images: Path, annotations: Path | None) -> ImageSet:
    """Images of a text file with a line "PATH LABEL" each, as the split lists of ImageNet-LT and iNaturalist.

    Classes are called by their numbers, up to the largest of the file.

    Args:
        name: of the set.
        images: folder that the paths are relative to.
        annotations: the text file.

    Raises:
        UserError: the file is missing, or a line is of another form.
    """
    paths, labels = [], []
    for number, line in enumerate(_text(name, annotations).splitlines(), start=1):
        path, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not path or not label.isdigit():
            raise UserError(f"Dataset {name}: line {number} of {annotations} is {line!r}; it must be PATH LABEL.")
        paths.append(str(images / path))
        labels.append(int(label))
    classes = tuple(map(str, range(max(labels, default=-1) + 1)))
    return ImageSet(name, classes, np.array(labels, np.int64), paths)


def read_image_json(name: str, images: Path, annotations: Path | None) -> ImageSet:
    """Images of a JSON file in iNaturalist's format: ``images``, ``annotations`` (one per image) and ``categories``.

    Args:
        name: of the set.
        images: folder that the images' ``file_name`` is relative to.
        annotations: the JSON file.

    Raises:
        UserError: the file is missing or of another form.
    """
    try:
        content = orjson.loads(_text(name, annotations))
        categories = sorted(content["categories"], key=lambda record: record["id"])
        label_of = {record["id"]: label for label, record in enumerate(categories)}
        file_of = {record["id"]: record["file_name"] for record in content["images"]}
        records = content["annotations"]
        labels = np.array([label_of[record["category_id"]] for record in records], np.int64)
        paths = [str(images / file_of[record["image_id"]]) for record in records]
        classes = tuple(str(record["name"]) for record in categories)
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"Dataset {name}: {annotations} is not in iNaturalist's format ({type(error).__name__} {error})."
        ) from None
    return ImageSet(name, classes, labels, paths)


def _text(name: str, path: Path | None) -> str:
    if path is None:
        raise UserError(f"Dataset {name} needs the key annotations, the file that says which image is of which class.")
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UserError(f"Dataset {name}: {path} cannot be read ({reason}); put it there or name another.") from None


READERS: dict[str, Callable[[str, Path, Path | None], ImageSet]] = {
    "image_folder": read_image_folder,
    "image_list": read_image_list,
    "image_json": read_image_json,
}
"""Readers by the ``format`` of an entry of ``DATASETS.CUSTOM``."""
