"""Encodings from the pixels of the boxes: those of Detectron2's bitmaps, to the bit."""

import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Boxes, Instances, ROIMasks
from pycocotools import mask as mask_util

from eql_d2.errors import UserError
from eql_d2.evaluation.results import mask_encoding
from eql_d2.evaluation.results.mask_encoding import encode_roi_masks, instances_to_results

PICTURE = (60, 80)


def encode_bitmaps(masks, boxes, height, width, threshold=0.5):
    """Detectron2's and pycocotools' way."""
    bitmaps = paste_masks_in_image(masks, boxes, (height, width), threshold)
    encodings = [mask_util.encode(np.asfortranarray(bitmap.numpy(), dtype=np.uint8)) for bitmap in bitmaps]
    return [{**encoding, "counts": encoding["counts"].decode()} for encoding in encodings]


def random_masks(kind, number, side, generator):
    noise = torch.rand(number, side, side, generator=generator)
    blobs = F.interpolate(torch.randn(number, 1, 4, 4, generator=generator) * 4, size=(side, side), mode="bilinear")
    return {
        "smooth": blobs[:, 0].sigmoid(),
        "noise": noise,
        "binary": (noise > 0.5).float(),
        "quarters": (4 * noise).round() / 4,  # many pixels are on the threshold itself
        "close to the threshold": 0.5 + (noise - 0.5) * 1e-3,
        "on both sides of the threshold, by rounding": 0.5 + (noise - 0.5) * 3e-7,
        "full": torch.ones_like(noise),
        "empty": torch.zeros_like(noise),
    }[kind]


KINDS = (
    "smooth",
    "noise",
    "binary",
    "quarters",
    "close to the threshold",
    "on both sides of the threshold, by rounding",
    "full",
    "empty",
)


def random_boxes(kind, number, height, width, generator):
    size = torch.tensor([width, height])
    one, other = (torch.rand(2, number, 2, generator=generator) * size).unbind()
    low, high = torch.minimum(one, other), torch.maximum(one, other)
    boxes = {
        "anywhere": (low, high),
        "on pixels": (low.floor(), high.ceil()),
        "below a pixel": (low, low + torch.rand(number, 2, generator=generator) * 0.5),
        "nearly nothing": (low, low + 1e-3),
        "the picture": (torch.zeros_like(low), torch.zeros_like(low) + size),
        "cut by the border": (low - size, high + size),
        "columns from top to bottom": (
            low * torch.tensor([1, 0]),
            torch.cat([high[:, :1], 0 * low[:, 1:] + height], 1),
        ),
        "twice the mask": (low.floor(), low.floor() + 56),
    }[kind]
    return torch.cat(boxes, dim=1)


BOXES = (
    "anywhere",
    "on pixels",
    "below a pixel",
    "nearly nothing",
    "the picture",
    "cut by the border",
    "columns from top to bottom",
    "twice the mask",
)


