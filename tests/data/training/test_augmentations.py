"""Augmentations by keys: what happens to the picture happens to boxes and masks."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image, ImageDraw
from pycocotools import mask as rle

from eql_d2.config import get_eql_d2_config
from eql_d2.data.training.augmentations import training_augmentations, with_tight_boxes
from eql_d2.data.training.loader import build_train_loader
from eql_d2.data.training.mapper import LongTailMapper
from eql_d2.data.training.seeding import seeded_random_state
from eql_d2.data.training.visible_boxes import visible_part
from eql_d2.errors import UserError

HEIGHT, WIDTH = 150, 220
PADDING = (20, 30, 40)  # PIXEL_MEAN of these tests: darker than any drawn object

KEYS = {
    "shortest edge of several": ["INPUT.MIN_SIZE_TRAIN", (90, 120, 200)],
    "shortest edge in a range": ["INPUT.MIN_SIZE_TRAIN", (80, 240), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"],
    "longest edge": ["INPUT.MIN_SIZE_TRAIN", (200,), "INPUT.MAX_SIZE_TRAIN", 210],
    "no flip": ["INPUT.RANDOM_FLIP", "none"],
    "vertical flip": ["INPUT.RANDOM_FLIP", "vertical"],
    "crop, relative range": ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "relative_range"],
    "crop, relative": ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "relative", "INPUT.CROP.SIZE", [0.6, 0.7]],
    "crop, absolute": ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [90, 110]],
    "crop, absolute range": [
        *("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute_range", "INPUT.CROP.SIZE", [80, 130]),
    ],
    "small crop": [
        *("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [50, 50]),
        *("INPUT.MIN_SIZE_TRAIN", (50,)),
    ],
    "jitter": ["INPUT.LSJ.ENABLED", True, "INPUT.LSJ.MIN_SCALE", 0.3, "INPUT.LSJ.IMAGE_SIZE", 140],
    "crop and jitter": ["INPUT.CROP.ENABLED", True, "INPUT.LSJ.ENABLED", True, "INPUT.LSJ.IMAGE_SIZE", 120],
}

SHAPES = [
    [[20, 20, 110, 30, 60, 130, 15, 90]],  # convex
    [[130, 15, 205, 15, 205, 60, 190, 60, 190, 32, 145, 32, 145, 60, 130, 60]],  # a U: a crop may part it
    [[100, 75, 200, 140, 200, 75, 100, 140], [20, 120, 60, 120, 60, 142, 20, 142]],  # crosses itself, and a second part
]


def make_cfg(options=()):
    cfg = get_eql_d2_config()
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.PIXEL_MEAN = list(PADDING)
    cfg.INPUT.MIN_SIZE_TRAIN = (HEIGHT,)
    cfg.merge_from_list(list(options))
    return cfg


def make_mapper(cfg):
    mapper = LongTailMapper(cfg, augmentations=training_augmentations(cfg), recompute_boxes=False)
    return with_tight_boxes(cfg, mapper)


def draw(polygons, zoom=8):
    """The share of each pixel that lies in the polygons, times 255."""
    mask = np.zeros((HEIGHT * zoom, WIDTH * zoom), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [(np.reshape(polygon, (-1, 1, 2)) * zoom).astype(np.int32)], 255)
    return cv2.resize(mask, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


@pytest.fixture
def record(tmp_path):
    """An image of which each colour channel is the drawn mask of one instance; two are polygons, one an RLE."""
    channels = [draw(polygons) for polygons in SHAPES]
    file_name = tmp_path / "drawn.png"
    cv2.imwrite(str(file_name), np.stack(channels, axis=2))  # BGR, as Detectron2 reads it

    def annotations(kinds):
        for class_id, (polygons, channel, kind) in enumerate(zip(SHAPES, channels, kinds, strict=True)):
            mask = channel > 127
            yield {
                "bbox": box_of(mask),
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": class_id,
                "segmentation": polygons if kind == "polygon" else rle.encode(np.asfortranarray(mask.view(np.uint8))),
            }

    def make(kinds=("polygon",) * 3):
        sizes = {"height": HEIGHT, "width": WIDTH}
        return {"file_name": str(file_name), **sizes, "annotations": list(annotations(kinds))}

    return make


def masks_of(instances):
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *instances.image_size)
    return masks.tensor.numpy()


def box_of(mask):
    ys, xs = np.nonzero(mask)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=float)


def check_against_picture(sample):
    """Masks and boxes are those of the picture's channels, but for a rim of two pixels."""
    picture, instances = sample["image"].numpy(), sample["instances"]
    assert instances.image_size == picture.shape[1:]
    classes = instances.gt_classes.tolist()
    masks = dict(zip(classes, masks_of(instances), strict=True))
    boxes = dict(zip(classes, instances.gt_boxes.tensor.numpy(), strict=True))
    kernel = np.ones((3, 3), np.uint8)
    for class_id, channel in enumerate(picture):
        drawn = channel > 127
        if class_id not in masks:
            assert cv2.erode(drawn.astype(np.uint8), kernel, borderValue=0).sum() == 0
            continue
        core = cv2.erode(drawn.astype(np.uint8), kernel, iterations=2, borderValue=0).astype(bool)
        hull = cv2.dilate(drawn.astype(np.uint8), kernel, iterations=2).astype(bool)
        assert (core & ~masks[class_id]).sum() <= 3  # the rim of what a crop cuts at an angle may be longer
        assert (masks[class_id] & ~hull).sum() <= 3
        if core.any():
            outer = box_of(cv2.dilate((channel > 10).astype(np.uint8), kernel))  # a part may be under half a pixel wide
            for smaller, larger in ((box_of(core), boxes[class_id]), (boxes[class_id], outer)):
                assert (smaller[:2] >= larger[:2] - 0.01).all()
                assert (smaller[2:] <= larger[2:] + 0.01).all()
    return len(masks)


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask", "bitmask of RLE"])
@pytest.mark.parametrize("name", KEYS)
def test_masks_and_boxes_follow_the_picture(record, name, mask_format):
    mapper = make_mapper(make_cfg([*KEYS[name], "INPUT.MASK_FORMAT", mask_format.split()[0]]))
    kinds = ("rle", "polygon", "rle") if "RLE" in mask_format else ("polygon",) * 3
    kept = []
    for seed in range(15):
        with seeded_random_state(seed):
            kept.append(check_against_picture(mapper(record(kinds))))
    assert max(kept) == 3 or name == "small crop"
    assert min(kept) == 3 or "crop" in name


