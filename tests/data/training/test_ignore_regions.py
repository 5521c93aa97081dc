"""Ignore regions of a dataset from a second annotation file of the same images."""

import copy
import json
import pickle

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from eql_d2.data.annotations.lvis_format import load_lvis_format
from eql_d2.data.checks.before_start import check_dataset
from eql_d2.data.registration import register_custom_datasets, set_class_metadata
from eql_d2.data.training.ignore_regions import with_ignore_regions
from eql_d2.data.training.loader import build_train_loader
from eql_d2.errors import UserError


def coco(images, boxes):
    """A file in COCO's format with one class that no other set has; boxes are (image id, [x, y, w, h])."""
    return {
        "images": images,
        "categories": [{"id": 90, "name": "any object"}],
        "annotations": [
            {"id": i, "image_id": image_id, "category_id": 90, "bbox": box, "area": box[2] * box[3], "iscrowd": i % 2}
            for i, (image_id, box) in enumerate(boxes)
        ],
    }


@pytest.fixture
def files(tiny_set, tmp_path):
    """The tiny set, and a function that writes boxes of its images to a file."""
    content = json.loads((tiny_set / "train.json").read_text())
    images = [{key: image[key] for key in ("id", "width", "height", "file_name")} for image in content["images"]]

    def write(boxes, images=images):
        path = tmp_path / "regions.json"
        path.write_text(json.dumps(coco(images, boxes)))
        return path

    return load_lvis_format(tiny_set / "train.json", tiny_set), images, write


def iou(a, b):
    """Of boxes x, y, w, h."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


def test_boxes_that_no_annotation_matches(files):
    dataset, images, write = files
    boxes, expected = [], {}
    annotated = [item for item in dataset if item["annotations"]][:20]
    bare = next(item for item in dataset if not item["annotations"])
    for item in annotated:
        x, y, w, h = item["annotations"][0]["bbox"]
        # By the first annotation's box: IoU 1, 2/3, just above and just below 0.5, 0.5, and 0.
        for box in (
            [x, y, w, h],
            [x, y, w * 1.5, h],
            [x, y, w, h * 1.999],
            [x, y, w, h * 2.001],
            [x, y, w, h * 2],
            [0, 0, 1, 1],
        ):
            boxes.append((item["image_id"], box))
            if max(iou(box, annotation["bbox"]) for annotation in item["annotations"]) < 0.5:
                expected.setdefault(item["image_id"], []).append(box)
    assert sum(map(len, expected.values())) >= 30
    boxes.append((bare["image_id"], [1, 2, 3, 4]))
    expected[bare["image_id"]] = [[1, 2, 3, 4]]
    some = [image for image in images if image["id"] % 7]  # the second file need not have all images
    kept = {image["id"] for image in some}
    boxes = [(image_id, box) for image_id, box in boxes if image_id in kept]
    with_regions = with_ignore_regions(dataset, write(boxes, some))
    assert len(with_regions) == len(dataset)
    for item, plain in zip(with_regions, dataset, strict=True):
        regions = item.pop("ignore_regions")
        assert item == plain
        assert regions == (expected.get(item["image_id"], []) if item["image_id"] in kept else [])
    assert with_regions.summaries() == dataset.summaries()
    assert [item["image_id"] for item in with_regions[2:4]] == [item["image_id"] for item in dataset[2:4]]
    assert list(pickle.loads(pickle.dumps(with_regions))) == list(with_regions)


def test_files_of_other_images_are_named(files):
    dataset, images, write = files
    others = [{**image, "id": image["id"] + 10**6} for image in images]
    with pytest.raises(UserError, match=r"regions.json has none of the images of .*train.json; it must use the same"):
        with_ignore_regions(dataset, write([], others))
    larger = copy.deepcopy(images)
    larger[4]["width"] += 1
    with pytest.raises(UserError, match=rf"Image {images[4]['id']} has different sizes in ignore_regions .*regions"):
        with_ignore_regions(dataset, write([], larger))


def test_a_dataset_of_the_config(files, tiny_set, tiny_cfg):
    """From the config to the model's input; one worker shows that the dataset travels."""
    _, images, write = files
    path = write([(image["id"], [40, 30, 3, 5]) for image in images])
    entry = {"name": "regions_train", "annotations": str(tiny_set / "train.json"), "images": str(tiny_set)}
    tiny_cfg.DATASETS.CUSTOM = [{**entry, "ignore_regions": str(path)}]
    tiny_cfg.DATASETS.TRAIN = ("regions_train",)
    tiny_cfg.INPUT.RANDOM_FLIP = "none"
    tiny_cfg.DATALOADER.NUM_WORKERS = 1
    register_custom_datasets(tiny_cfg)
    try:
        check_dataset("regions_train")
        set_class_metadata("regions_train")
        for sample in next(iter(build_train_loader(tiny_cfg, seed=0))):
            assert sample["instances"].ignore_regions.tensor.tolist() == [[40, 30, 43, 35]]
        path.unlink()
        with pytest.raises(UserError, match=r"regions\.json"):
            check_dataset("regions_train")
    finally:
        DatasetCatalog.remove("regions_train")
        MetadataCatalog.remove("regions_train")
