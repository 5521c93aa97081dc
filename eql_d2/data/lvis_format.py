"""Reading annotation files in the LVIS format, for Detectron2's dataset catalog."""

from pathlib import Path
from typing import Any

import orjson
from detectron2.structures import BoxMode

from eql_d2.errors import UserError


def read_annotation_file(path: str | Path) -> dict[str, Any]:
    """Parse an LVIS-format annotation file.

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
    except FileNotFoundError:
        raise _missing_file(path) from None
    except OSError as error:
        raise UserError(f"Annotation file {path} cannot be read ({error.strerror}); check the path.") from None
    except orjson.JSONDecodeError as error:
        raise UserError(f"Annotation file {path} is truncated or not JSON ({error}); download it again.") from None
    try:
        complaint = _complaint(content)
    except (KeyError, TypeError, AttributeError) as error:
        complaint = f"{type(error).__name__} {error} in a record"
    if complaint:
        raise UserError(
            f"Annotation file {path} is not in the LVIS format: {complaint}; use the file of the LVIS website "
            "or convert yours (see datasets/README.md)."
        )
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
    known = {
        "image_id": {image["id"] for image in content["images"]},
        "category_id": {category["id"] for category in content["categories"]},
    }
    for key, ids in known.items():
        unknown = {annotation[key] for annotation in content["annotations"]} - ids
        if unknown:
            return f"an annotation names the unknown {key} {min(unknown)}"
    return None


def check_files_exist(annotation_file: str | Path, image_root: str | Path) -> None:
    """Make sure that a dataset is there, without reading it.

    Raises:
        UserError: the annotation file or the image folder is missing.
    """
    if not Path(annotation_file).exists():
        raise _missing_file(annotation_file)
    if not Path(image_root).is_dir():
        raise UserError(
            f"Image folder {image_root} does not exist; put the images there or set DETECTRON2_DATASETS "
            "to the folder that holds the dataset (see datasets/README.md)."
        )


def _missing_file(path: str | Path) -> UserError:
    return UserError(
        f"Annotation file {path} does not exist; put the dataset there or set DETECTRON2_DATASETS "
        "to the folder that holds it (see datasets/README.md)."
    )


def contiguous_ids(categories: list[dict[str, Any]]) -> dict[int, int]:
    """Map dataset category ids to 0 … K-1 in ascending order of the ids."""
    return {category_id: index for index, category_id in enumerate(sorted(c["id"] for c in categories))}


def load_lvis_format(annotation_file: str | Path, image_root: str | Path) -> list[dict[str, Any]]:
    """Read an LVIS-format file into Detectron2's standard dataset dicts.

    Args:
        annotation_file: JSON in the LVIS v0.5 or v1 format.
        image_root: folder of the images; v1's ``coco_url`` gives the path below it ("val2017/NAME.jpg").

    Returns:
        One dict an image with ``file_name, height, width, image_id, neg_category_ids,
        not_exhaustive_category_ids`` (both in contiguous ids) and ``annotations`` with contiguous
        ``category_id``.

    Raises:
        UserError: the image folder is missing, or the file is broken; the sentence names it.
    """
    content = read_annotation_file(annotation_file)
    check_files_exist(annotation_file, image_root)
    try:
        return _dataset_dicts(content, Path(image_root))
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"Annotation file {annotation_file} is not in the LVIS format: {type(error).__name__} {error} "
            "in an image or annotation record."
        ) from None


def _dataset_dicts(content: dict[str, Any], image_root: Path) -> list[dict[str, Any]]:
    to_contiguous = contiguous_ids(content["categories"])
    records = {image["id"]: _image_record(image, image_root, to_contiguous) for image in content["images"]}
    for annotation in content["annotations"]:
        records[annotation["image_id"]]["annotations"].append(
            {
                "bbox": annotation["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": to_contiguous[annotation["category_id"]],
                "segmentation": annotation["segmentation"],
            }
        )
    return list(records.values())


def _image_record(image: dict[str, Any], image_root: Path, to_contiguous: dict[int, int]) -> dict[str, Any]:
    return {
        "file_name": str(image_root / _relative_path(image)),
        "height": image["height"],
        "width": image["width"],
        "image_id": image["id"],
        "neg_category_ids": [to_contiguous[i] for i in image.get("neg_category_ids", ())],
        "not_exhaustive_category_ids": [to_contiguous[i] for i in image.get("not_exhaustive_category_ids", ())],
        "annotations": [],
    }


def _relative_path(image: dict[str, Any]) -> str:
    """Path of an image below the image root.

    LVIS v1 says it in ``coco_url``, whose last two parts are split and name; v0.5 has COCO 2014's
    ``file_name`` for pictures that lie in the COCO 2017 folders without the "COCO_val2014_" prefix.
    """
    if "coco_url" in image:
        return "/".join(image["coco_url"].split("/")[-2:])
    name = image["file_name"]
    return name[-16:] if name.startswith("COCO") else name


def image_ids_by_path(annotation_file: str | Path) -> dict[str, int]:
    """The ids of an annotation file's images by their path below the image folder.

    Args:
        annotation_file: JSON in the LVIS format; annotations are not needed.

    Raises:
        UserError: the file is missing or broken.
    """
    return {_relative_path(image): image["id"] for image in read_annotation_file(annotation_file)["images"]}