def test_keys_do_what_they_say(record):
    def shapes(options):
        mapper, found = make_mapper(make_cfg(options)), set()
        for seed in range(30):
            with seeded_random_state(seed):
                found.add(tuple(mapper(record())["image"].shape[1:]))
        return found

    assert shapes(KEYS["shortest edge of several"]) == {(90, 132), (120, 176), (200, 293)}
    edges = {height for height, _ in shapes(KEYS["shortest edge in a range"])}
    assert len(edges) > 15
    assert 80 <= min(edges) < max(edges) <= 240
    assert shapes(KEYS["longest edge"]) == {(143, 210)}
    assert shapes(KEYS["crop, absolute"]) == {(150, 183)}  # 90 x 110, its shortest edge resized to 150
    assert shapes(KEYS["jitter"]) == {(140, 140)}


@pytest.mark.parametrize(
    ("flip", "changed"), [("none", {False}), ("horizontal", {True, False}), ("vertical", {True, False})]
)
def test_flips(record, flip, changed):
    mapper = make_mapper(make_cfg(["INPUT.RANDOM_FLIP", flip]))
    plain = cv2.imread(record()["file_name"])
    axis = {"none": 0, "horizontal": 1, "vertical": 0}[flip]
    found = set()
    for seed in range(12):
        with seeded_random_state(seed):
            picture = mapper(record())["image"].numpy().transpose(1, 2, 0)
        flipped = not np.array_equal(picture, plain)
        assert not flipped or np.array_equal(picture, np.flip(plain, axis))
        found.add(flipped)
    assert found == changed


def test_jitter_draws_scales_of_the_range_and_pads_with_the_mean(tmp_path):
    """A white picture shows its own size; all else is padding, and zero to the network."""
    cfg = make_cfg(["INPUT.LSJ.ENABLED", True, "INPUT.LSJ.IMAGE_SIZE", 100, "INPUT.RANDOM_FLIP", "none"])
    cfg.MODEL.PIXEL_MEAN = [103.53, 116.28, 123.675]
    mapper = make_mapper(cfg)
    Image.new("RGB", (80, 40), "white").save(tmp_path / "white.png")
    record = {"file_name": str(tmp_path / "white.png"), "height": 40, "width": 80, "annotations": []}
    scales = []
    for seed in range(200):
        with seeded_random_state(seed):
            image = mapper(record)["image"]
        assert image.shape == (3, 100, 100)
        white = (image == 255).all(dim=0)
        height, width = int(white.any(dim=1).sum()), int(white.any(dim=0).sum())
        assert int(white.sum()) == height * width  # a rectangle, at the top left
        assert white[0, 0]
        assert abs(height - min(100, width / 2 if width < 100 else height)) <= 1  # the aspect ratio is kept
        assert (image[:, ~white] == torch.tensor([[104], [116], [124]])).all()
        scales.append(height / 50)  # of the square's side, which the longer side of the image fits
    assert min(scales) < 0.25
    assert max(scales) > 1.85
    assert 0.1 - 0.02 <= min(scales) <= max(scales) <= 2
    assert abs(np.mean(scales) - 1.05) < 0.12  # uniform; the mean's own deviation is 0.04


