"""What an annotation file in the LVIS format must hold, and the sentences for one that does not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from eql_d2.data.annotations.run_lengths import counts_complaint, run_lengths_complaint
from eql_d2.errors import UserError

MIN_POLYGON_POINTS = 3
# What makes a file federated: the classes that an image is verified not to hold, and those not annotated exhaustively.
FEDERATED_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")


def missing_file(path: str | Path) -> UserError:
    """The error for an annotation file that is not there."""
    return UserError(
        f"Annotation file {path} does not exist; put the dataset there or set DETECTRON2_DATASETS "
        "to the folder that holds it (see datasets/README.md)."
    )


def unreadable_file(path: str | Path, error: OSError) -> UserError:
    """The error for an annotation file that the system cannot read."""
    if isinstance(error, FileNotFoundError):
        return missing_file(path)
    return UserError(f"Annotation file {path} cannot be read ({error.strerror}); check the path.")


def broken_file(path: str | Path, error: Exception) -> UserError:
    """The error for an annotation file that is not JSON."""
    if isinstance(error, UnicodeDecodeError):
        return UserError(f"Annotation file {path} is not in UTF-8 ({error.reason}); save it in that encoding.")
    return UserError(f"Annotation file {path} is truncated or not JSON ({error}); download or write it again.")


def not_lvis_format(path: str | Path, complaint: str, or_coco: str = " or COCO") -> UserError:
    """The error for a JSON file of another form."""
    return UserError(
        f"Annotation file {path} is not in the LVIS{or_coco} format: {complaint}; mend it, export it anew or convert "
        "it (see datasets/README.md)."
    )


class RLE(msgspec.Struct, gc=False):
    """A run-length encoded mask: its height and width, and the counts, compressed to text or not."""

    size: tuple[int, int]
    counts: str | list[int]


def segmentation_complaint(segmentation: list[list[float]] | RLE, size: tuple[int, int] | None = None) -> str | None:
    """What is wrong with a segmentation, if anything.

    A polygon of fewer than three points has no area. Detectron2 refuses a file that has one, and pycocotools takes
    it for a box or stops; no official tool leaves it out.

    Args:
        segmentation: of an annotation.
        size: width and height of its image; None of one that is not known.
    """
    if isinstance(segmentation, RLE):
        height, width = segmentation.size
        if size is None:
            return counts_complaint(segmentation.counts, height * width)
        return run_lengths_complaint({"size": segmentation.size, "counts": segmentation.counts}, *size[::-1])
    if not segmentation:
        return "no polygon"
    for polygon in segmentation:
        if len(polygon) < 2 * MIN_POLYGON_POINTS:
            return f"a polygon of {len(polygon) // 2} points where {MIN_POLYGON_POINTS} are needed"
        if len(polygon) % 2:
            return "a polygon with an odd number of coordinates"
    return None


def in_python_terms(error: msgspec.ValidationError) -> str:
    """The parser's complaint, with Python's names for the types of JSON."""
    text = str(error)
    for json_name, python_name in (("object", "dict"), ("array", "list"), ("null", "NoneType")):
        text = text.replace(f"`{json_name}`", python_name)
    return text.replace("`", "")


def is_region(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation is no object but a region to ignore: a crowd (COCO), or with ``ignore`` 1."""
    return bool(annotation.get("iscrowd", 0) or annotation.get("ignore", 0))
