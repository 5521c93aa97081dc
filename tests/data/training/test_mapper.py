"""The mapper: Detectron2's where nothing is special; image-level labels, ignore regions and box-only objects."""

import pickle

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from fvcore.transforms.transform import CropTransform
from PIL import Image

from eql_d2.data.training.image_targets import ImageTargets, with_image_labels
from eql_d2.data.training.mapper import LongTailMapper
from eql_d2.data.training.seeding import seeded_random_state
from eql_d2.errors import UserError

SIZE = (40, 60)  # height, width


@pytest.fixture
def image_file(tmp_path):
    path = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


class Crop(CropTransform):
    """Moves polygons without clipping them, for which fvcore needs shapely."""

    def apply_polygons(self, polygons):
        return [self.apply_coords(polygon) for polygon in polygons]


class RandomCrop(T.RandomCrop):
    def get_transform(self, image):
        drawn = super().get_transform(image)
        return Crop(drawn.x0, drawn.y0, drawn.w, drawn.h)


def thing(box, category=1, mask=True, **more):
    """An annotation with the box x0, y0, x1, y1; its mask is the lower left triangle."""
    x0, y0, x1, y1 = box
    instance = {"bbox": [x0, y0, x1 - x0, y1 - y0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": category, **more}
    return {**instance, "segmentation": [[x0, y0, x1, y1, x0, y1]]} if mask else instance


def record(image_file, *annotations, **more):
    return {
        "file_name": str(image_file),
        "height": SIZE[0],
        "width": SIZE[1],
        "image_id": 7,
        "annotations": list(annotations),
        **more,
    }


def mapper(cls=LongTailMapper, masks="bitmask", labels=False, augmentations=()):
    options = {"image_level_labels": labels, "num_classes": 6} if cls is LongTailMapper else {}
    crops = any(isinstance(augmentation, RandomCrop | Crop) for augmentation in augmentations)
    return cls(
        True,
        augmentations=list(augmentations),
        image_format="BGR",
        use_instance_mask=bool(masks),
        instance_mask_format=masks or "polygon",
        recompute_boxes=masks == "bitmask" and crops,  # polygons are not clipped, so their boxes are not either
        **options,
    )


def masks_of(instances):
    if isinstance(instances.gt_masks, BitMasks):
        return instances.gt_masks.tensor
    return [[polygon.tolist() for polygon in polygons] for polygons in instances.gt_masks.polygons]


@pytest.mark.parametrize("masks", ["bitmask", "polygon", None])
def test_without_anything_special_it_is_that_of_detectron2(image_file, masks):
    item = record(image_file, thing((5, 5, 20, 30)), thing((50, 2, 58, 30), 4), thing((30, 8, 44, 30), 2))
    augmentations = [RandomCrop("absolute", (30, 40)), T.RandomFlip()]
    fates = set()
    for seed in range(12):
        with seeded_random_state(seed):
            ours = mapper(masks=masks, augmentations=augmentations)(item)
        with seeded_random_state(seed):
            theirs = mapper(DatasetMapper, masks, augmentations=augmentations)(item)
        assert set(ours) == set(theirs)
        assert torch.equal(ours["image"], theirs["image"])
        a, b = ours["instances"], theirs["instances"]
        assert type(a) is type(b)
        assert set(a.get_fields()) == set(b.get_fields())
        assert torch.equal(a.gt_classes, b.gt_classes)
        assert torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor)
        if masks == "bitmask":
            assert torch.equal(masks_of(a), masks_of(b))
        elif masks:
            assert masks_of(a) == masks_of(b)
        fates.add(tuple(a.gt_classes.tolist()))
    assert len(fates) > 1  # otherwise no crop left anything out
    assert set(item["annotations"][0]) == {"bbox", "bbox_mode", "category_id", "segmentation"}  # left as it was


def test_verified_classes_are_those_of_the_whole_image(image_file):
    """Positive and negative sets, also of objects that the crop cuts off; regions say nothing of classes."""
    item = record(
        image_file,
        thing((0, 0, 10, 10), 3),
        thing((45, 25, 58, 38), 1),
        thing((20, 20, 30, 30), 5, iscrowd=1),
        thing((20, 20, 30, 30), 5, ignore=1),
        neg_category_ids=[4, 0],
        not_exhaustive_category_ids=[1],
    )
    instances = mapper(labels=True, augmentations=[Crop(0, 0, 20, 20)])(item)["instances"]
    assert instances.gt_classes.tolist() == [3]
    assert instances.verified_classes.tolist() == [0, 1, 3, 4]
    assert mapper(augmentations=[Crop(0, 0, 35, 35)])(item)["instances"].verified_classes is None  # nobody asks


def test_an_image_without_objects_has_negatives(image_file):
    instances = mapper(labels=True)(record(image_file, neg_category_ids=[2]))["instances"]
    assert (len(instances), instances.verified_classes.tolist()) == (0, [2])
    assert mapper(labels=True)(record(image_file))["instances"].verified_classes.shape == (0,)


@pytest.mark.parametrize("negative", [6, -1])
def test_ids_that_are_not_contiguous_are_named(image_file, negative):
    with pytest.raises(UserError, match=f"image.png has the class {negative} in its image-level labels.* 6 classes"):
        mapper(labels=True)(record(image_file, thing((0, 0, 9, 9)), neg_category_ids=[2, negative]))


def test_regions_follow_the_image(image_file):
    """Cut to 20 x 30 pixels at (10, 5), then doubled: x' = 2 (x - 10), y' = 2 (y - 5), in a 60 x 40 image."""
    item = record(
        image_file,
        thing((12, 8, 22, 18), 2),
        thing((15, 10, 25, 20), 3, iscrowd=1),
        thing((0, 0, 14, 9), 3, mask=False, ignore=1),
        ignore_regions=[[30, 15, 20, 20], [0, 0, 8, 4]],  # the second is cut off
    )
    augmentations = [Crop(10, 5, 30, 20), T.ResizeTransform(20, 30, 40, 60)]
    mapped = mapper(augmentations=augmentations)(item)
    instances = mapped["instances"]
    assert instances.gt_classes.tolist() == [2]
    assert instances.ignore_regions.tensor.tolist() == [[10, 10, 30, 30], [0, 0, 8, 8], [40, 20, 60, 40]]
    assert "ignore_regions" not in mapped
    assert len(item["ignore_regions"]) == 2


@pytest.mark.parametrize("crop", [False, True])
def test_an_image_of_regions_only(image_file, crop):
    item = record(image_file, thing((5, 5, 20, 30), iscrowd=1))
    instances = mapper(augmentations=[Crop(0, 0, 30, 30)] if crop else [])(item)["instances"]
    assert len(instances) == 0
    assert instances.ignore_regions.tensor.tolist() == [[5, 5, 20, 30]]


@pytest.mark.parametrize("masks", ["bitmask", "polygon"])
@pytest.mark.parametrize("empty", [{}, {"segmentation": []}, {"segmentation": None}])
def test_objects_without_a_mask(image_file, masks, empty):
    boxes = [(2, 2, 12, 12), (20.25, 3.5, 31.5, 15.75), (50, 20, 59, 39)]
    item = record(
        image_file,
        thing(boxes[0], 1),
        {**thing(boxes[1], 2, mask=False), **empty},
        thing(boxes[2], 3),
    )
    instances = mapper(masks=masks)(item)["instances"]
    assert instances.gt_has_mask.tolist() == [True, False, True]
    assert instances.gt_classes.tolist() == [1, 2, 3]
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.tensor(boxes))
    with_masks = mapper(masks=masks)({**item, "annotations": [item["annotations"][i] for i in (0, 2)]})["instances"]
    kept = instances[instances.gt_has_mask]
    if masks == "bitmask":
        assert torch.equal(masks_of(kept), masks_of(with_masks))
    else:
        assert isinstance(kept.gt_masks, PolygonMasks)
        assert masks_of(kept) == masks_of(with_masks)
    assert not with_masks.has("gt_has_mask")


