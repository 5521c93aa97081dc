"""A sheet of small pictures, each with the name of its file below."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from PIL.ImageFont import FreeTypeFont

from eql_d2.drawing.fonts import load_font

CAPTION_SIZE = 14


def contact_sheet(tiles: Sequence[np.ndarray], names: Sequence[str], side: int = 400, gap: int = 10) -> np.ndarray:
    """Put pictures into the cells of a white sheet that is about as wide as a screen.

    Args:
        tiles: pictures of at most ``side`` pixels in each direction, (h, w, 3) uint8, RGB.
        names: a name for each; long ones are shortened in the middle.
        side: width and largest height of a cell, in pixels.
        gap: pixels between cells.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    columns = min(len(tiles), 4 if len(tiles) <= 16 else 6)
    rows = [list(zip(tiles, names, strict=True))[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(tile.shape[0] for tile, _ in row) for row in rows]
    font = load_font(CAPTION_SIZE)
    caption = sum(font.getmetrics()) + 4
    size = (columns * (side + gap) + gap, sum(heights) + len(rows) * (caption + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    drawing = ImageDraw.Draw(sheet)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, (tile, name) in enumerate(row):
            left = gap + column * (side + gap)
            sheet.paste(Image.fromarray(tile), (left + (side - tile.shape[1]) // 2, top + height - tile.shape[0]))
            font = load_font(CAPTION_SIZE, name)
            text = _shortened(" ".join(name.split()), font, side)
            indent = round(side - font.getlength(text)) // 2
            drawing.text((left + indent, top + height + 2), text, font=font, fill="black")
        top += height + caption + gap
    return np.asarray(sheet)


def _shortened(name: str, font: FreeTypeFont, width: int) -> str:
    """The name, with an ellipsis for as much of its middle as has no room."""
    text = name
    kept = len(name)
    while kept > 1 and font.getlength(text) > width:
        kept -= 1
        text = f"{name[: kept // 2]}…{name[len(name) - (kept + 1) // 2 :]}"
    return text
