"""Checks of boxes, masks and areas, for all annotations of a file together."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from pycocotools import mask as mask_api

from eql_d2.data.annotations.findings import MOST_CASES, Case, FindingCounter

_CHUNK = 1 << 20  # coordinates: polygons of a large file are not held all at once
_PIXEL_TOLERANCE = 2.0


class GeometryCase(NamedTuple):
    """One kind of geometric fault.

    Attributes:
        level: see :class:`eql_d2.data.annotations.findings.Finding`.
        kind: short name.
        consequence: what training does about it.
        annotations: (A,) bool, where it occurs.
        degree: (A,) how bad it is there.
    """

    level: Literal["defect", "remark"]
    kind: str
    consequence: str
    annotations: np.ndarray
    degree: np.ndarray

    def tell(self, counter: FindingCounter, name: str, cases: Callable[[Iterable[int]], Iterable[Case]]) -> None:
        """Count the cases.

        Args:
            counter: takes them.
            name: of the first annotation in which it occurs.
            cases: gives the cases of annotations by their places among the A.
        """
        article = "an" if self.kind[0] == "a" else "a"
        consequence = f": {self.consequence}" if self.consequence else ""
        sentence = f"{name} has {article} {self.kind}{consequence}"
        shown = first_and_worst(self.annotations, self.degree)
        counter.add(self.level, self.kind, sentence, int(self.annotations.sum()), cases(shown))


def first_and_worst(chosen: np.ndarray, degree: np.ndarray) -> list[int]:
    """Places of the first of some annotations, and of those where something is worst.

    Args:
        chosen: (A,) bool, one of them at least True.
        degree: (A,) how bad it is.
    """
    places = np.flatnonzero(chosen)
    worst = places[np.argsort(-np.nan_to_num(degree[places]), kind="stable")[:MOST_CASES]]
    return list(dict.fromkeys([int(places[0]), *worst.tolist()]))[:MOST_CASES]


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
    smallest = np.minimum(w, h)
    yield GeometryCase("defect", "box of negative size", "", negative, -smallest)
    yield GeometryCase("defect", "box outside its image", "", outside, overhang)
    yield GeometryCase("defect", "area that is negative or larger than its image", "", wrong_area, np.abs(areas))
    yield GeometryCase("remark", "box without area", "training leaves it out", empty, np.maximum(w, h))
    yield GeometryCase("remark", "box that sticks out of its image", "training cuts it off", sticking_out, overhang)


def mask_cases(
    boxes: np.ndarray, areas: np.ndarray, extents: np.ndarray, mask_areas: np.ndarray, is_region: np.ndarray
) -> Iterator[GeometryCase]:
    """The faults of masks against boxes and areas.

    Args:
        boxes, areas: as above.
        extents, mask_areas: see :class:`MaskMeasures`.
        is_region: (A,) bool, crowds and the like, whose masks may leave their boxes.
    """
    x, y, w, h = boxes.T
    flat = mask_areas == 0
    sides = [x - extents[:, 0], y - extents[:, 1], extents[:, 2] - x - w, extents[:, 3] - y - h]
    beyond, apart = np.max(sides, axis=0), np.abs(areas - mask_areas)
    strays = beyond > 0.1 * np.maximum(w, h) + _PIXEL_TOLERANCE
    differs = apart > 0.5 * np.maximum(areas, mask_areas) + 10
    yield GeometryCase("remark", "mask without area", "it trains as an empty mask", flat, w * h)
    strays &= ~is_region & ~flat
    yield GeometryCase("remark", "mask that leaves its box", "training uses both as they are", strays, beyond)
    differs &= ~is_region & ~flat
    consequence = "evaluation sorts it by size wrongly"
    yield GeometryCase("remark", "area that is not its mask's", consequence, differs, apart)


class MaskMeasures:
    """Extents and areas of the masks of A annotations, filled one by one."""

    def __init__(self) -> None:
        self._start_chunk()
        self._num_annotations = 0
        self._chunks: list[tuple[np.ndarray, ...]] = []
        self._run_lengths: list[dict[str, Any]] = []
        self._owners_of_run_lengths: list[int] = []

    def _start_chunk(self) -> None:
        self._coordinates: list[float] = []
        self._lengths: list[int] = []
        self._owners: list[int] = []

    def add(self, mask: Sequence[Sequence[float]] | dict[str, Any]) -> None:
        """Take the next annotation's mask: polygons, each x and y in turns, of three points or more; or run lengths.

        Args:
            mask: empty where there is none; run lengths compressed, as bytes or text.
        """
        if isinstance(mask, dict):
            self._run_lengths.append(mask)
            self._owners_of_run_lengths.append(self._num_annotations)
            self._num_annotations += 1
            return
        for polygon in mask:
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
        """(A, 4) extents x0, y0, x1, y1 and (A,) sums of areas, in pixels; NaN where there is no mask."""
        self._measure()
        extents, areas = np.full((self._num_annotations, 4), np.nan), np.full(self._num_annotations, np.nan)
        for owners, of_owners, areas_of_owners in self._chunks:
            extents[owners], areas[owners] = of_owners, areas_of_owners
        if self._run_lengths:
            boxes = mask_api.toBbox(self._run_lengths)
            extents[self._owners_of_run_lengths] = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
            areas[self._owners_of_run_lengths] = mask_api.area(self._run_lengths)
        return extents, areas
