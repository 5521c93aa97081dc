"""Fonts for names in any script, as far as this machine has them."""

import logging
from functools import lru_cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

logger = logging.getLogger(__name__)

DEFAULT = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


@lru_cache(maxsize=64)
def load_font(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has Latin, Greek and Cyrillic letters; another for other scripts.

    Args:
        size: in pixels.
        text: what is to be written. Characters that DejaVu Sans lacks are looked for in the fonts of the system; if no
            font has them all, a warning says so once.
    """
    lacking = frozenset(character for character in text if not character.isspace()) - _characters(DEFAULT)
    return ImageFont.truetype(_font_with(lacking) if lacking else DEFAULT, size)


@lru_cache(maxsize=256)
def _font_with(lacking: frozenset[str]) -> str:
    for path in sorted(font_manager.findSystemFonts()):
        if lacking <= _characters(path):
            return path
    _warn_once("".join(sorted(lacking))[:10])
    return DEFAULT


@lru_cache(maxsize=1)
def _warn_once(example: str) -> None:
    logger.warning(
        "No font of this machine has the characters %s of a name, which is drawn with boxes; install one, e.g. Noto "
        "(Debian: apt-get install fonts-noto-cjk).",
        example,
    )


@lru_cache(maxsize=256)
def _characters(path: str) -> frozenset[str]:
    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except Exception:  # a font file of the system may be broken in any way
        return frozenset()
