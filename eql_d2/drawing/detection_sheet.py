"""Pictures of detections beside the ground truth."""

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson
from detectron2.structures import BoxMode
from detectron2.utils.visualizer import Visualizer

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.lvis_format import load_lvis_format
from eql_d2.data.pictures import BROKEN, read_picture
from eql_d2.errors import UserError


def save_detection_pictures(
    results_file: str | Path,
    annotation_file: str | Path,
    image_root: str | Path,
    output: str | Path,
    *,
    num_images: int = 8,
    score_threshold: float = 0.3,
    side: int = 384,
) -> None:
    """Draw ground truth (left) and detections (right) of some images onto one sheet.

    Images are taken at equal distances over the results, so that a rerun shows the same ones.

    Args:
        results_file: ``lvis_instances_results.json`` of an evaluation.
        annotation_file: LVIS-format ground truth of the same images.
        image_root: folder of the images.
        output: PNG file to write.
        num_images: images on the sheet, two in a row.
        score_threshold: detections below this score are left out, in [0, 1].
        side: length of an image's longer side on the sheet, in pixels.

    Raises:
        UserError: an image is missing or unreadable.
    """
    names = {c["id"]: c["name"] for c in open_annotations(annotation_file).category_records}
    results = sorted(orjson.loads(Path(results_file).read_bytes()), key=lambda result: result["image_id"])
    by_image = {key: list(group) for key, group in itertools.groupby(results, key=lambda r: r["image_id"])}
    images = load_lvis_format(annotation_file, image_root)
    chosen = [images[i] for i in np.linspace(0, len(images) - 1, min(num_images, len(images))).astype(int)]
    class_names = [names[category_id] for category_id in sorted(names)]
    tiles = []
    for image in chosen:
        detections = [r for r in by_image.get(image["image_id"], ()) if r["score"] >= score_threshold]
        tiles += [
            _draw(image, image["annotations"], [class_names[a["category_id"]] for a in image["annotations"]], side),
            _draw(image, detections, [f"{names[d['category_id']]} {d['score']:.2f}" for d in detections], side),
        ]
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(output), _sheet(tiles, ["ground truth", "detections"] * 2, side))


def _draw(image: dict[str, Any], records: list[dict[str, Any]], labels: list[str], side: int) -> np.ndarray:
    """One image in BGR with boxes, masks and labels drawn on it."""
    try:
        pixels = read_picture(image["file_name"], "RGB")
    except BROKEN:
        raise UserError(f"Image {image['file_name']} is missing or unreadable.") from None
    canvas = Visualizer(pixels, scale=side / max(pixels.shape[:2]))
    boxes = [BoxMode.convert(r["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for r in records]
    masks = [r["segmentation"] for r in records] if all("segmentation" in r for r in records) else None
    if records:
        canvas.overlay_instances(boxes=np.array(boxes), masks=masks, labels=labels, alpha=0.35)
    return canvas.get_output().get_image()[:, :, ::-1]


def _sheet(tiles: list[np.ndarray], captions: list[str], side: int, gap: int = 6, header: int = 30) -> np.ndarray:
    """Put tiles of different shapes into the cells of a white sheet, below a caption for each column."""
    cell, columns = side + gap, len(captions)
    sheet = np.full((header + -(-len(tiles) // columns) * cell, columns * cell, 3), 255, dtype=np.uint8)
    for column, caption in enumerate(captions):
        cv2.putText(
            sheet, caption, (column * cell + 4, header - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 1, cv2.LINE_AA
        )
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        tile = tile[:side, :side]
        top, left = header + row * cell, column * cell
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet
