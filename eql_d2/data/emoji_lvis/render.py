"""Drawing of one planned image: background, objects that occlude each other, light and noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import cv2
import numpy as np

from eql_d2.data.emoji_lvis.backgrounds import draw_background, random_colour
from eql_d2.data.emoji_lvis.plan import ImagePlan
from eql_d2.data.emoji_lvis.spec import EmojiLVISSpec

MIN_VISIBLE_SHARE = 0.5  # of an object's own area: what other objects and the image border must leave
MIN_VISIBLE_PIXELS = 24
MEAN_DISTRACTORS = 1.5
PLACES_PER_OBJECT = 40
LAYOUTS_PER_IMAGE = 16
SHRINK_PER_LAYOUT = 0.9


@dataclasses.dataclass(frozen=True)
class Placed:
    """An object on the canvas: number of its class (None: distractor), own pixels, pixels it must keep."""

    category: int | None
    annotated: bool
    min_visible: float


def render_image(
    plan: ImagePlan, sprites: Mapping[int, np.ndarray], spec: EmojiLVISSpec, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Draw an image.

    Args:
        plan: what to draw.
        sprites: class index to glyph, as `render_glyph` gives it.
        spec: the set the image belongs to.
        rng: the image's own generator.

    Returns:
        Image, uint8 (size, size, 3) in OpenCV's channel order, and for each annotated object its class index
        and the bool bitmap of what stays visible.

    Raises:
        RuntimeError: the objects do not fit, however small.
    """
    background = draw_background(spec.image_size, rng)
    for attempt in range(LAYOUTS_PER_IMAGE):
        layout = _lay_out(plan, sprites, spec, background.copy(), SHRINK_PER_LAYOUT**attempt, rng)
        if layout is not None:
            canvas, labels, placed = layout
            bitmaps = [
                (obj.category, labels == i + 1)
                for i, obj in enumerate(placed)
                if obj.category is not None and obj.annotated
            ]
            return photograph(canvas, rng), bitmaps
    raise RuntimeError(
        f"{len(plan.objects)} objects do not fit into {spec.image_size} px; "
        "use a larger image_size, smaller object_size or fewer max_objects_per_image."
    )


def _lay_out(
    plan: ImagePlan,
    sprites: Mapping[int, np.ndarray],
    spec: EmojiLVISSpec,
    canvas: np.ndarray,
    shrink: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, list[Placed]] | None:
    """Paint all objects onto the canvas in random order; None if one of them finds no place.

    Returns:
        Canvas, label map (0: background, i + 1: object i is on top) and the objects.
    """
    labels = np.zeros(canvas.shape[:2], np.int32)
    placed: list[Placed] = []
    objects = [*plan.objects, *[None] * rng.poisson(MEAN_DISTRACTORS)]
    for index in rng.permutation(len(objects)):
        obj = objects[index]
        if obj is None:
            patch, new = _distractor(spec, shrink, rng), Placed(None, False, 0)
        else:
            smallest, largest = spec.object_size
            length = np.exp(rng.uniform(np.log(smallest), np.log(largest))) * spec.image_size * shrink
            patch = vary_glyph(sprites[obj.category], length, rng)
            own_area = int(np.count_nonzero(patch[..., 3] > 0.5))
            keep = min(max(MIN_VISIBLE_SHARE * own_area, MIN_VISIBLE_PIXELS), own_area)
            new = Placed(obj.category, obj.annotated, keep)
        if not _place(patch, new, canvas, labels, placed, rng) and obj is not None:
            return None
    return canvas, labels, placed


def _place(
    patch: np.ndarray,
    new: Placed,
    canvas: np.ndarray,
    labels: np.ndarray,
    placed: list[Placed],
    rng: np.random.Generator,
) -> bool:
    """Paint a patch on top of everything at a random place that leaves all objects visible enough."""
    side = len(canvas)
    visible = np.bincount(labels.ravel(), minlength=len(placed) + 1)
    to_keep = np.array([0, *(obj.min_visible for obj in placed)])
    height, width = patch.shape[:2]
    for _ in range(PLACES_PER_OBJECT):
        y, x = (rng.uniform(0.04, 0.96, size=2) * side - (height / 2, width / 2)).astype(int)
        top, left, bottom, right = max(y, 0), max(x, 0), min(y + height, side), min(x + width, side)
        inside = patch[top - y : bottom - y, left - x : right - x]
        mask = inside[..., 3] > 0.5
        below = labels[top:bottom, left:right]
        if np.count_nonzero(mask) < new.min_visible:
            continue
        if np.any(visible - np.bincount(below[mask], minlength=len(visible)) < to_keep):
            continue
        placed.append(new)
        below[mask] = len(placed)
        region = canvas[top:bottom, left:right]
        region *= 1 - inside[..., 3:]
        region += inside[..., :3]
        return True
    return False


def vary_glyph(sprite: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    """One instance of a class: the glyph with its own pose, colours and sharpness.

    Args:
        sprite: the glyph, as `render_glyph` gives it.
        length: about its longer side in pixels.
        rng: of the image.

    Returns:
        Float32 array (height, width, 4), colours multiplied by alpha.
    """
    pose = _random_pose(rng)
    patch = _warp(sprite, pose, length)
    # A thin glyph (a line, an arrow) drawn small may have too few pixels to be an object: draw it larger.
    while np.count_nonzero(patch[..., 3] > 0.5) < 1.5 * MIN_VISIBLE_PIXELS:
        length *= 1.2
        patch = _warp(sprite, pose, length)
    patch = _jitter_colour(patch, rng)
    if rng.random() < 0.4:
        patch = cv2.GaussianBlur(patch, (0, 0), rng.uniform(0.3, 0.02 * length + 0.4))
    return patch


def _random_pose(rng: np.random.Generator) -> np.ndarray:
    """2 x 2 matrix: rotation by up to 30 degrees, mirroring, stretch and shear."""
    angle = np.deg2rad(rng.uniform(-30, 30))
    stretch = np.exp(rng.uniform(-0.2, 0.2))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shape = np.array([[stretch, rng.uniform(-0.2, 0.2)], [0, 1 / stretch]])
    return rotation @ shape @ np.diag([rng.choice([-1, 1]), 1])


def _warp(sprite: np.ndarray, pose: np.ndarray, length: float) -> np.ndarray:
    """Draw a sprite in a pose so that its longer side is about `length` pixels."""
    height, width = sprite.shape[:2]
    scale = length / max(height, width)
    # Averaging first, posing second: a warp alone samples too few pixels of the large sprite and flickers.
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    shrunk = cv2.resize(sprite, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    corners = pose @ (np.array([[-1, 1, 1, -1], [-1, -1, 1, 1]]) * np.array([[size[0]], [size[1]]]) / 2)
    out_width, out_height = (np.ceil(2 * np.abs(corners).max(axis=1)).astype(int) + 2).tolist()
    centre_in, centre_out = (np.array(size) - 1) / 2, (np.array([out_width, out_height]) - 1) / 2
    matrix = np.column_stack([pose, centre_out - pose @ centre_in])
    return cv2.warpAffine(shrunk, matrix, (out_width, out_height), flags=cv2.INTER_LINEAR)


def _jitter_colour(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn the hue by up to 15 degrees and vary saturation, contrast and brightness.

    All are linear in colour, so they work on colours multiplied by alpha.
    """
    axis = np.full(3, 1 / np.sqrt(3))
    hue, _ = cv2.Rodrigues(axis * np.deg2rad(rng.uniform(-15, 15)))
    grey = np.full((3, 3), 1 / 3)
    saturation = rng.uniform(0.6, 1.2)
    matrix = rng.uniform(0.7, 1.1) * (saturation * np.eye(3) + (1 - saturation) * grey) @ hue
    lift = np.full((3, 1), rng.uniform(-0.06, 0.15))
    alpha = patch[..., 3:]
    colours = cv2.transform(patch, np.hstack([matrix, lift]))
    return np.concatenate([np.clip(colours, 0, alpha), alpha], axis=2)


def _distractor(spec: EmojiLVISSpec, shrink: float, rng: np.random.Generator) -> np.ndarray:
    """A plain ellipse, rectangle, triangle or bar: something that is no object of any class."""
    length = int(rng.uniform(*spec.object_size) * spec.image_size * shrink) + 4
    alpha = np.zeros((length, length), np.float32)
    kind = rng.integers(4)
    if kind == 0:
        axes = (length // 2 - 1, int(length * rng.uniform(0.15, 0.48)))
        cv2.ellipse(alpha, (length // 2, length // 2), axes, rng.uniform(0, 180), 0, 360, 1.0, -1, cv2.LINE_AA)
    else:
        if kind == 1:
            corners = cv2.boxPoints(((length / 2, length / 2), (length * 0.65, length * 0.5), rng.uniform(0, 90)))
        elif kind == 2:
            corners = rng.uniform(0, length, size=(3, 2))
        else:
            corners = cv2.boxPoints(((length / 2, length / 2), (length * 0.9, length * 0.12), rng.uniform(0, 180)))
        cv2.fillPoly(alpha, [corners.astype(np.int32)], 1.0, cv2.LINE_AA)
    alpha *= np.float32(rng.uniform(0.75, 1.0))
    return np.concatenate([alpha[..., None] * random_colour(rng), alpha[..., None]], axis=2)


def photograph(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a mediocre camera makes of the scene: uneven light, a colour cast, slight blur and noise."""
    side = len(canvas)
    light = cv2.resize(
        rng.uniform(0.75, 1.15, size=(3, 3)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC
    )
    cast = rng.uniform(0.92, 1.08, size=3).astype(np.float32)
    photo: np.ndarray = canvas * light[..., None] * cast
    if rng.random() < 0.3:
        photo = cv2.GaussianBlur(photo, (0, 0), rng.uniform(0.3, 0.9))
    noise = np.float32(rng.uniform(0, 0.035))
    photo = photo + noise * rng.standard_normal(photo.shape, dtype=np.float32)
    return (np.clip(photo, 0, 1) * 255 + 0.5).astype(np.uint8)
