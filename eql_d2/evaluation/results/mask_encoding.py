"""Run-length encodings of masks from the pixels of their boxes, without full-size bitmaps.

Detectron2 pastes each RoI mask into a bitmap of the picture's size (bilinear interpolation at the pixels' centres, then
a threshold), and pycocotools encodes the bitmaps. Here nothing has the picture's size. Along a column of pixels the
interpolated mask is linear between two rows of the RoI mask, so that it passes the threshold at most once there: a mask
costs the columns of its box times the rows of the RoI mask. Where a pixel is so near to the threshold that rounding
decides, PyTorch's own interpolation is asked about that pixel, as in Detectron2; encodings are equal to the bit.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.layers import paste_masks_in_image
from pycocotools import mask as mask_util
from torch import Tensor

from eql_d2.errors import UserError

ROUNDING = 2e-6  # of an interpolated value, for each row of the RoI mask; float32 is five times as exact
CHUNK = 1 << 18  # interpolated values at a time, so that they stay in the cache


def encode_roi_masks(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> list[dict[str, Any]]:
    """Encode the masks of one picture, as Detectron2's ``paste_masks_in_image`` on a CPU and pycocotools' ``encode``.

    Args:
        masks: (N, M, M) in [0, 1], as they leave the mask head.
        boxes: (N, 4), left, top, right, bottom in pixels of the picture.
        height: of the picture, at least 1.
        width: of the picture, at least 1.
        threshold: from which on a pixel belongs to the mask, in [0, 1].

    Returns:
        N compressed run-length encodings: ``size`` (height, width) and ``counts`` (str).

    Raises:
        UserError: a mask or a box is not finite, or the picture has no pixels.
    """
    masks, boxes = masks.detach().cpu(), boxes.detach().cpu()
    if not (masks.isfinite().all() and boxes.isfinite().all()):
        raise UserError("A mask that was predicted, or its box, is not finite; look for NaN in the model's weights.")
    if height < 1 or width < 1:
        raise UserError(f"Masks were predicted for a picture of {width} x {height} pixels, which has none.")
    ordinary = (boxes[:, 2:] > boxes[:, :2]).all(dim=1).numpy()
    if masks.dtype not in (torch.float32, torch.float64) or not 0 < threshold <= 1:
        ordinary[:] = False
    encodings = np.empty(len(masks), dtype=object)
    for row in np.flatnonzero(~ordinary):  # Detectron2's own way knows what to make of these
        bitmap = paste_masks_in_image(masks[row : row + 1], boxes[row : row + 1], (height, width), threshold)[0]
        encodings[row] = mask_util.encode(np.asfortranarray(bitmap.numpy(), dtype=np.uint8))
    for rows in _chunks(np.flatnonzero(ordinary), boxes.numpy(), masks.shape[-1]):
        encodings[rows] = _Pasting(masks[rows], boxes[rows], height, width, threshold).encodings()
    for encoding in encodings:
        encoding["counts"] = encoding["counts"].decode()
    return encodings.tolist()


def _chunks(rows: np.ndarray, boxes: np.ndarray, side: int) -> list[np.ndarray]:
    """Part the rows so that about :data:`CHUNK` values are interpolated at a time."""
    values = (boxes[rows, 2] - boxes[rows, 0] + 4) * (side + 2)
    return np.split(rows, np.flatnonzero(np.diff(np.cumsum(values) // CHUNK)) + 1) if len(rows) else []


class _Pasting:
    """Masks of some boxes on the grid of the picture's pixels.

    A mask is held as its toggles: places, counted down the columns, where pixels change between outside and inside.
    Two toggles in one place cancel, which joins runs of neighbouring columns that meet at the picture's bottom and top.

    Cell j of a column, 0 <= j <= M, lies between rows j - 1 and j of the RoI mask; rows -1 and M are the zeros around
    it. C is the number of columns of all boxes.

    Args:
        masks: (n, M, M).
        boxes: (n, 4) with an area.
        height: of the picture.
        width: of the picture.
        threshold: above 0.
    """

    def __init__(self, masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> None:
        self._masks, self._boxes, self._threshold = masks, boxes, threshold
        self._height, self._width = height, width
        self._side = masks.shape[-1]
        self._eps = ROUNDING * self._side * max(1.0, float(masks.abs().max()))
        left, top, right, bottom = boxes.double().numpy().T
        # The pixels that Detectron2 looks at: the box and one around it, within the picture.
        first_column = np.maximum(np.floor(left) - 1, 0).astype(np.int64)
        num_columns = np.maximum(np.minimum(np.ceil(right) + 1, width).astype(np.int64) - first_column, 0)
        self._owner = np.repeat(np.arange(len(left)), num_columns)
        self._column = np.arange(len(self._owner)) + np.repeat(
            first_column - np.cumsum(num_columns) + num_columns, num_columns
        )
        first_row = np.maximum(np.floor(top) - 1, 0)
        end_row = np.maximum(np.minimum(np.ceil(bottom) + 1, height), first_row)
        self._top, self._cell_height = top, (bottom - top) / self._side
        starts = np.ceil(self._row_of(np.arange(self._side + 2), np.arange(len(top))[:, None]))
        self._cell_rows = np.clip(starts, first_row[:, None], end_row[:, None]).astype(np.int64)
        place = (self._column + 0.5 - left[self._owner]) / (right - left)[self._owner] * self._side + 0.5
        self._values = self._interpolated(np.clip(place, 0, self._side + 1))

    def _row_of(self, place: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """The pixel row, as a real number, of places in RoI masks, counted in cells from their top."""
        return (place - 0.5) * self._cell_height[owner] + self._top[owner] - 0.5

    def _interpolated(self, place: np.ndarray) -> np.ndarray:
        """(C, M + 2): between which of its columns a RoI mask is how large, row by row, less the threshold."""
        padded = F.pad(self._masks, (1, 1, 1, 1)).transpose(1, 2).reshape(-1, self._side + 2).numpy()
        first = np.minimum(place.astype(np.int64), self._side)
        weight = (place - first).astype(padded.dtype)[:, None]
        first += self._owner * (self._side + 2)
        values = padded.take(first, axis=0)
        following = padded.take(first + 1, axis=0)
        following -= values
        following *= weight
        values += following
        values -= padded.dtype.type(self._threshold)
        return values

    def encodings(self) -> np.ndarray:
        """Of each mask ``size`` and ``counts`` (bytes)."""
        is_inside = self._values >= 0
        is_near = np.abs(self._values) <= self._eps
        crossed = is_inside[:, 1:] != is_inside[:, :-1]
        cells = np.flatnonzero(crossed)
        row, places = self._crossings(cells)
        inside = is_inside[:, :-1].ravel()
        toggles = [places, self._corrections(cells, row, inside[cells])]
        if is_near.any():
            cells = np.flatnonzero((is_near[:, 1:] | is_near[:, :-1]) & ~crossed)
            toggles.append(self._corrections(cells, np.full(len(cells), self._height), inside[cells]))
        return self._encoded(np.concatenate(toggles))

    def _crossings(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of cells where a mask passes the threshold, the first row after it, and that pixel's place."""
        columns, cell, owner, rows = self._described(cells)
        start, end = self._values[columns, cell].astype(np.float64), self._values[columns, cell + 1]
        row = np.ceil(self._row_of(cell + start / (start - end), owner)).astype(np.int64)
        row = np.clip(row, *rows)
        return row, self._place(owner, columns, row)

    def _corrections(self, cells: np.ndarray, turn: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Toggles of pixels near the threshold that PyTorch's interpolation puts on its other side.

        Args:
            cells: (n,).
            turn: (n,) row from which on pixels of the cell are taken for the opposite of ``inside``.
            inside: (n,) bool.
        """
        columns, cell, owner, rows = self._described(cells)
        start, end = self._values[columns, cell].astype(np.float64), self._values[columns, cell + 1]
        slope = end - start
        slope[slope == 0] = np.finfo(np.float64).tiny
        with np.errstate(over="ignore"):
            bounds = np.sort(np.clip((np.array([[-self._eps], [self._eps]]) - start) / slope, 0, 1), axis=0)
        first, last = self._row_of(cell + bounds, owner)
        first = np.clip(np.ceil(first - 1e-6).astype(np.int64), *rows)
        number = np.clip(np.floor(last + 1e-6).astype(np.int64) + 1, *rows) - first
        index = np.repeat(np.arange(len(cells)), number)
        if not len(index):
            return index
        row = np.arange(len(index)) + np.repeat(first - np.cumsum(number) + number, number)
        taken = inside[index] ^ (row >= turn[index])
        wrong = taken != self._decided(owner[index], self._column[columns[index]], row)
        place = self._place(owner[index], columns[index], row)[wrong]
        return np.concatenate([place, place + 1])

    def _described(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Index of the column, number in it, mask and, (2, n), first and end row of cells, counted through."""
        columns, cell = np.divmod(cells, self._side + 1)
        owner = self._owner[columns]
        return columns, cell, owner, np.stack([self._cell_rows[owner, cell], self._cell_rows[owner, cell + 1]])

    def _place(self, owner: np.ndarray, columns: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Places of pixels in all masks, one after the other; the end of a mask is a place as well."""
        return owner * (self._height * self._width + 1) + self._column[columns] * self._height + row

    def _decided(self, owner: np.ndarray, x: np.ndarray, y: np.ndarray, length: int = 64) -> np.ndarray:
        """Whether pixels belong to their masks by Detectron2's arithmetic, (P,) bool.

        Args:
            owner: (P,).
            x: (P,).
            y: (P,).
            length: pixels of a mask are interpolated so many at a time.
        """
        order = np.argsort(owner, kind="stable")
        of_mask = np.bincount(owner, minlength=len(self._masks))
        number = np.arange(len(order)) - np.repeat(np.cumsum(of_mask) - of_mask, of_mask)
        lines = -(-of_mask // length)
        line = (np.cumsum(lines) - lines)[owner[order]] + number // length
        pixels = torch.from_numpy(np.stack([x, y], axis=1)[order]).float() + 0.5
        boxes = self._boxes[owner[order]]
        corner = boxes[:, :2]
        grid = (pixels - corner) / (boxes[:, 2:] - corner) * 2 - 1
        padded = torch.zeros(int(lines.sum()), 1, length, 2, dtype=self._masks.dtype)
        padded[line, 0, number % length] = grid.to(self._masks.dtype)
        masks = self._masks[np.repeat(np.arange(len(lines)), lines), None]
        sampled = F.grid_sample(masks, padded, align_corners=False)[:, 0, 0]
        decided = np.empty(len(order), dtype=bool)
        decided[order] = (sampled[line, number % length] >= self._threshold).numpy()
        return decided

    def _encoded(self, toggles: np.ndarray) -> np.ndarray:
        size = self._height * self._width
        toggles.sort(kind="stable")
        starts = np.flatnonzero(np.diff(toggles, prepend=-1))
        toggles = toggles[starts[np.diff(starts, append=len(toggles)) % 2 == 1]]
        owner, place = np.divmod(toggles, size + 1)
        owner, place = owner[place < size], place[place < size]
        num_runs = np.bincount(owner, minlength=len(self._masks)) + 1
        last = np.cumsum(num_runs) - 1
        ends = np.empty(len(place) + len(num_runs), dtype=np.int64)
        ends[np.arange(len(place)) + owner] = place
        ends[last] = size
        runs = np.diff(ends, prepend=0)
        runs[last[:-1] + 1] += size
        result = np.empty(len(num_runs), dtype=object)
        counts = np.split(runs.astype(np.uint32), last[:-1] + 1)
        uncompressed = [{"size": [self._height, self._width], "counts": of_mask} for of_mask in counts]
        result[:] = mask_util.frPyObjects(uncompressed, self._height, self._width)
        return result
