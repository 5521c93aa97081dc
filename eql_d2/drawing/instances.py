"""Drawing detections onto a picture: masks, boxes and labels that stay legible where objects crowd."""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw

from eql_d2.drawing.fonts import load_font

# Told apart by hue and by lightness, so that neighbours differ for the colour-blind too.
PALETTE = np.array(
    [
        (230, 25, 75), (60, 180, 75), (255, 225, 25), (67, 99, 216), (245, 130, 49), (66, 212, 244),
        (240, 50, 230), (191, 239, 69), (250, 190, 212), (0, 128, 128), (170, 110, 240), (255, 250, 200),
    ],
    dtype=np.uint8,
)  # fmt: skip
MASK_OPACITY = 0.4
MOST_HIDDEN = 0.25  # share of a label that may lie over others


class InstanceColors:
    """Gives instances colours of the palette so that overlapping and near ones differ.

    In a video, an instance keeps the colour of the one of its class that was there in the last frame.
    """

    def __init__(self) -> None:
        self._last = (np.zeros((0, 4)), np.zeros(0, dtype=int), np.zeros(0, dtype=int))

    def assign(self, boxes: np.ndarray, classes: np.ndarray, margin: float = 0.0) -> np.ndarray:
        """Choose the colours of a picture's instances.

        Args:
            boxes: (N, 4), left, top, right, bottom in pixels.
            classes: (N,) integers.
            margin: instances at most this many pixels apart are neighbours.

        Returns:
            (N, 3) uint8, RGB.
        """
        near = _overlaps(boxes + np.array([-margin, -margin, margin, margin]), boxes)
        chosen = self._inherited(boxes, classes)
        for index in range(len(boxes)):
            if chosen[index] < 0:
                used = np.bincount(chosen[chosen >= 0], minlength=len(PALETTE))
                neighbors = chosen[near[index] & (chosen >= 0)]
                # The colour least like any neighbour's; then that of the fewest instances; then the palette's order.
                likeness = -_color_distances()[:, neighbors].min(axis=1, initial=np.inf)
                chosen[index] = np.lexsort((used, likeness))[0]
        self._last = (boxes, classes, chosen)
        return PALETTE[chosen]

    def _inherited(self, boxes: np.ndarray, classes: np.ndarray, min_iou: float = 0.3) -> np.ndarray:
        """(N,) index into the palette, or -1 for an instance that is new."""
        last_boxes, last_classes, last_chosen = self._last
        chosen = np.full(len(boxes), -1)
        iou = box_iou(boxes, last_boxes) * (classes[:, None] == last_classes[None, :])
        while iou.size and iou.max() >= min_iou:
            new, old = np.unravel_index(iou.argmax(), iou.shape)
            chosen[new] = last_chosen[old]
            iou[new, :] = iou[:, old] = 0
        return chosen


