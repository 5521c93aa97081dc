"""Checks of boxes, polygons and areas, for all annotations of a file together."""

from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_CHUNK = 1 << 20  # coordinates: polygons of a large file are not held all at once
_PIXEL_TOLERANCE = 2.0


class GeometryCase(NamedTuple):
    """One kind of geometric fault.

    Attributes:
        level: see :class:`eql_d2.data.findings.Finding`.
        kind: short name.
        consequence: what training does about it.
        annotations: (A,) bool, where it occurs.
    """

    level: str
    kind: str
    consequence: str
    annotations: np.ndarray


class Geometry:
    """Boxes, areas, and the polygons' extents and areas of A annotations, filled one by one."""

    def __init__(self) -> None:
        self._boxes, self._areas = array("d"), array("d")
        self._start_chunk()
        self._chunks: list[tuple[np.ndarray, ...]] = []

    def _start_chunk(self) -> None:
        self._coordinates: list[float] = []  # grows faster than an array
        self._lengths: list[int] = []
        self._owners: list[int] = []

    def add(
        self, box: tuple[float, float, float, float] | None, area: float | None, polygons: list[list[float]]
    ) -> None:
        """Take the next annotation.

        Args:
            box: x, y, width and height in pixels.
            area: in pixels.
            polygons: x and y in turns, three points or more each.
        """
        number = len(self._areas)
        self._boxes.extend(box or (np.nan,) * 4)
        self._areas.append(np.nan if area is None else area)
        for polygon in polygons:
            self._coordinates.extend(polygon)
            self._lengths.append(len(polygon))
            self._owners.append(number)
        if len(self._coordinates) > _CHUNK:
            self._measure_polygons()

    def _measure_polygons(self) -> None:
        """Turn the collected polygons into one extent and one area an annotation."""
        if not self._lengths:
            return
        x, y = np.array(self._coordinates).reshape(-1, 2).T
        points = np.array(self._lengths) // 2
        starts = np.cumsum(points) - points
        following = np.arange(1, len(x) + 1)
        following[starts + points - 1] = starts
        areas = np.abs(np.add.reduceat(x * y[following] - x[following] * y, starts)) / 2
        owners, first = np.unique(np.array(self._owners), return_index=True)
        low = [np.minimum.reduceat(np.minimum.reduceat(values, starts), first) for values in (x, y)]
        high = [np.maximum.reduceat(np.maximum.reduceat(values, starts), first) for values in (x, y)]
        self._chunks.append((owners, np.stack((*low, *high), axis=1), np.add.reduceat(areas, first)))
        self._start_chunk()

    def cases(self, widths: np.ndarray, heights: np.ndarray, is_region: np.ndarray) -> Iterator[GeometryCase]:
        """The faults, those that say more first.

        Args:
            widths, heights: (A,) size of each annotation's image in pixels.
            is_region: (A,) bool, crowds and the like, whose masks may leave their boxes.
        """
        self._measure_polygons()
        boxes = np.frombuffer(self._boxes, np.float64).reshape(-1, 4)
        areas = np.frombuffer(self._areas, np.float64)
        extents, polygon_areas = np.full(boxes.shape, np.nan), np.full(areas.shape, np.nan)
        for owners, of_owners, areas_of_owners in self._chunks:
            extents[owners], polygon_areas[owners] = of_owners, areas_of_owners
        x, y, w, h = boxes.T
        overhang = np.max([-x, -y, x + w - widths, y + h - heights], axis=0)
        negative = (w < 0) | (h < 0)
        outside = ~negative & ((x >= widths) | (y >= heights) | (x + w <= 0) | (y + h <= 0))
        empty = ~negative & ~outside & ((w == 0) | (h == 0))
        wrong_area = (areas < 0) | (areas > widths * heights * 1.01 + 1)
        margin = 0.1 * np.maximum(w, h) + _PIXEL_TOLERANCE
        leaving = np.max([x - extents[:, 0], y - extents[:, 1], extents[:, 2] - x - w, extents[:, 3] - y - h], axis=0)
        differs = np.abs(areas - polygon_areas) > 0.5 * np.maximum(areas, polygon_areas) + 10
        yield GeometryCase("defect", "box of negative size", "", negative)
        yield GeometryCase("defect", "box outside its image", "", outside)
        yield GeometryCase("defect", "area that is negative or larger than its image", "", wrong_area)
        yield GeometryCase("remark", "box without area", "training leaves it out", empty)
        sticking_out = ~outside & (overhang > _PIXEL_TOLERANCE)
        yield GeometryCase("remark", "box that sticks out of its image", "training cuts it off", sticking_out)
        flat = polygon_areas == 0
        yield GeometryCase("remark", "mask of polygons without area", "it trains as an empty mask", flat)
        strays = ~is_region & ~flat & (leaving > margin)
        yield GeometryCase("remark", "mask that leaves its box", "training uses both as they are", strays)
        mismatch = ~is_region & ~flat & ~wrong_area & differs
        yield GeometryCase("remark", "area that is not its polygons'", "evaluation sorts it by size wrongly", mismatch)
