"""Boxes around the parts of masks that lie within the image."""

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, PolygonMasks


def visible_boxes(masks: PolygonMasks | BitMasks, image_size: tuple[int, int]) -> Boxes:
    """Tight boxes of the visible parts of an image's masks.

    Args:
        masks: N masks; polygons may reach out of the image.
        image_size: height and width in pixels.

    Returns:
        N boxes; zeros for a mask of which nothing is visible.
    """
    if isinstance(masks, BitMasks):
        return masks.get_bounding_boxes()
    boxes = torch.zeros(len(masks), 4)
    for box, polygons in zip(boxes, masks.polygons, strict=True):
        parts = [visible_part(np.reshape(polygon, (-1, 2)), *image_size) for polygon in polygons]
        points = np.concatenate([np.zeros((0, 2)), *parts])
        if len(points):
            box[:] = torch.from_numpy(np.concatenate([points.min(axis=0), points.max(axis=0)]))
    return Boxes(boxes)


def visible_part(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Points that span the box of the part of a polygon within an image.

    They are the vertices in the image, where its edges cross the image's border, and the image's corners that lie in
    the polygon.

    Args:
        polygon: (n, 2), x and y in pixels; edges may cross each other.
        height: of the image.
        width: of the image.

    Returns:
        (m, 2); none if nothing is visible.
    """
    size = np.array([width, height], dtype=np.float64)
    inside = ((polygon >= 0) & (polygon <= size)).all(axis=1)
    if inside.all():
        return polygon
    ends = np.roll(polygon, -1, axis=0)
    points = [polygon[inside]]
    for axis in (0, 1):
        for border in (0.0, size[axis]):
            start, end = polygon[:, axis], ends[:, axis]
            crosses = (start < border) != (end < border)
            share = (border - start[crosses]) / (end[crosses] - start[crosses])
            crossings = polygon[crosses] + share[:, None] * (ends[crosses] - polygon[crosses])
            crossings[:, axis] = border
            other = crossings[:, 1 - axis]
            points.append(crossings[(other >= 0) & (other <= size[1 - axis])])
    corners = size * np.array([(0, 0), (0, 1), (1, 0), (1, 1)])
    points.append(corners[[_contains(polygon, ends, corner) for corner in corners]])
    part = np.concatenate(points)
    touches = len(part) and np.ptp(part, axis=0).min() < 1e-6  # the border, without reaching into the image
    return part[:0] if touches else part


def _contains(polygon: np.ndarray, ends: np.ndarray, point: np.ndarray) -> bool:
    """Whether a ray from the point to the right crosses an odd number of edges."""
    crosses = (polygon[:, 1] <= point[1]) != (ends[:, 1] <= point[1])
    start, end = polygon[crosses], ends[crosses]
    x = start[:, 0] + (point[1] - start[:, 1]) / (end[:, 1] - start[:, 1]) * (end[:, 0] - start[:, 0])
    return bool((x > point[0]).sum() % 2)
