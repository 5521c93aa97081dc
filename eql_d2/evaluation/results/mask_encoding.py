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
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Instances, ROIMasks
from pycocotools import mask as mask_util
from torch import Tensor

from eql_d2.errors import UserError

ROUNDING = 1e-6  # of an interpolated value, for each row of the RoI mask; float32's is 6e-7 at the most
HOVERING = 1e-4  # from the threshold; each such pixel would have to be looked at by itself
CHUNK = 1 << 18  # interpolated values at a time, so that they stay in the cache


def instances_to_results(instances: Instances, image_id: int) -> list[dict[str, Any]]:
    """Detectron2's ``instances_to_coco_json``, also of instances whose ``pred_masks`` are :class:`ROIMasks`.

    Args:
        instances: of one picture, in its size, on the CPU.
        image_id: for the key of that name.

    Returns:
        Dicts with ``image_id``, ``category_id`` (0 ... K - 1), ``bbox`` (x, y, width, height in pixels), ``score`` and,
        from models with masks, ``segmentation`` (compressed run lengths).
    """
    masks = instances.pred_masks if instances.has("pred_masks") else None
    if not isinstance(masks, ROIMasks):
        return instances_to_coco_json(instances, image_id)
    others = {name: value for name, value in instances.get_fields().items() if name != "pred_masks"}
    results = instances_to_coco_json(Instances(instances.image_size, **others), image_id)
    encodings = encode_roi_masks(masks.tensor, instances.pred_boxes.tensor, *instances.image_size)
    for result, encoding in zip(results, encodings, strict=True):
        result["segmentation"] = encoding
    return results


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
    # Detectron2's own way is for boxes without an area, for masks that hover about the threshold, and for what is rare.
    hovering = ((masks - threshold).abs() <= HOVERING).float().mean(dim=(1, 2))
    ordinary = ((boxes[:, 2:] > boxes[:, :2]).all(dim=1) & (hovering < 0.1)).numpy()
    if masks.dtype not in (torch.float32, torch.float64) or not 0 < threshold <= 1:
        ordinary[:] = False
    encodings = np.empty(len(masks), dtype=object)
    for row in np.flatnonzero(~ordinary):
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
    it. C is the number of columns of all boxes, whose cells are counted through in steps of M + 2.

    Args:
        masks: (n, M, M).
        boxes: (n, 4) with an area.
        height: of the picture.
        width: of the picture.
        threshold: above 0.
    """

    def __init__(self, masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> None:
        self._masks, self._boxes, self._threshold = masks, boxes, threshold
        self._height, self._width, self._side = height, width, masks.shape[-1]
        self._eps = ROUNDING * self._side * max(1.0, float(masks.max() - masks.min().clamp(max=0)))
        left, top, right, bottom = boxes.double().numpy().T
        # The pixels that Detectron2 looks at: the box and one around it, within the picture.
        first_column = np.maximum(np.floor(left) - 1, 0).astype(np.int64)
        num_columns = np.maximum(np.minimum(np.ceil(right) + 1, width).astype(np.int64) - first_column, 0)
        first_row = np.maximum(np.floor(top) - 1, 0).astype(np.int64)
        end_row = np.maximum(np.minimum(np.ceil(bottom) + 1, height).astype(np.int64), first_row)
        # (C,) each: mask and number of a column, and what its rows are in the mask and in the picture.
        self._owner = owner = np.repeat(np.arange(len(left)), num_columns)
        self._column = _ranges(first_column, num_columns)
        self._first_row, self._end_row = first_row[owner], end_row[owner]
        self._cell_height = ((bottom - top) / self._side)[owner]
        self._row_of_start = top[owner] - 0.5 - 0.5 * self._cell_height
        self._place_of_start = owner * (height * width + 1) + self._column * height
        place = (self._column + 0.5 - left[owner]) / (right - left)[owner] * self._side + 0.5
        self._values = self._interpolated(np.clip(place, 0, self._side + 1))

    def _interpolated(self, place: np.ndarray) -> np.ndarray:
        """(C * (M + 2),): the RoI masks' rows at each column less the threshold.

        Args:
            place: (C,) of a column in its RoI mask, in [0, M + 1]; 0 and M + 1 are in the zeros around it.
        """
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
        return values.ravel()

    def encodings(self) -> np.ndarray:
        """Of each mask ``size`` and ``counts`` (bytes)."""
        is_inside = self._values >= 0
        # From one column to the next it goes from zeros to zeros.
        crossed = is_inside[1:] != is_inside[:-1]
        cells = np.flatnonzero(crossed)
        columns = cells // (self._side + 2)
        start, slope, cell_height = self._course(cells, columns)
        turn = start / -slope
        turn += cells - columns * (self._side + 2)
        turn *= cell_height
        turn += self._row_of_start[columns]
        row = np.ceil(turn)
        distance = row - turn
        np.minimum(distance, 1 - distance, out=distance)
        distance *= np.abs(slope)
        unsure = np.flatnonzero(distance <= self._eps * cell_height)
        row = np.clip(row.astype(np.int64), self._first_row[columns], self._end_row[columns])
        toggles = self._place_of_start[columns] + row
        cells, row = cells[unsure], row[unsure]
        is_near = np.abs(self._values) <= self._eps
        if is_near.any():
            touched = np.flatnonzero((is_near[1:] | is_near[:-1]) & ~crossed)
            cells = np.concatenate([cells, touched])
            row = np.concatenate([row, np.full(len(touched), self._height)])
        if len(cells):
            corrections = self._corrections(cells, row, is_inside[cells])
            toggles = np.insert(toggles, np.searchsorted(toggles, corrections), corrections)
        return self._encoded(toggles)

    def _course(self, cells: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of cells, counted through, the value at their start, its change to their end, and their height in pixels."""
        start = self._values.take(cells).astype(np.float64)
        return start, self._values.take(cells + 1) - start, self._cell_height[columns]

    def _corrections(self, cells: np.ndarray, turn: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Toggles, sorted, of pixels near the threshold that PyTorch's interpolation puts on its other side.

        Args:
            cells: (n,) counted through.
            turn: (n,) row from which on pixels of the cell are taken for the opposite of ``inside``.
            inside: (n,) bool.
        """
        columns = cells // (self._side + 2)
        start, slope, cell_height = self._course(cells, columns)
        slope[slope == 0] = np.finfo(np.float64).tiny
        with np.errstate(over="ignore"):
            near = np.clip(np.sort((np.array([[-self._eps], [self._eps]]) - start) / slope, axis=0), 0, 1)
        # Of the rows from the cell's first to the next one's, those in between.
        cell = cells - columns * (self._side + 2)
        bounds = (cell + np.stack([np.zeros(len(cells)), *near, np.ones(len(cells))])) * cell_height
        bounds = bounds + self._row_of_start[columns]
        bounds = np.ceil(bounds + np.array([[0], [-1e-6], [1 + 1e-6], [0]])).astype(np.int64)
        bounds = np.clip(bounds, self._first_row[columns], self._end_row[columns])
        first = np.maximum(bounds[0], bounds[1])
        number = np.maximum(np.minimum(bounds[2], bounds[3]) - first, 0)
        index, row = np.repeat(np.arange(len(cells)), number), _ranges(first, number)
        taken = inside[index] ^ (row >= turn[index])
        columns = columns[index]
        wrong = np.flatnonzero(taken != self._decided(self._owner[columns], self._column[columns], row))
        place = self._place_of_start[columns[wrong]] + row[wrong]
        return np.sort(np.concatenate([place, place + 1]))

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
        number = _ranges(np.zeros_like(of_mask), of_mask)
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
        """See :meth:`encodings`; of sorted toggles."""
        if (toggles[1:] == toggles[:-1]).any():
            starts = np.flatnonzero(np.diff(toggles, prepend=-1))
            toggles = toggles[starts[np.diff(starts, append=len(toggles)) % 2 == 1]]
        size = self._height * self._width
        ends = np.arange(1, len(self._masks) + 1) * (size + 1) - 1
        after = np.searchsorted(toggles, ends)
        is_there = np.append(toggles, -1)[after] == ends  # the last pixel is inside, and the mask's last run ends here
        places = np.insert(toggles, after[~is_there], ends[~is_there])
        counts = np.diff(places, prepend=-1)
        firsts = np.append(0, np.searchsorted(places, ends) + 1)
        counts[firsts[:-1]] -= 1  # from a mask's end to the next one's first pixel is a place
        uncompressed = [
            {"size": [self._height, self._width], "counts": counts[start:end]}
            for start, end in zip(firsts[:-1].tolist(), firsts[1:].tolist(), strict=True)
        ]
        result = np.empty(len(ends), dtype=object)
        result[:] = mask_util.frPyObjects(uncompressed, self._height, self._width)
        return result


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Ranges of whole numbers, one after the other."""
    return np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