@lru_cache(maxsize=1)
def _color_distances() -> np.ndarray:
    """How different each two colours of the palette look: distances in CIELAB."""
    lab = cv2.cvtColor(PALETTE[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    return np.linalg.norm(lab[:, None] - lab[None, :], axis=2)


def draw_instances(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    colors: np.ndarray,
    masks: Sequence[np.ndarray] | np.ndarray | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """Draw instances onto a picture, the first on top.

    Where objects crowd so much that labels would hide each other, the first have theirs and the others none.

    Args:
        image: (H, W, 3) uint8, RGB; not changed.
        boxes: (N, 4), left, top, right, bottom in pixels of the image.
        labels: N texts.
        colors: (N, 3) uint8, RGB.
        masks: N of (H, W), bool or 0 and 1, or None.
        scale: size of the result; lines and text are drawn at that size.

    Returns:
        (round(H * scale), round(W * scale), 3) uint8, RGB.
    """
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    canvas = image.copy()
    if scale != 1:
        canvas = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    boxes = boxes * np.array([width / image.shape[1], height / image.shape[0]] * 2)
    line = max(1, round((height * width) ** 0.5 / 600))
    for index in reversed(range(len(boxes))):
        if masks is not None:
            _draw_mask(canvas, masks[index], colors[index], line)
    for index in reversed(range(len(boxes))):
        left, top, right, bottom = boxes[index].round().astype(int).tolist()
        cv2.rectangle(canvas, (left, top), (right, bottom), colors[index].tolist(), line, cv2.LINE_AA)
    return _draw_labels(canvas, boxes, labels, colors)


def scale_for(height: int, width: int, smallest: int = 960) -> float:
    """The scale at which a picture's longer side is at least that many pixels, so that labels have room."""
    return max(1.0, smallest / max(height, width))


def font_size(height: int, width: int) -> int:
    """Size of the labels of a picture, in pixels."""
    return max(11, round((height * width) ** 0.5 / 60))


def _draw_mask(canvas: np.ndarray, mask: np.ndarray, color: np.ndarray, line: int) -> None:
    """Tint a mask's pixels and outline them, in place."""
    mask = mask.astype(np.uint8)
    if mask.shape != canvas.shape[:2]:
        mask = (cv2.resize(mask * 255, canvas.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 127).astype(np.uint8)
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return
    part = canvas[top : top + height, left : left + width]
    inside = mask[top : top + height, left : left + width].astype(bool)
    part[inside] = (1 - MASK_OPACITY) * part[inside] + MASK_OPACITY * color
    outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outlines, -1, color.tolist(), line, cv2.LINE_AA)


def _draw_labels(canvas: np.ndarray, boxes: np.ndarray, labels: Sequence[str], colors: np.ndarray) -> np.ndarray:
    """Write each label where it hides least, unless that is too much."""
    size = font_size(*canvas.shape[:2])
    padding = max(1, size // 6)
    picture = Image.fromarray(canvas)
    drawing = ImageDraw.Draw(picture)
    placed = np.zeros((0, 4))
    for index, (label, color) in enumerate(zip(labels, colors, strict=True)):
        label = " ".join(label.split())  # a name may have line breaks
        font = load_font(size, label)
        height = sum(font.getmetrics()) + padding
        width = round(font.getlength(label)) + 2 * padding
        small = boxes[(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) < 4 * width * height]
        spot, hidden = _place(boxes[index], width, height, canvas.shape, placed, small)
        if hidden > MOST_HIDDEN * width * height:
            continue
        placed = np.vstack([placed, spot])
        left, top, right, bottom = spot
        drawing.rectangle((left, top, right - 1, bottom - 1), fill=tuple(color.tolist()))
        is_light = color @ np.array([0.299, 0.587, 0.114]) > 140
        drawing.text((left + padding, top), label, font=font, fill=(0, 0, 0) if is_light else (255, 255, 255))
    return np.asarray(picture)


def _place(
    box: np.ndarray, width: int, height: int, shape: tuple[int, ...], placed: np.ndarray, small: np.ndarray
) -> tuple[tuple[int, int, int, int], float]:
    """Find the place of a label by its box: above, else inside or below, wherever it hides least.

    Args:
        box: (4,).
        width: of the label.
        height: of the label.
        shape: of the picture.
        placed: (P, 4) labels that have their place.
        small: (S, 4) boxes that a label could cover; hiding them counts half.

    Returns:
        Left, top, right, bottom; and how many pixels of other labels it hides.
    """
    left, top, right, bottom = box.round().astype(int).tolist()
    middle = (top + bottom - height) // 2
    rows = [top - height, top, bottom, bottom - height, middle, top - 2 * height, bottom + height, top + height]
    columns = [left, right - width, (left + right - width) // 2]
    lefts, tops = (part.ravel() for part in np.meshgrid(columns, rows))
    lefts = np.clip(lefts, 0, max(0, shape[1] - width))
    tops = np.clip(tops, 0, max(0, shape[0] - height))
    spots = np.stack([lefts, tops, lefts + width, tops + height], axis=1)
    hidden = shared_areas(spots, placed).sum(axis=1)
    best = (hidden + 0.5 * shared_areas(spots, small).sum(axis=1)).argmin()  # the first of equally good ones
    return tuple(spots[best].tolist()), float(hidden[best])


def _intersections(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, M) widths and heights of the intersections of boxes (N, 4) and (M, 4); negative where they are apart."""
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    return np.minimum(first[:, None, 2:], second[None, :, 2:]) - corner


def _overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.all(_intersections(first, second) >= 0, axis=2)


def shared_areas(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, M) areas of the intersections of boxes (N, 4) and (M, 4): left, top, right, bottom."""
    return np.maximum(_intersections(first, second), 0).prod(axis=2)


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, M) intersections over unions of boxes (N, 4) and (M, 4): left, top, right, bottom."""
    shared = shared_areas(first, second)
    areas = [np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1) for boxes in (first, second)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None, :] - shared, 1e-9)
