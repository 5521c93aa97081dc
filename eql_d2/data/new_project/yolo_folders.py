"""Folders in the form of YOLO: where their class names, images and labels lie."""

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

from eql_d2.errors import UserError
from eql_d2.plain_files import read_yaml

logger = logging.getLogger(__name__)

# Lists of names, a line each: Label Studio's and labelImg's; CVAT's (YOLO 1.1).
_NAME_LISTS = ("classes.txt", "obj.names")
_YAML = (".yaml", ".yml")
_USUAL_VALIDATION = ("images/val", "images/valid", "val/images", "valid/images")
_LABELS_BESIDE = "obj_train_data"  # CVAT's folder of images with their labels


def yolo_names_file(annotations: Path) -> Path | None:
    """The file of a YOLO folder that names its classes: a ``data.yaml``, or a list; None where there is none.

    Args:
        annotations: the folder, or that file itself.

    Raises:
        UserError: a YAML file that was named itself is broken or names no classes.
    """
    if annotations.is_file():
        if annotations.suffix in _YAML:
            if not _content(annotations).get("names"):
                raise UserError(f"YOLO file {annotations} names no classes; add names: [first, second, ...].")
            return annotations
        return annotations if annotations.name in _NAME_LISTS else None
    for path in sorted([*annotations.glob("*.yaml"), *annotations.glob("*.yml")]):
        try:
            if _content(path).get("names"):
                return path
        except UserError:
            continue
    return next((annotations / name for name in _NAME_LISTS if (annotations / name).is_file()), None)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path.read_text(encoding="utf-8"), f"YOLO file {path}")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"YOLO file {path} cannot be read ({error}).") from None
    return content if isinstance(content, dict) else {}


def as_data_yaml(names_file: Path, output: Path) -> Path:
    """A ``data.yaml`` with the class names: the file itself, or one that is made of a list.

    Args:
        names_file: of :func:`yolo_names_file`.
        output: YAML file to write, if need be.
    """
    if names_file.suffix in _YAML:
        return names_file
    names = [line.strip() for line in names_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(f"names: {json.dumps(names)}\n", encoding="utf-8")
    return output


def yolo_images(names_file: Path) -> Path:
    """The folder of the images to train on, as the YAML says it and Ultralytics looks for it, or by the usual names.

    Raises:
        UserError: there is none.
    """
    folder = names_file.parent
    named = _named_folder(names_file, "train")
    usual = (*([_LABELS_BESIDE] if names_file.name == _NAME_LISTS[1] else []), "images/train", "train/images", "images")
    found = next((base / path for base in (folder, folder.parent) for path in usual if (base / path).is_dir()), None)
    of_images = named or found
    said = _content(names_file).get("train") if names_file.suffix in _YAML else None
    if isinstance(said, list) and said and not named:
        raise UserError(
            f"YOLO file {names_file} names {len(said)} folders to train on, {said[0]} first; put all images with their "
            "labels into one."
        )
    if of_images:
        return of_images
    if any(folder.glob("*.txt")) and any(path.suffix.lower() in (".jpg", ".jpeg", ".png") for path in folder.iterdir()):
        return folder
    raise UserError(f"YOLO file {names_file} names no folder of images that is there; name it with --images.")


def yolo_validation(names_file: Path) -> Path | None:
    """The folder of images to validate on that the YAML names, if it is another than that to train on.

    Tells of one that is named and not there.
    """
    found = _named_folder(names_file, "val") or next(
        (path for name in _USUAL_VALIDATION if (path := names_file.parent / name).is_dir()), None
    )
    with contextlib.suppress(UserError):  # --images may name what to train on
        if found is not None and found.resolve() == yolo_images(names_file).resolve():
            return None
    if found is not None and yolo_labels(found, names_file.parent, fallback=False).is_dir():
        return found
    named = _content(names_file).get("val") if names_file.suffix in _YAML else None
    if named:
        logger.warning("%s names val %s, which is not there or has no labels; it is left out.", names_file, named)
    return None


def _named_folder(names_file: Path, key: str) -> Path | None:
    if names_file.suffix not in _YAML:
        return None
    content = _content(names_file)
    said = content.get(key)
    said = said[0] if isinstance(said, list) and len(said) == 1 else said
    if not isinstance(said, str):
        return None
    base, path = Path(str(content.get("path") or "")), Path(said)
    folder = names_file.parent
    # Roboflow writes ../train/images beside a data.yaml in the folder of train itself; Ultralytics' path is relative to
    # a folder of its settings, and a downloaded one is of another machine.
    here = Path(str(path).removeprefix("../"))
    tried = (folder / base / path, folder.parent / base / path, folder / here, folder.parent / here)
    return next((found for found in tried if found.is_dir()), None)


def yolo_labels(image_folder: Path, folder: Path, fallback: bool = True) -> Path:
    """The folder of the labels of a folder of images.

    Args:
        image_folder: of the images.
        folder: of the names.
        fallback: take ``labels`` of that folder, or the images' own, where there is none in the images' place.
    """
    parts = list(image_folder.parts)
    places = [place for place, part in enumerate(parts) if part == "images"]
    beside = Path(*parts[: places[-1]], "labels", *parts[places[-1] + 1 :]) if places else folder / "labels"
    if beside.is_dir() or not fallback:
        return beside
    return folder / "labels" if (folder / "labels").is_dir() else image_folder
