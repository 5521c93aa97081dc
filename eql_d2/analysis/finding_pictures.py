"""Pictures of what a check of a dataset found: the first cases and the worst, each with its box and mask."""

import html
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as mask_api

from eql_d2.analysis.page import picture_url
from eql_d2.data.annotations.findings import Case, Finding
from eql_d2.data.annotations.rules import RLE
from eql_d2.data.annotations.run_lengths import counts_complaint
from eql_d2.data.checks.doctor import CheckedSet, DatasetCheck
from eql_d2.data.pictures import BROKEN, read_picture
from eql_d2.drawing.instances import PALETTE, draw_instances

SIDE = 240  # pixels of a picture's longer side
_LEAST_VIEW = 48  # pixels of the image around a tiny object
_AROUND = 0.5  # of an object's longer side, to each side of it
_BEYOND = (120, 120, 120)  # colour where there is no image
_OFF = (-9.0, -9.0, -8.0, -8.0)  # box of what has none
_COLOR = PALETTE[:1]

STYLE = """
a.more { color: var(--mark); white-space: nowrap; }
.cases { display: flex; flex-wrap: wrap; gap: 1rem; margin: .4rem 0 1.2rem; }
.cases figure { max-width: 15rem; } .cases img { display: block; max-width: 100%; border-radius: 3px; }
.cases figcaption { font-size: .82rem; overflow-wrap: anywhere; }
"""


def finding_pictures(check: DatasetCheck) -> dict[int, str]:
    """Pictures of findings.

    Args:
        check: what was found.

    Returns:
        Number of a finding among ``check.findings`` → HTML with its pictures; findings that cannot be shown are left
        out, as all are where the images were not named.
    """
    sets = {part.name: part for part in check.sets}
    found = {}
    for number, (where, finding) in enumerate(check.findings):
        part = sets.get(where.split(", ")[-1])  # what is in both sets is shown as the second has it
        figures = [] if part is None else [_figure(part, case) for case in finding.cases]
        if any(figures):
            found[number] = f'<div class="cases">{"".join(filter(None, figures))}</div>'
    return found


def finding_title(where: str, finding: Finding) -> str:
    """What a heading calls a finding, as HTML."""
    return f'<span class="level {finding.level}">{html.escape(finding.kind)}</span> <span class="soft">{where}</span>'


def _figure(part: CheckedSet, case: Case) -> str | None:
    """A picture with its caption; None without a picture."""
    path = case.path if case.image_id is None else (_path_of(part, case.image_id) or case.path)
    if part.image_root is None or path is None:
        return None
    try:
        pixels = read_picture(str(part.image_root / path), "RGB")
    except BROKEN:
        return None
    name = _class_name(part, case.category_id)
    picture = draw_case(pixels, case, name)
    caption = html.escape(_caption(case, name, path))
    return f'<figure><img alt="{caption}" src="{picture_url(picture)}"><figcaption>{caption}</figcaption></figure>'


def _path_of(part: CheckedSet, image_id: int) -> str | None:
    if part.annotations is None:
        return None
    ids = part.annotations.image_ids
    place = int(np.searchsorted(ids, np.uint64(max(image_id, 0))))
    return part.paths[place] if place < len(ids) and int(ids[place]) == image_id else None


def _class_name(part: CheckedSet, category_id: int | None) -> str:
    records = part.annotations.category_records if part.annotations is not None else []
    return next((record["name"] for record in records if record["id"] == category_id), "")


def _caption(case: Case, name: str, path: str) -> str:
    if case.annotation_id is None and case.bbox is None and case.segmentation is None:
        return path if case.image_id is None else f"image {case.image_id}, {path}"
    number = "" if case.annotation_id is None else f" {case.annotation_id}"
    box = "no bbox" if case.bbox is None else f"bbox {', '.join(f'{value:.6g}' for value in case.bbox)}"
    return f"annotation{number}{f' ({name})' if name else ''} of image {case.image_id}, {path}: {box}"


def draw_case(pixels: np.ndarray, case: Case, name: str) -> np.ndarray:
    """The part of an image around an annotation, grey where it goes beyond the image; the whole image without one.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        case: with a box, a mask, both or none of them.
        name: of its class, written beside the box.

    Returns:
        (h, w, 3) uint8, of about :data:`SIDE` pixels in the longer direction.
    """
    height, width = pixels.shape[:2]
    box = None
    if case.bbox is not None and len(case.bbox) == 4 and np.isfinite(case.bbox).all():
        x, y, w, h = case.bbox
        box = (min(x, x + w), min(y, y + h), max(x, x + w), max(y, y + h))
    polygons = [] if isinstance(case.segmentation, RLE) else [p for p in case.segmentation or () if len(p) >= 2]
    inside = _decoded(case.segmentation, height, width)
    view = _view(width, height, _extents(box, polygons, inside))
    # A view that is much larger than the picture is cut out of a small image.
    shrink = min(1.0, 4 * SIDE / max(view[2] - view[0], view[3] - view[1]))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    left, top, right, bottom = (round(side * shrink) for side in view)
    canvas = Image.new("RGB", (max(1, right - left), max(1, bottom - top)), _BEYOND)
    canvas.paste(Image.fromarray(pixels).resize(size), (-left, -top))
    drawn = np.asarray(canvas)
    scale = SIDE / max(canvas.size)
    if box is None and not polygons and inside is None:
        return draw_instances(drawn, np.zeros((0, 4)), [], np.zeros((0, 3), np.uint8), scale=scale)
    mask = Image.new("L", canvas.size)
    if inside is not None:
        mask.paste(Image.fromarray(inside).resize(size), (-left, -top))
    for polygon in polygons:
        polygon = np.clip(polygon, -width, 2 * max(width, height)).tolist()
        points = [(a * shrink - left, b * shrink - top) for a, b in zip(polygon[::2], polygon[1::2], strict=False)]
        ImageDraw.Draw(mask).polygon(points, fill=1) if len(points) > 2 else ImageDraw.Draw(mask).line(points, fill=1)
    on_canvas = _OFF if box is None else tuple(s * shrink - (left, top)[i % 2] for i, s in enumerate(box))
    boxes = np.clip(np.array([on_canvas]), -max(canvas.size), 2 * max(canvas.size))  # OpenCV takes no larger numbers
    return draw_instances(drawn, boxes, [name], _COLOR, [np.asarray(mask)], scale)


def _decoded(segmentation: list[list[float]] | RLE | None, height: int, width: int) -> np.ndarray | None:
    """(H, W) uint8 of run lengths that fit the image; None of others."""
    if not isinstance(segmentation, RLE) or tuple(segmentation.size) != (height, width):
        return None
    if counts_complaint(segmentation.counts, height * width):
        return None
    rle = {"size": list(segmentation.size), "counts": segmentation.counts}
    if isinstance(segmentation.counts, list):
        rle = mask_api.frPyObjects(rle, height, width)
    return mask_api.decode(rle)


def _extents(
    box: tuple[float, float, float, float] | None, polygons: Sequence[Sequence[float]], inside: np.ndarray | None
) -> list[tuple[float, float, float, float]]:
    """Corners of the box and of the mask, as far as there are any."""
    found = [] if box is None else [box]
    for polygon in polygons:
        xs, ys = polygon[::2], polygon[1::2]
        found.append((min(xs), min(ys), max(xs), max(ys)))
    if inside is not None and inside.any():
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        found.append((float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)))
    return found


def _view(width: int, height: int, extents: list[tuple[float, float, float, float]]) -> tuple[float, ...]:
    """The corners of what is shown: the object with some of its surroundings, and the image where it lies outside."""
    whole = (0.0, 0.0, float(width), float(height))
    if not extents:
        return whole
    lows, highs = np.array(extents)[:, :2].min(axis=0), np.array(extents)[:, 2:].max(axis=0)
    if (highs <= 0).any() or (lows >= [width, height]).any():  # nowhere in the image
        lows, highs = np.minimum(lows, 0), np.maximum(highs, [width, height])
    margin = max(_AROUND * (highs - lows).max(), (_LEAST_VIEW - (highs - lows).max()) / 2)
    lows, highs = lows - margin, highs + margin
    # No further beyond the image than its own size, whatever a broken box says; beyond it only with an object there.
    size = np.array([width, height], float)
    lowest = np.clip(np.array(extents)[:, :2].min(axis=0) - 8, -size, 0)
    highest = np.clip(np.array(extents)[:, 2:].max(axis=0) + 8, size, 2 * size)
    lows = np.clip(lows, np.where(lowest < -8, lowest, 0), size - 1)
    highs = np.clip(highs, lows + 1, np.where(highest > size + 8, highest, size))
    return (*lows.tolist(), *highs.tolist())