@pytest.mark.parametrize("masks", ["bitmask", "polygon"])
def test_a_crop_cuts_boxes_and_masks(image_file, masks):
    """Boxes without a mask are cut exactly; those with one are that of the mask that is left."""
    item = record(
        image_file,
        thing((1, 1, 9, 9), 3, mask=False),  # cut off
        thing((4, 4, 24, 24), 1),  # the crop leaves the triangle with the corners (10, 10), (24, 24), (10, 24)
        thing((5.5, 6.5, 30.25, 20.75), 2, mask=False),
    )
    instances = mapper(masks=masks, augmentations=[Crop(10, 10, 40, 28)])(item)["instances"]
    assert instances.gt_classes.tolist() == [1, 2]
    assert instances.gt_has_mask.tolist() == [True, False]
    torch.testing.assert_close(instances.gt_boxes.tensor[1], torch.tensor([0, 0, 20.25, 10.75]))
    torch.testing.assert_close(instances.gt_boxes.tensor[0], torch.tensor([0.0, 0, 14, 14]), rtol=0, atol=1)


def test_without_a_mask_head_nothing_says_which_have_masks(image_file):
    instances = mapper(masks=None)(record(image_file, thing((2, 2, 9, 9)), thing((2, 9, 9, 20), mask=False)))
    assert set(instances["instances"].get_fields()) == {"gt_boxes", "gt_classes"}


def make_targets():
    return ImageTargets(
        SIZE,
        verified_classes=torch.tensor([1, 4]),
        ignore_regions=Boxes(torch.tensor([[0.0, 0, 5, 5]])),
        gt_classes=torch.tensor([1, 2, 3]),
    )


def test_what_is_known_of_the_image_stays_with_its_instances():
    targets = make_targets()
    for same in (targets.to("cpu"), targets[torch.tensor([True, False, True])], pickle.loads(pickle.dumps(targets))):
        assert isinstance(same, ImageTargets)
        assert same.image_size == SIZE
        assert same.verified_classes.tolist() == [1, 4]
        assert same.ignore_regions.tensor.tolist() == [[0, 0, 5, 5]]
    assert targets[1].gt_classes.tolist() == [2]
    moved = targets.to("meta")
    assert {moved.verified_classes.device.type, moved.ignore_regions.device.type, moved.gt_classes.device.type} == {
        "meta"
    }
    bare = ImageTargets(SIZE, gt_classes=torch.tensor([1])).to("cpu")
    assert bare.verified_classes is None
    assert bare.ignore_regions is None


def test_pasted_objects_are_present():
    known = make_targets().with_present_classes(torch.tensor([3, 1]))
    assert known.verified_classes.tolist() == [1, 3, 4]
    assert known.ignore_regions.tensor.tolist() == [[0, 0, 5, 5]]
    assert known.gt_classes.tolist() == [1, 2, 3]
    assert ImageTargets(SIZE).with_present_classes(torch.tensor([3])).verified_classes is None


def test_labels_are_handed_on():
    targets = make_targets()
    proposals = Instances(SIZE, gt_classes=torch.tensor([5]))
    assert with_image_labels(proposals, Instances(SIZE)) is proposals
    labelled = with_image_labels(proposals, targets)
    assert labelled.gt_classes.tolist() == [5]
    assert labelled.verified_classes is targets.verified_classes