@pytest.mark.parametrize("boxes", BOXES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_detectron2(kind, boxes):
    generator = torch.Generator().manual_seed(0)
    for side, threshold in ((28, 0.5), (28, 0.3), (7, 0.5), (56, 0.7)):
        masks = random_masks(kind, 12, side, generator)
        of_picture = random_boxes(boxes, 12, *PICTURE, generator)
        expected = encode_bitmaps(masks, of_picture, *PICTURE, threshold)
        assert encode_roi_masks(masks, of_picture, *PICTURE, threshold) == expected


@pytest.mark.parametrize("picture", [(1, 1), (1, 40), (40, 1), (3, 500)])
def test_narrow_pictures(picture):
    generator = torch.Generator().manual_seed(0)
    masks = random_masks("noise", 10, 14, generator)
    boxes = random_boxes("anywhere", 10, *picture, generator)
    assert encode_roi_masks(masks, boxes, *picture) == encode_bitmaps(masks, boxes, *picture)


@pytest.mark.parametrize("threshold", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_thresholds_and_types(threshold, dtype):
    generator = torch.Generator().manual_seed(0)
    masks = random_masks("quarters", 20, 28, generator).to(dtype)
    boxes = random_boxes("anywhere", 20, *PICTURE, generator)
    assert encode_roi_masks(masks, boxes, *PICTURE, threshold) == encode_bitmaps(masks, boxes, *PICTURE, threshold)


@pytest.mark.parametrize("chunk", [1, 5000])
def test_results_do_not_depend_on_the_chunks(monkeypatch, chunk):
    generator = torch.Generator().manual_seed(0)
    masks = random_masks("smooth", 30, 28, generator)
    boxes = random_boxes("anywhere", 30, *PICTURE, generator)
    expected = encode_roi_masks(masks, boxes, *PICTURE)
    monkeypatch.setattr(mask_encoding, "CHUNK", chunk)
    assert encode_roi_masks(masks, boxes, *PICTURE) == expected


def test_runs_by_hand():
    """A full mask in a box from top to bottom is one run, whose columns meet; without the border, one a column."""
    masks = torch.ones(3, 28, 28)
    boxes = torch.tensor([[2.0, 0, 5, 4], [2.0, 1, 5, 3], [7.0, 0, 10, 4]])
    counts = [mask_util.decode(encoding) for encoding in encode_roi_masks(masks, boxes, 4, 10)]
    assert [int(bitmap.sum()) for bitmap in counts] == [12, 6, 12]
    uncompressed = [[8, 12, 20], [9, 2, 2, 2, 2, 2, 21], [28, 12]]
    expected = mask_util.frPyObjects([{"size": [4, 10], "counts": runs} for runs in uncompressed], 4, 10)
    assert [e["counts"] for e in encode_roi_masks(masks, boxes, 4, 10)] == [e["counts"].decode() for e in expected]


def test_a_mask_without_pixels():
    (encoding,) = encode_roi_masks(torch.zeros(1, 28, 28), torch.tensor([[2.0, 3, 30, 40]]), *PICTURE)
    assert encoding == encode_bitmaps(torch.zeros(1, 28, 28), torch.zeros(1, 4) + 5, *PICTURE)[0]
    assert not mask_util.decode(encoding).any()
    assert encode_roi_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), *PICTURE) == []


@pytest.mark.parametrize("picture", [(1000, 1000), (20_000, 20_000)])
def test_memory_does_not_grow_with_the_picture(picture):
    """300 small boxes; 120 GB as bitmaps of the larger picture."""
    generator = torch.Generator().manual_seed(0)
    masks = random_masks("smooth", 300, 28, generator)
    boxes = random_boxes("anywhere", 300, 40, 40, generator)
    encode_roi_masks(masks[:1], boxes[:1], *picture)
    tracemalloc.start()
    encode_roi_masks(masks, boxes, *picture)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("what", ["mask", "box"])
def test_values_that_are_not_finite(value, what):
    masks, boxes = torch.rand(2, 28, 28), torch.tensor([[2.0, 3, 30, 40]] * 2)
    (masks if what == "mask" else boxes)[1, 0] = value
    with pytest.raises(UserError, match="A mask that was predicted, or its box, is not finite"):
        encode_roi_masks(masks, boxes, *PICTURE)


@pytest.mark.parametrize("picture", [(0, 10), (10, 0)])
def test_a_picture_without_pixels(picture):
    with pytest.raises(UserError, match="which has none"):
        encode_roi_masks(torch.rand(1, 28, 28), torch.rand(1, 4), *picture)


def instances_of(masks, boxes):
    number = len(boxes)
    instances = Instances(PICTURE, pred_boxes=Boxes(boxes), scores=torch.linspace(0.9, 0.1, number))
    instances.pred_classes = torch.arange(number)
    if masks is not None:
        instances.pred_masks = masks
    return instances


def test_results_are_detectron2s():
    generator = torch.Generator().manual_seed(0)
    masks, boxes = random_masks("smooth", 9, 28, generator), random_boxes("anywhere", 9, *PICTURE, generator)
    bitmaps = instances_of(ROIMasks(masks).to_bitmasks(Boxes(boxes), *PICTURE).tensor, boxes)
    expected = instances_to_coco_json(bitmaps, 7)
    assert len(expected) == 9 and "segmentation" in expected[0]
    assert instances_to_results(instances_of(ROIMasks(masks), boxes), 7) == expected
    assert instances_to_results(bitmaps, 7) == expected
    assert instances_to_results(instances_of(None, boxes), 7) == instances_to_coco_json(instances_of(None, boxes), 7)
    assert instances_to_results(instances_of(ROIMasks(masks[:0]), boxes[:0]), 7) == []
