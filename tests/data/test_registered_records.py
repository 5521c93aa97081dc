"""Datasets that a function gives: counted, checked and evaluated by their records, as by an annotation file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools import mask as mask_api

from eql_d2.data.category_counts import dataset_counts
from eql_d2.data.checks.before_start import check_dataset
from eql_d2.data.registration import set_class_metadata
from eql_d2.errors import UserError
from eql_d2.evaluation.lvis_evaluator import LVISEvaluator
from tests.data.small_set import HEIGHT, WIDTH, make_content, write_set

NAME = "given_by_a_function"


@pytest.fixture
def register(monkeypatch, tmp_path):
    """Registers records under a name that goes when the test ends; the files made of them lie in its folder."""
    monkeypatch.setenv("EQL_D2_CACHE", str(tmp_path / "cache"))

    def register(records, **metadata):
        DatasetCatalog.register(NAME, lambda: records)
        MetadataCatalog.get(NAME).set(**metadata)

    yield register
    if NAME in DatasetCatalog.list():
        DatasetCatalog.remove(NAME)
    MetadataCatalog.pop(NAME, None)


def records_of(folder, content):
    """Detectron2's standard form, boxes by their corners."""
    write_set(folder, "set.json", content)
    place_of = {3: 0, 5: 1}
    return [
        {
            "file_name": str(folder / image["file_name"]),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "annotations": [
                {
                    "bbox": [a["bbox"][0], a["bbox"][1], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]],
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": place_of[a["category_id"]],
                    "segmentation": a["segmentation"],
                }
                for a in content["annotations"]
                if a["image_id"] == image["id"]
            ],
        }
        for image in content["images"]
    ]


def test_records_are_counted_and_checked(tmp_path, register):
    register(records_of(tmp_path, make_content(5)), thing_classes=["cat", "dog"])
    counts = dataset_counts((NAME,))
    assert (counts.names, counts.image_counts, counts.num_images) == (("cat", "dog"), (3, 2), 5)
    set_class_metadata(NAME)
    check_dataset(NAME, evaluated=True)
    content = json.loads(Path(MetadataCatalog.get(NAME).json_file).read_text())
    assert [a["bbox"] for a in content["annotations"]] == [[4, 4, 8, 8]] * 5
    assert {a["area"] for a in content["annotations"]} == {64.0}


def test_any_form_of_masks_ids_and_paths(tmp_path, register, monkeypatch):
    records = records_of(tmp_path, make_content(4))
    bitmap = np.zeros((HEIGHT, WIDTH), bool)
    bitmap[4:12, 4:12] = True
    encoded = mask_api.encode(np.asfortranarray(bitmap, np.uint8))
    for record, mask in zip(records, ([np.array([4, 4, 12, 4, 12, 12, 4, 12])], encoded, bitmap, None), strict=True):
        record["image_id"] = f"photo {record['image_id']}"
        record["annotations"][0]["segmentation"] = mask
        record["annotations"][0]["bbox"] = np.array(record["annotations"][0]["bbox"])
        record["annotations"][0]["category_id"] = np.int64(record["annotations"][0]["category_id"])
        del record["height"], record["width"]
        record["file_name"] = record["file_name"].removeprefix(f"{tmp_path}/")
    monkeypatch.chdir(tmp_path)
    register(records, thing_classes=["cat", "dog"], thing_dataset_id_to_contiguous_id={30: 0, 50: 1})
    set_class_metadata(NAME)
    check_dataset(NAME, evaluated=True)
    content = json.loads(Path(MetadataCatalog.get(NAME).json_file).read_text())
    assert {(image["width"], image["height"]) for image in content["images"]} == {(WIDTH, HEIGHT)}
    assert [a["category_id"] for a in content["annotations"]] == [30, 50, 30, 50]
    assert [a["area"] for a in content["annotations"]] == [64.0] * 4
    evaluator = LVISEvaluator(NAME, ["bbox"], distributed=False)
    for place, record in enumerate(records):
        found = Instances((HEIGHT, WIDTH), pred_boxes=Boxes(torch.tensor([[4.0, 4, 12, 12]])))
        found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([place % 2])
        evaluator.process([{"image_id": record["image_id"]}], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def drop(key):
    return lambda records: records[1].pop(key)


def drop_of_annotation(key):
    return lambda records: records[1]["annotations"][0].pop(key)


def change_annotation(**values):
    return lambda records: records[1]["annotations"][0].update(values)


OF_ANNOTATION = f"Record 1 of dataset '{NAME}': annotation 0 has"


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (drop("file_name"), f"Record 1 of dataset '{NAME}' has no file_name"),
        (drop_of_annotation("bbox"), f"{OF_ANNOTATION} no bbox;"),
        (drop_of_annotation("bbox_mode"), f"{OF_ANNOTATION} no bbox_mode;"),
        (change_annotation(category_id=2), f"{OF_ANNOTATION} the category_id 2; it must be a number from 0 to 1"),
        (change_annotation(category_id="dog"), f"{OF_ANNOTATION} the category_id 'dog'"),
        (change_annotation(bbox=[1, 2, 3, 4, 5]), rf"{OF_ANNOTATION} the bbox \[1, 2, 3, 4, 5\]; it must be four"),
        (change_annotation(segmentation=[["a"]]), f"{OF_ANNOTATION} a segmentation that is neither polygons nor"),
        (change_annotation(segmentation=[[1, 2, 3, 4]]), "annotation 2 of image 11 has a polygon of 2 points"),
        (drop("image_id"), None),  # it trains
    ],
)
def test_what_is_wrong_is_named(tmp_path, register, fault, sentence):
    records = records_of(tmp_path, make_content(4))
    fault(records)
    register(records, thing_classes=["cat", "dog"])
    if sentence is None:
        set_class_metadata(NAME)
        check_dataset(NAME)
        with pytest.raises(UserError, match="have no image_id of their own, which their"):
            check_dataset(NAME, evaluated=True)
        return
    with pytest.raises(UserError, match=sentence):
        set_class_metadata(NAME)
        check_dataset(NAME)


def test_without_class_names(tmp_path, register):
    register(records_of(tmp_path, make_content(2)))
    with pytest.raises(UserError, match=r"has no class names; describe it under DATASETS.CUSTOM, or set thing_classes"):
        dataset_counts((NAME,))
