"""Shapes of annotation tools as COCO's records."""

import contextlib
import logging
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

_ROUND_POINTS = 36  # of the polygon that stands for a circle or an ellipse

Shape = tuple[str, list[float], Any]
"""A label, a box XYWH and, where there is one, a segmentation."""


@contextlib.contextmanager
def entry_named(path: Path, entry: str) -> Iterator[None]:
    """Name the entry of a file that is not as its tool writes it."""
    try:
        yield
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{path}: {entry} cannot be read ({said}); mend or delete it in the tool.") from None


def polygon(label: str, points: np.ndarray) -> Shape:
    """The shape of (N, 2) points."""
    low, high = points.min(axis=0), points.max(axis=0)
    box = [float(value) for value in (*low, *(high - low))]
    return label, box, [[float(value) for value in points.ravel()]]


def ellipse(center: list[float], radii: list[float], theta: float) -> np.ndarray:
    """Points (N, 2) of an ellipse, turned by an angle in radians."""
    angles = np.linspace(0, 2 * np.pi, _ROUND_POINTS, endpoint=False)
    points = np.array(center) + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii
    return turn(points, np.array(center), math.degrees(theta))


def turn(points: np.ndarray, center: np.ndarray, degrees: float) -> np.ndarray:
    """Points (N, 2) turned about one, clockwise as seen in an image."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return center + (points - center) @ np.array([[cos, sin], [-sin, cos]])


def united(parts: list[Shape]) -> Shape:
    """One object of several parts, which are all polygons or all run lengths."""
    corners = np.array([[x, y, x + width, y + height] for _, (x, y, width, height), _ in parts])
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    masks = [mask for _, _, mask in parts]
    if isinstance(masks[0], dict):
        merged = mask_api.merge(masks)
        segmentation: Any = {"size": masks[0]["size"], "counts": merged["counts"].decode()}
    else:
        segmentation = [points for mask in masks for points in mask]
    return parts[0][0], [float(value) for value in (*low, *(high - low))], segmentation


def as_coco(path: Path, entries: list[Any], labels: list[str] | None = None) -> dict[str, Any]:
    """Images, annotations and categories; tells of shapes without area, which are left out."""
    images: list[dict[str, Any]] = []
    found: list[tuple[int, Shape]] = []
    left_out: Counter[str] = Counter()
    for name, (width, height), shapes in entries:
        images.append({"id": len(images) + 1, "file_name": name, "width": width, "height": height})
        for shape in shapes:
            if isinstance(shape, str):
                left_out[shape] += 1
            else:
                found.append((len(images), shape))
    for kind, number in left_out.items():
        logger.warning("%s: %d shapes of the kind %s are left out, which cover no area.", path, number, kind)
    names = list(dict.fromkeys([*(labels or []), *sorted({shape[0] for _, shape in found})]))
    ids = {name: number for number, name in enumerate(names, start=1)}
    annotations: list[dict[str, Any]] = []
    for number, (image_id, (label, box, segmentation)) in enumerate(found, start=1):
        record = {"id": number, "image_id": image_id, "category_id": ids[label], "bbox": box, "iscrowd": 0}
        record["area"] = _area(segmentation) if segmentation else box[2] * box[3]
        annotations.append(record | ({"segmentation": segmentation} if segmentation else {}))
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _area(segmentation: Any) -> float:
    if isinstance(segmentation, dict):
        return float(mask_api.area(segmentation))
    corners = [np.array(points).reshape(-1, 2).T for points in segmentation]
    return float(sum(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2 for x, y in corners))
