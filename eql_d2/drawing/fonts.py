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
_told: list[str] = []


@lru_cache(maxsize=64)
def load_font(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has Latin, Greek and Cyrillic letters; another for other scripts.

    Args:
        size: in pixels.
        text: what is to be written. If DejaVu Sans lacks some of it, it is looked for in the fonts of the system; if no
            font has what is lacking, a warning says so once.
    """
    characters = frozenset(character for character in text if not character.isspace())
    return ImageFont.truetype(DEFAULT if characters <= _characters(DEFAULT) else _font_with(characters), size)


@lru_cache(maxsize=256)
def _font_with(characters: frozenset[str]) -> str:
    """The first font with all of them, or at least with those that DejaVu Sans lacks."""
    lacking = characters - _characters(DEFAULT)
    found = [path for path in sorted(font_manager.findSystemFonts()) if lacking <= _characters(path)]
    if not found:
        _warn_once("".join(sorted(lacking))[:10])
    return next((path for path in found if characters <= _characters(path)), next(iter(found), DEFAULT))


def _warn_once(example: str) -> None:
    if not _told:
        _told.append(example)
        logger.warning(
            "No font of this machine has the characters %s of a name, which is drawn with boxes; install one, e.g. "
            "Noto (Debian: apt-get install fonts-noto-cjk).",
            example,
        )


@lru_cache(maxsize=4096)
def _characters(path: str) -> frozenset[str]:
    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except Exception:  # a font file of the system may be broken in any way
        return frozenset()