def test_jitter_leaves_something_of_a_narrow_image(tmp_path):
    cfg = make_cfg(["INPUT.LSJ.ENABLED", True, "INPUT.LSJ.IMAGE_SIZE", 32, "INPUT.LSJ.MAX_SCALE", 0.1])
    Image.new("RGB", (200, 4), "white").save(tmp_path / "narrow.png")
    record = {"file_name": str(tmp_path / "narrow.png"), "height": 4, "width": 200, "annotations": []}
    image = make_mapper(cfg)(record)["image"]
    assert int((image == 255).all(dim=0).sum()) == 3


@pytest.mark.parametrize("options", [KEYS["crop, absolute"], KEYS["jitter"]])
def test_crops_of_images_without_masks(record, options):
    """Detectron2's own mapper fails on them: it recomputes boxes of masks that are not there."""
    mapper = make_mapper(make_cfg(options))
    empty = {**record(), "annotations": []}
    assert len(mapper(empty)["instances"]) == 0
    box_only = record()
    for annotation in box_only["annotations"]:
        del annotation["segmentation"]
    counts = []
    for seed in range(8):
        with seeded_random_state(seed):
            instances = mapper(box_only)["instances"]
        size = torch.tensor(instances.image_size).flip(0).repeat(2)
        assert ((instances.gt_boxes.tensor >= 0) & (instances.gt_boxes.tensor <= size)).all()
        counts.append(len(instances))
    assert max(counts) > 0


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_crops_of_images_of_which_some_instances_have_masks(record, mask_format):
    """An instance without a mask keeps the part of its box that is in the image, to fractions of a pixel."""
    cfg = make_cfg(["INPUT.LSJ.ENABLED", True, "INPUT.LSJ.IMAGE_SIZE", 101, "INPUT.MASK_FORMAT", mask_format])
    with_masks, mixed, box_only = (record() for _ in range(3))
    del mixed["annotations"][1]["segmentation"]
    for annotation in box_only["annotations"]:
        del annotation["segmentation"]
    seen = 0
    for seed in range(10):
        boxes = []
        for one in (with_masks, mixed, box_only):
            with seeded_random_state(seed):
                instances = make_mapper(cfg)(one)["instances"]
            boxes.append(dict(zip(instances.gt_classes.tolist(), instances.gt_boxes.tensor.tolist(), strict=True)))
        seen += 1 in boxes[1]
        assert all(boxes[1].get(c) == boxes[0].get(c) for c in (0, 2))
        assert boxes[1].get(1) == boxes[2].get(1)
    assert seen > 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["INPUT.LSJ.MIN_SCALE", 0.0], "INPUT.LSJ has MIN_SCALE 0.0 and MAX_SCALE 2.0; set them to 0 <"),
        (["INPUT.LSJ.MIN_SCALE", 3.0], "INPUT.LSJ has MIN_SCALE 3.0"),
        (["INPUT.LSJ.IMAGE_SIZE", 0], "INPUT.LSJ.IMAGE_SIZE is 0"),
    ],
)
def test_values_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        training_augmentations(make_cfg(["INPUT.LSJ.ENABLED", True, *options]))


def test_visible_parts_of_random_outlines():
    """Of polygons that cross themselves and reach far out; compared with a drawing at ten times the resolution."""
    rng, zoom, height, width, seen = np.random.default_rng(0), 10, 30, 40, 0
    for _ in range(300):
        polygon = rng.uniform(-50, 90, size=(rng.integers(3, 9), 2)) - rng.uniform(-20, 20, size=2)
        canvas = Image.new("1", (200 * zoom, 200 * zoom))
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in (polygon + 80) * zoom], fill=1)
        window = np.asarray(canvas)[80 * zoom : (80 + height) * zoom, 80 * zoom : (80 + width) * zoom]
        part = visible_part(polygon, height, width)
        if window.sum() < 100:  # a square pixel; less says little about the drawing's rim
            continue
        seen += 1
        box = np.concatenate([part.min(axis=0), part.max(axis=0)])
        assert np.abs(box - box_of(window) / zoom).max() < 0.35
    assert seen > 150


def test_nothing_is_visible_of_what_lies_around_the_image():
    outside = np.array([[-5, 20], [-5, 45], [25, 45], [25, 35], [-2, 35], [-2, 20]], dtype=float)  # around a corner
    assert len(visible_part(outside, 30, 40)) == 0
    below = np.array([[5, 30], [20, 30], [20, 50], [5, 50]], dtype=float)  # its edge lies on the image's
    assert len(visible_part(below, 30, 40)) == 0
    around = np.array([[-9, -9], [60, -9], [60, 60], [-9, 60]], dtype=float)
    assert set(map(tuple, visible_part(around, 30, 40))) == {(0, 0), (40, 0), (0, 30), (40, 30)}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_reads_the_keys(tiny_cfg, workers):
    tiny_cfg.INPUT.LSJ.ENABLED, tiny_cfg.INPUT.LSJ.IMAGE_SIZE = True, 96
    tiny_cfg.DATALOADER.NUM_WORKERS = workers
    batch = next(iter(build_train_loader(tiny_cfg, seed=0)))
    assert [tuple(sample["image"].shape) for sample in batch] == [(3, 96, 96)] * 2
