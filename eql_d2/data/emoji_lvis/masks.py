"""Bitmaps to LVIS segmentations: polygons where they are exact, run lengths where they are not."""

from __future__ import annotations

import cv2
import numpy as np
import pycocotools.mask as mask_utils

MIN_POLYGON_IOU = 0.9
MAX_POLYGON_PARTS = 4
SMALLEST_HOLE = 4  # pixels; a polygon fills its holes, and what shines through a hole belongs to somebody else

Segmentation = list[list[float]] | dict


def encode_mask(bitmap: np.ndarray) -> tuple[Segmentation, float, list[float]]:
    """Segmentation of a bitmap with the area and the tight box of what the segmentation decodes to.

    Args:
        bitmap: bool array (height, width) with at least one true pixel.

    Returns:
        Polygons (lists of x, y in pixels) or a run-length dict with text counts; area in square pixels;
        box [x, y, width, height] in pixels.
    """
    height, width = bitmap.shape
    exact = mask_utils.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    polygons = _polygons(bitmap)
    if polygons:
        drawn = mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))
        if mask_utils.iou([drawn], [exact], [0])[0, 0] >= MIN_POLYGON_IOU:
            return polygons, float(mask_utils.area(drawn)), mask_utils.toBbox(drawn).tolist()
    run_lengths = {"size": [height, width], "counts": exact["counts"].decode("ascii")}
    return run_lengths, float(mask_utils.area(exact)), mask_utils.toBbox(exact).tolist()


def decode_mask(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """Bool bitmap (height, width) of a segmentation, as pycocotools draws it."""
    if isinstance(segmentation, list):
        return mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))).astype(bool)
    return mask_utils.decode(segmentation).astype(bool)


def _polygons(bitmap: np.ndarray) -> list[list[float]]:
    """Outlines of a bitmap's parts; empty if it has holes or too many parts for outlines to do it justice."""
    # findContours walks through pixel centres and would lose half a pixel on every side; on the doubled
    # bitmap the loss is a quarter pixel, which rasterisation rounds away.
    doubled = cv2.resize(bitmap.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for contour, (_, _, _, parent) in zip(contours, hierarchy[0] if len(contours) else (), strict=True):
        if parent >= 0:
            if cv2.contourArea(contour) >= 4 * SMALLEST_HOLE:
                return []
            continue
        outline = cv2.approxPolyDP(contour, epsilon=0.8, closed=True)
        if len(outline) >= 3:
            polygons.append(((outline.reshape(-1, 2) + 0.5) / 2).ravel().tolist())
    return polygons if len(polygons) <= MAX_POLYGON_PARTS else []
