"""Contact sheet of a generated set: images with masks, boxes and class names drawn in."""

from __future__ import annotations

import colorsys
import os
from pathlib import Path

import numpy as np
import orjson
from PIL import Image, ImageDraw

from eql_d2.data.emoji_lvis.masks import decode_mask

CELL = 320  # pixels per image on the sheet
GAP = 6


def write_preview(
    folder: str | os.PathLike, path: str | os.PathLike, split: str = "train", columns: int = 4, rows: int = 3
) -> Path:
    """Draw the first images of a split, each one bare and, beside it, with its annotations.

    Args:
        folder: a generated set.
        path: picture file to write (.png or .jpg).
        split: "train" or "val".
        columns: images per row of the sheet.
        rows: rows of the sheet.
    """
    folder, path = Path(folder), Path(path)
    content = orjson.loads((folder / f"{split}.json").read_bytes())
    names = {category["id"]: f"{category['name']} [{category['frequency']}]" for category in content["categories"]}
    images = content["images"][: columns * rows]
    annotations: dict[int, list[dict]] = {image["id"]: [] for image in images}
    for annotation in content["annotations"]:
        if annotation["image_id"] in annotations:
            annotations[annotation["image_id"]].append(annotation)

    sheet = Image.new("RGB", (columns * (2 * CELL + 2 * GAP), rows * (CELL + GAP)), "white")
    for number, image in enumerate(images):
        left = (number % columns) * (2 * CELL + 2 * GAP)
        top = (number // columns) * (CELL + GAP)
        with Image.open(folder / image["file_name"]) as photo:
            plain = photo.convert("RGB").resize((CELL, CELL), Image.Resampling.BICUBIC)
        sheet.paste(plain, (left, top))
        sheet.paste(_annotated(plain, image, annotations[image["id"]], names), (left + CELL + 1, top))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _annotated(plain: Image.Image, image: dict, annotations: list[dict], names: dict[int, str]) -> Image.Image:
    """The enlarged image with tinted masks, boxes and names."""
    scale = CELL / image["width"]
    picture = plain.copy()
    for number, annotation in enumerate(annotations):
        mask = decode_mask(annotation["segmentation"], image["height"], image["width"])
        tint = Image.fromarray((mask * 150).astype(np.uint8)).resize((CELL, CELL), Image.Resampling.NEAREST)
        picture.paste(_colour(number), mask=tint)
    draw = ImageDraw.Draw(picture)
    for number, annotation in enumerate(annotations):
        x, y, width, height = (value * scale for value in annotation["bbox"])
        draw.rectangle((x, y, x + width - 1, y + height - 1), outline=_colour(number))
        label = names[annotation["category_id"]]
        label_box = draw.textbbox((0, 0), label)
        at = (min(x, CELL - label_box[2]), max(y - 11, 0))
        draw.rectangle(draw.textbbox(at, label), fill="black")
        draw.text(at, label, fill="white")
    return picture


def _colour(number: int) -> tuple[int, int, int]:
    """Well separated colours: hues a golden angle apart."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618 % 1, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
