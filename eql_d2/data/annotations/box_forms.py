"""Boxes that are no ``x, y, width, height`` in pixels, told by all of a file's boxes together."""

import numpy as np

from eql_d2.data.annotations.findings import Finding

_SHARE = 0.95  # of the annotations that a form has to fit
_STICKING_OUT = 0.2  # share of boxes that leave their image, from which on another form is likely
_ENOUGH = 20  # boxes, to tell percentages from a set of objects in one corner
_OTHER_SIZE = 4  # times the area of the mask's own box, or a fourth of it
BOX_FORMS = (
    "boxes from 0 to 1",
    "boxes from 0 to 100",
    "boxes that look like corners",
    "boxes that look like centres",
    "boxes with y first",
)
_WAY_OUT = "write x, y, width and height in pixels"


def box_form(boxes: np.ndarray, areas: np.ndarray, sizes: np.ndarray, chosen: np.ndarray) -> Finding | None:
    """What the boxes of a file look like, if not like boxes in pixels.

    Args:
        boxes: (A, 4), NaN where there is none.
        areas: (A,), NaN where there is none.
        sizes: (A, 2) width and height of each annotation's image in pixels.
        chosen: (A,) bool, annotations that count.

    Returns:
        The finding with its evidence, or None. Shares of the image are a defect: nothing can be learned from them.
    """
    chosen = chosen & np.isfinite(boxes).all(axis=1)
    boxes, areas, sizes = boxes[chosen], areas[chosen], sizes[chosen]
    if not len(boxes):
        return None
    if (boxes <= 1 + 1e-6).all() and (boxes != np.round(boxes)).any() and (sizes > 4).all():
        sentence = (
            f"no bbox of the {len(boxes)} is larger than one pixel: they look like shares of the image, from 0 to 1; "
            f"{_WAY_OUT}"
        )
        return Finding("defect", "boxes from 0 to 1", sentence)
    reach = boxes[:, :2] + boxes[:, 2:]
    if len(boxes) >= _ENOUGH and (reach <= 101).all() and reach.max() > 50 and (sizes >= 200).all():
        sentence = (
            f"no bbox of the {len(boxes)} reaches beyond 100, in images of {int(sizes.min())} pixels and more: they "
            f"look like percentages of the image; {_WAY_OUT}"
        )
        return Finding("remark", "boxes from 0 to 100", sentence)
    return _corners(boxes, areas, sizes, reach) or _centres(boxes, sizes, reach)


def _corners(boxes: np.ndarray, areas: np.ndarray, sizes: np.ndarray, reach: np.ndarray) -> Finding | None:
    extent = boxes[:, 2:] - boxes[:, :2]
    fits = (extent > 0).all(axis=1) & (boxes[:, 2:] <= sizes + 1).all(axis=1)
    sticks_out = (reach > sizes + 2).any(axis=1)
    of_corners, of_sizes = (
        np.isclose(areas, sides.prod(axis=1), rtol=0.02, atol=1) for sides in (extent, boxes[:, 2:])
    )
    by_area = (of_corners & ~of_sizes).mean()
    if fits.mean() < _SHARE or (sticks_out.mean() < _STICKING_OUT and by_area < _SHARE):
        return None
    sentence = (
        f"bbox looks like x0, y0, x1, y1 in {fits.mean():.0%} of the annotations, and {sticks_out.mean():.0%} leave "
        f"their image as x, y, width, height; {_WAY_OUT}"
    )
    return Finding("remark", "boxes that look like corners", sentence)


def _centres(boxes: np.ndarray, sizes: np.ndarray, reach: np.ndarray) -> Finding | None:
    half = boxes[:, 2:] / 2
    fits = ((boxes[:, :2] - half >= -1) & (boxes[:, :2] + half <= sizes + 1)).all(axis=1)
    sticks_out = (reach > sizes + 2).any(axis=1)
    if fits.mean() < _SHARE or sticks_out.mean() < _STICKING_OUT:
        return None
    sentence = (
        f"bbox looks like the centre x, y with width and height in {fits.mean():.0%} of the annotations, and "
        f"{sticks_out.mean():.0%} leave their image as x, y, width, height; {_WAY_OUT}"
    )
    return Finding("remark", "boxes that look like centres", sentence)


def form_by_masks(boxes: np.ndarray, extents: np.ndarray) -> Finding | None:
    """What the boxes of a file look like beside its masks, if they are not the boxes around these.

    Args:
        boxes: (A, 4).
        extents: (A, 4) x0, y0, x1, y1 of the masks, NaN where there is none.
    """
    chosen = np.isfinite(extents).all(axis=1) & (extents[:, 2:] > extents[:, :2]).all(axis=1)
    boxes, extents = boxes[chosen], extents[chosen]
    if not len(boxes):
        return None
    sides = extents[:, 2:] - extents[:, :2]
    if (extents <= 1 + 1e-6).all() and (boxes[:, 2:] > 4).any():
        sentence = (
            f"no mask of the {len(boxes)} is larger than one pixel: they look like shares of the image, from 0 to 1; "
            "write their points in pixels"
        )
        return Finding("remark", "masks from 0 to 1", sentence)
    tolerance = 2 + 0.05 * sides.max(axis=1)
    right = np.concatenate([extents[:, :2], sides], axis=1)
    as_sizes = np.abs(boxes - right).max(axis=1) < tolerance
    others = (
        ("boxes that look like corners", "x0, y0, x1, y1", extents),
        ("boxes that look like centres", "the centre x, y with width and height", right + _half(sides)),
        ("boxes with y first", "y, x, height, width", right[:, [1, 0, 3, 2]]),
        ("boxes with y first", "y0, x0, y1, x1", extents[:, [1, 0, 3, 2]]),
    )
    for kind, form, expected in others:
        share = ((np.abs(boxes - expected).max(axis=1) < tolerance) & ~as_sizes).mean()
        if share > 0.5:
            sentence = f"bbox looks like {form} in {share:.0%} of the annotations, by their masks; {_WAY_OUT}"
            if form.startswith("y"):
                sentence += ", or the masks' points with x first"
            return Finding("remark", kind, sentence)
    ratio = np.maximum(boxes[:, 2:].prod(axis=1), 1e-9) / sides.prod(axis=1)
    large, small = (ratio > _OTHER_SIZE).mean(), (ratio < 1 / _OTHER_SIZE).mean()
    if max(large, small) < 0.25:
        return None
    word, share = ("larger", large) if large > small else ("smaller", small)
    sentence = (
        f"bbox is {_OTHER_SIZE} times {word} than the box around its mask, or more, in {share:.0%} of the annotations; "
        "were the images resized after one of them was made?"
    )
    return Finding("remark", "boxes of other sizes than masks", sentence)


def _half(sides: np.ndarray) -> np.ndarray:
    """What a centre adds to (A, 4) boxes of (A, 2) sides."""
    return np.concatenate([sides / 2, np.zeros_like(sides)], axis=1)
