"""Pictures of detections beside the ground truth."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson
from detectron2.structures import BoxMode
from detectron2.utils.visualizer import GenericMask

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.lvis_format import load_lvis_format
from eql_d2.data.pictures import BROKEN, read_picture
from eql_d2.drawing.contact_sheet import contact_sheet
from eql_d2.drawing.instances import InstanceColors, draw_instances
from eql_d2.errors import UserError


def save_detection_pictures(
    results_files: Mapping[str, str | Path],
    annotation_file: str | Path,
    image_root: str | Path,
    output: str | Path,
    *,
    num_images: int = 8,
    score_threshold: float = 0.3,
    side: int = 360,
) -> None:
    """Draw ground truth and the detections of some detectors, side by side, onto one sheet.

    Images are taken at equal distances over the set, so that a rerun shows the same ones.

    Args:
        results_files: ``lvis_instances_results.json`` of each detector's evaluation, by its name.
        annotation_file: LVIS-format ground truth of the same images.
        image_root: folder of the images.
        output: PNG or JPEG file to write.
        num_images: images on the sheet.
        score_threshold: detections below this score are left out, in [0, 1].
        side: length of an image's longer side on the sheet, in pixels.

    Raises:
        UserError: an image is missing or unreadable.
    """
    names = {c["id"]: c["name"] for c in open_annotations(annotation_file).category_records}
    by_name = {name: _by_image(path) for name, path in results_files.items()}
    images = load_lvis_format(annotation_file, image_root)
    chosen = [images[i] for i in np.linspace(0, len(images) - 1, min(num_images, len(images))).astype(int)]
    class_ids = sorted(names)
    tiles, captions = [], []
    for image in chosen:
        truth = [{**a, "category_id": class_ids[a["category_id"]]} for a in image["annotations"]]
        tiles.append(_draw(image, truth, names, side))
        captions.append("ground truth")
        for name, by_image in by_name.items():
            detections = [r for r in by_image.get(image["image_id"], ()) if r["score"] >= score_threshold]
            tiles.append(_draw(image, sorted(detections, key=lambda r: -r["score"]), names, side))
            captions.append(name)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(output), contact_sheet(tiles, captions, side)[:, :, ::-1])


def _by_image(path: str | Path) -> dict[int, list[dict[str, Any]]]:
    results = sorted(orjson.loads(Path(path).read_bytes()), key=lambda result: result["image_id"])
    return {key: list(group) for key, group in itertools.groupby(results, key=lambda r: r["image_id"])}


def _draw(image: dict[str, Any], records: list[dict[str, Any]], names: Mapping[int, str], side: int) -> np.ndarray:
    """One image in RGB with boxes, masks and labels drawn on it."""
    try:
        pixels = read_picture(image["file_name"], "RGB")
    except BROKEN:
        raise UserError(f"Image {image['file_name']} is missing or unreadable.") from None
    height, width = pixels.shape[:2]
    boxes = np.array(
        [BoxMode.convert(r["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for r in records], dtype=float
    ).reshape(-1, 4)
    labels = [names[r["category_id"]] + (f" {r['score']:.2f}" if "score" in r else "") for r in records]
    masks = None
    if records and all("segmentation" in r for r in records):
        masks = [GenericMask(r["segmentation"], height, width).mask for r in records]
    colors = InstanceColors().assign(boxes, np.array([r["category_id"] for r in records], dtype=int))
    return draw_instances(pixels, boxes, labels, colors, masks, scale=side / max(height, width))
