"""Checks of boxes, polygons and areas, for all annotations of a file together."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from eql_d2.data.annotations.findings import FindingCounter

_CHUNK = 1 << 20  # coordinates: polygons of a large file are not held all at once
_PIXEL_TOLERANCE = 2.0


class GeometryCase(NamedTuple):
    """One kind of geometric fault.

    Attributes:
        level: see :class:`eql_d2.data.annotations.findings.Finding`.
        kind: short name.
        consequence: what training does about it.
        annotations: (A,) bool, where it occurs.
    """

    level: Literal["defect", "remark"]
    kind: str
    consequence: str
    annotations: np.ndarray

    def tell(self, counter: FindingCounter, name: str) -> None:
        """Count the cases.

        Args:
            counter: takes them.
            name: of the first annotation in which it occurs.
        """
        article = "an" if self.kind[0] == "a" else "a"
        consequence = f": {self.consequence}" if self.consequence else ""
        sentence = f"{name} has {article} {self.kind}{consequence}"
        counter.add(self.level, self.kind, sentence, int(self.annotations.sum()))


def box_cases(boxes: np.ndarray, areas: np.ndarray, widths: np.ndarray, heights: np.ndarray) -> Iterator[GeometryCase]:
    """The faults of A boxes and areas; comparisons with NaN are False.

    Args:
        boxes: (A, 4) x, y, width and height in pixels, NaN where there is none.
        areas: (A,) in pixels, NaN where there is none.
        widths, heights: (A,) size of each annotation's image in pixels.
    """
    x, y, w, h = boxes.T
    negative = (w < 0) | (h < 0)
    outside = ~negative & ((x >= widths) | (y >= heights) | (x + w <= 0) | (y + h <= 0))
    wrong_area = (areas < 0) | (areas > widths * heights * 1.01 + 1)
    empty = ~negative & ~outside & ((w == 0) | (h == 0))
    overhang = np.max([-x, -y, x + w - widths, y + h - heights], axis=0)
    sticking_out = ~negative & ~outside & (overhang > _PIXEL_TOLERANCE)
    yield GeometryCase("defect", "box of negative size", "", negative)
    yield GeometryCase("defect", "box outside its image", "", outside)
    yield GeometryCase("defect", "area that is negative or larger than its image", "", wrong_area)
    yield GeometryCase("remark", "box without area", "training leaves it out", empty)
    yield GeometryCase("remark", "box that sticks out of its image", "training cuts it off", sticking_out)


def polygon_cases(
    boxes: np.ndarray, areas: np.ndarray, extents: np.ndarray, polygon_areas: np.ndarray, is_region: np.ndarray
) -> Iterator[GeometryCase]:
    """The faults of polygons against boxes and areas.

    Args:
        boxes, areas: as above.
        extents, polygon_areas: see :class:`PolygonMeasures`.
        is_region: (A,) bool, crowds and the like, whose masks may leave their boxes.
    """
    x, y, w, h = boxes.T
    flat = polygon_areas == 0
    sides = [x - extents[:, 0], y - extents[:, 1], extents[:, 2] - x - w, extents[:, 3] - y - h]
    strays = np.max(sides, axis=0) > 0.1 * np.maximum(w, h) + _PIXEL_TOLERANCE
    differs = np.abs(areas - polygon_areas) > 0.5 * np.maximum(areas, polygon_areas) + 10
    yield GeometryCase("remark", "mask of polygons without area", "it trains as an empty mask", flat)
    strays &= ~is_region & ~flat
    yield GeometryCase("remark", "mask that leaves its box", "training uses both as they are", strays)
    differs &= ~is_region & ~flat
    yield GeometryCase("remark", "area that is not its polygons'", "evaluation sorts it by size wrongly", differs)


class PolygonMeasures:
    """Extents and areas of the polygons of A annotations, filled one by one."""

    def __init__(self) -> None:
        self._start_chunk()
        self._num_annotations = 0
        self._chunks: list[tuple[np.ndarray, ...]] = []

    def _start_chunk(self) -> None:
        self._coordinates: list[float] = []
        self._lengths: list[int] = []
        self._owners: list[int] = []

    def add(self, polygons: Sequence[Sequence[float]]) -> None:
        """Take the next annotation's polygons, each x and y in turns, of three points or more; or none."""
        for polygon in polygons:
            self._coordinates.extend(polygon)
            self._lengths.append(len(polygon))
            self._owners.append(self._num_annotations)
        self._num_annotations += 1
        if len(self._coordinates) > _CHUNK:
            self._measure()

    def _measure(self) -> None:
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

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """(A, 4) extents x0, y0, x1, y1 and (A,) sums of areas, in pixels; NaN where there is no polygon."""
        self._measure()
        extents, areas = np.full((self._num_annotations, 4), np.nan), np.full(self._num_annotations, np.nan)
        for owners, of_owners, areas_of_owners in self._chunks:
            extents[owners], areas[owners] = of_owners, areas_of_owners
        return extents, areas
