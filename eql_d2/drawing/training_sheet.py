"""Pictures of training samples: what the model sees after all augmentations."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import BitMasks, Instances, PolygonMasks

from eql_d2.drawing.contact_sheet import contact_sheet
from eql_d2.drawing.instances import InstanceColors, draw_instances


def samples_sheet(
    samples: Iterable[dict[str, Any]], class_names: Sequence[str], image_format: str, side: int = 400
) -> np.ndarray:
    """Draw mapped samples with boxes, masks and class names onto one sheet.

    Args:
        samples: mapped dicts with ``image`` (C, H, W) and ``instances``.
        class_names: K names.
        image_format: of the images, ``INPUT.FORMAT``.
        side: longer side of a sample on the sheet, in pixels.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    tiles, captions = [], []
    for sample in samples:
        tiles.append(draw_sample(sample, class_names, image_format, side))
        height, width = sample["image"].shape[1:]
        captions.append(f"{Path(sample['file_name']).name} {width}x{height}, {len(sample['instances'])} instances")
    return contact_sheet(tiles, captions, side)


def draw_sample(sample: dict[str, Any], class_names: Sequence[str], image_format: str, side: int) -> np.ndarray:
    """Draw one mapped sample; arguments and result as of :func:`samples_sheet`."""
    image = convert_image_to_rgb(sample["image"].permute(1, 2, 0), image_format)
    image = np.ascontiguousarray(image).astype(np.uint8)
    scale = side / max(image.shape[:2])
    instances = sample["instances"]
    boxes = instances.gt_boxes.tensor.numpy()
    order = np.argsort((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))  # the smallest on top
    boxes, classes = boxes[order], instances.gt_classes.numpy()[order]
    masks = _bit_masks(instances)
    labels = [class_names[class_id] for class_id in classes]
    colors = InstanceColors().assign(boxes, classes, margin=10 / scale)
    drawn = draw_instances(image, boxes, labels, colors, None if masks is None else masks[order], scale)
    return cv2.resize(drawn, (min(side, drawn.shape[1]), min(side, drawn.shape[0])))


def _bit_masks(instances: Instances) -> np.ndarray | None:
    """(N, H, W) bool, or None for instances without masks."""
    if not instances.has("gt_masks"):
        return None
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *instances.image_size)
    return masks.tensor.numpy()
