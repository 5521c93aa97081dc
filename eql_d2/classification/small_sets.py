"""Data sets that need no download: scikit-learn's digits, and glyphs of EmojiLVIS."""

import functools

import numpy as np

from eql_d2.classification.image_set import ImageSet
from eql_d2.data.emoji_lvis.backgrounds import draw_background
from eql_d2.data.emoji_lvis.glyphs import render_glyph, select_glyphs
from eql_d2.data.emoji_lvis.render import photograph, vary_glyph
from eql_d2.errors import UserError

DIGITS_TEST_IMAGES = 50  # of each class
GLYPH_CLASSES = 240
GLYPH_IMAGES = {"train": 200, "test": 20}  # of each class
GLYPH_SIZE = 32


def read_digits(split: str) -> ImageSet:
    """Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak, UCI repository, 1998).

    The last 50 images of each class are the test set: other writers' than the first ones.

    Args:
        split: "train" or "test".

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("The digits are scikit-learn's; install it: pip install 'eql_d2[classification]'.") from None
    content = load_digits()
    labels = content.target.astype(np.int64)
    images = np.round(content.images * (255 / 16)).astype(np.uint8)
    of_class = [np.flatnonzero(labels == label) for label in range(10)]
    part = slice(None, -DIGITS_TEST_IMAGES) if split == "train" else slice(-DIGITS_TEST_IMAGES, None)
    chosen = np.sort(np.concatenate([members[part] for members in of_class]))
    return ImageSet(f"digits_{split}", tuple(map(str, range(10))), labels[chosen], images[chosen])


def glyph_labels(split: str) -> np.ndarray:
    """(N,) int64 class of each image of a split of the glyphs: as many images of each, class by class."""
    return np.repeat(np.arange(GLYPH_CLASSES), GLYPH_IMAGES[split])


def draw_glyphs(split: str, indices: np.ndarray) -> ImageSet:
    """Draw images of EmojiLVIS's glyphs, 240 classes in 32 x 32 pixels, with its variations and backgrounds.

    An image depends on its index alone: a long tail of the set is the same whether all are drawn or its own only.

    Args:
        split: "train" or "test".
        indices: of the images to draw, among :func:`glyph_labels`.
    """
    glyphs, sprites = _glyph_classes()
    labels = glyph_labels(split)[indices]
    entropy = int(split == "test")
    images = np.stack(
        [
            _draw(sprites[label], np.random.default_rng([entropy, int(index)]))
            for label, index in zip(labels, indices, strict=True)
        ]
    )
    return ImageSet(f"glyphs_{split}", glyphs, labels, images)


@functools.lru_cache(maxsize=1)
def _glyph_classes() -> tuple[tuple[str, ...], list[np.ndarray]]:
    glyphs = list(select_glyphs(GLYPH_CLASSES, seed=0))
    # Names are sorted, and first letters would decide which classes are rare.
    glyphs = [glyphs[position] for position in np.random.default_rng(0).permutation(GLYPH_CLASSES)]
    return tuple(glyph.name for glyph in glyphs), [render_glyph(glyph.codepoint) for glyph in glyphs]


def _draw(sprite: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A glyph on a background, somewhere near the middle: uint8 (32, 32, 3), RGB."""
    canvas = draw_background(GLYPH_SIZE, rng)
    patch = vary_glyph(sprite, rng.uniform(0.55, 0.95) * GLYPH_SIZE, rng)
    height, width = patch.shape[:2]
    shift = rng.uniform(-0.12, 0.12, size=2) * GLYPH_SIZE
    y, x = ((GLYPH_SIZE - np.array([height, width])) / 2 + shift).astype(int)
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + height, GLYPH_SIZE), min(x + width, GLYPH_SIZE)
    inside = patch[top - y : bottom - y, left - x : right - x]
    region = canvas[top:bottom, left:right]
    region *= 1 - inside[..., 3:]
    region += inside[..., :3]
    return np.ascontiguousarray(photograph(canvas, rng)[..., ::-1])
