"""Results in the challenge's CSV form: a line per image, ImageID,PredictionString."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

HEADER = b"ImageID,PredictionString"
DIGITS = 6  # of scores, significant; of coordinates, behind the point


def prediction_row(image: dict[str, Any], labels: Sequence[str], results: Sequence[dict[str, Any]]) -> bytes:
    """The line of an image: for each detection ``label confidence xmin ymin xmax ymax``.

    Args:
        image: ``file_name``, whose stem is the ImageID, ``width`` and ``height`` in pixels.
        labels: label (``/m/…``) of the class of each result.
        results: ``bbox`` (x, y, width, height in pixels) and ``score``.

    Returns:
        The line without its end. Coordinates are in [0, 1] of the image's width and height.
    """
    detections = []
    for label, result in zip(labels, results, strict=True):
        x, y, width, height = result["bbox"]
        corners = (
            *(x / image["width"], y / image["height"]),
            *((x + width) / image["width"], (y + height) / image["height"]),
        )
        numbers = " ".join(f"{min(max(value, 0), 1):.{DIGITS}f}" for value in corners)
        detections.append(f"{label} {result['score']:.{DIGITS}g} {numbers}")
    return f"{PurePosixPath(image['file_name']).stem},{' '.join(detections)}".encode()


def label_of_category(record: dict[str, Any]) -> str:
    """The official label of a category, or its name without spaces where it has none."""
    return record.get("freebase_id") or record["name"].replace(" ", "_")
