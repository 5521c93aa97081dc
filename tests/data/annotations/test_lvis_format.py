"""Reading LVIS annotation files: both versions' records, and one clear sentence for a file that is not one."""

import copy
import json

import orjson
import pytest
from detectron2.structures import BoxMode
from pycocotools import mask as mask_api

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.lvis_format import chosen_categories, contiguous_ids, load_lvis_format
from eql_d2.errors import UserError

RLE = {"size": [40, 60], "counts": "T3d0XW2"}  # 100 background, 20 foreground, 2280 background
V1 = {
    "images": [
        {
            "id": 7,
            "coco_url": "http://images.cocodataset.org/val2017/000000000007.jpg",
            "height": 40,
            "width": 60,
            "neg_category_ids": [905],
            "not_exhaustive_category_ids": [3],
        },
        {
            "id": 4,
            "coco_url": "http://images.cocodataset.org/train2017/000000000004.jpg",
            "height": 50,
            "width": 30,
            "neg_category_ids": [],
            "not_exhaustive_category_ids": [],
        },
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1.5, 2, 3, 4], "segmentation": [[1.5, 2, 4.5, 2, 4.5, 6]]},
        {"id": 2, "image_id": 7, "category_id": 41, "bbox": [0, 0, 9, 9], "segmentation": RLE},
    ],
    "categories": [  # neither in order nor without gaps
        {"id": 905, "name": "zebra", "frequency": "f"},
        {"id": 3, "name": "ant", "frequency": "r"},
        {"id": 41, "name": "bee", "frequency": "c"},
    ],
}


@pytest.fixture
def content():
    return copy.deepcopy(V1)


@pytest.fixture
def read(tmp_path):
    """Writes JSON content (or raw bytes) to a file, and reads it as a dataset with the folder itself as image root."""

    def write_and_read(content):
        path = tmp_path / "annotations.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return load_lvis_format(path, tmp_path)

    return write_and_read


def test_v1_records(content, read, tmp_path):
    second, first = read(content)  # in the order of the ids, as Detectron2 has them
    assert first == {
        "file_name": str(tmp_path / "val2017" / "000000000007.jpg"),
        "height": 40,
        "width": 60,
        "image_id": 7,
        "neg_category_ids": [2],
        "not_exhaustive_category_ids": [0],
        "annotations": [
            {
                "bbox": [1.5, 2, 3, 4],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 0,
                "segmentation": [[1.5, 2, 4.5, 2, 4.5, 6]],
            },
            {"bbox": [0, 0, 9, 9], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, "segmentation": RLE},
        ],
    }
    assert (second["image_id"], second["height"], second["width"]) == (4, 50, 30)
    assert second["file_name"] == str(tmp_path / "train2017" / "000000000004.jpg")
    assert second["annotations"] == []


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [
        ("COCO_val2014_000000001268.jpg", "000000001268.jpg"),  # LVIS v0.5 as published
        ("COCO_train2014_000000391895.jpg", "000000391895.jpg"),
        ("000000001268.jpg", "000000001268.jpg"),
        ("val2017/000000001268.jpg", "val2017/000000001268.jpg"),
        ("my pictures/dog 1.png", "my pictures/dog 1.png"),
    ],
)
def test_v05_file_names(content, read, tmp_path, file_name, expected):
    del content["images"][0]["coco_url"]
    content["images"][0]["file_name"] = file_name
    assert read(content)[1]["file_name"] == str(tmp_path / expected)


def test_uncompressed_rle_becomes_what_detectron2_reads(content, read):
    content["annotations"][1]["segmentation"] = {"size": [40, 60], "counts": [100, 20, 2280]}
    _, record = read(content)
    segmentation = record["annotations"][1]["segmentation"]
    assert segmentation == RLE
    mask = mask_api.decode(segmentation)
    assert mask.T.ravel().nonzero()[0].tolist() == list(range(100, 120))  # RLE goes down the columns


@pytest.mark.parametrize(
    ("marks", "is_region"),
    [({}, False), ({"iscrowd": 0}, False), ({"iscrowd": 1}, True), ({"ignore": 1}, True), ({"ignore": 0}, False)],
)
def test_a_region_to_ignore_is_no_object(content, read, marks, is_region):
    """``ignore`` says it as well as ``iscrowd`` does; both go to Detectron2's key."""
    content["annotations"][1].update(marks)
    dataset = read(content)
    assert dataset[1]["annotations"][1].get("iscrowd", 0) == is_region
    assert len(dataset.summaries()[1]["annotations"]) == 2 - is_region


def test_real_v05_file_agrees_with_the_official_reader(shared_data):
    lvis = pytest.importorskip("lvis")
    path = shared_data / "lvis_v0.5_val_100.json"
    records, official = load_lvis_format(path, shared_data), lvis.LVIS(str(path))
    assert [record["image_id"] for record in records] == sorted(official.imgs)
    assert sum(len(record["annotations"]) for record in records) == 977
    for record in records:
        assert [annotation["bbox"] for annotation in record["annotations"]] == [
            official.anns[i]["bbox"] for i in official.get_ann_ids(img_ids=[record["image_id"]])
        ]


def test_test_set_without_annotations(content, read):
    del content["annotations"]
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    assert [record["annotations"] for record in read(content)] == [[], []]


def test_contiguous_ids_are_in_ascending_order():
    assert contiguous_ids([{"id": 9}, {"id": 2}, {"id": 5}]) == {2: 0, 5: 1, 9: 2}


def remove(key):
    def change(content):
        del content[key]

    return change


def coco_style(content):
    for image in content["images"]:
        del image["neg_category_ids"]


def set_annotation(**values):
    return lambda content: content["annotations"][1].update(values)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (remove("images"), "images missing"),
        (remove("categories"), "categories missing"),
        (coco_style, "neg_category_ids missing"),
        (lambda content: content["annotations"][0].pop("category_id"), "category_id"),
        (lambda content: content.update(images=None), "NoneType"),
        (lambda content: content.update(annotations=[[1, 2]]), "list"),
        (lambda content: content["categories"][0].pop("id"), "id"),
        (set_annotation(id=2**64), "an id needs more than 64 bits"),
        (set_annotation(image_id="one"), "annotations[1]: Expected int, got str - at $.image_id"),
        (set_annotation(bbox=[1, 2, 3]), "annotations[1]: Expected list of length 4"),
        (set_annotation(segmentation=[["one"] * 6]), "annotations[1]: Expected float, got str"),
        (set_annotation(segmentation={"size": [40, 60]}), "required field counts"),
    ],
)
def test_what_is_not_lvis_is_refused_in_one_line(content, read, tmp_path, change, complaint):
    change(content)
    with pytest.raises(UserError) as error:
        read(content)
    assert str(error.value).startswith(
        f"Annotation file {tmp_path / 'annotations.json'} is not in the LVIS or COCO form"
    )
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def without_federation(content):
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]


def test_coco_format_has_to_be_asked_for(content, read, tmp_path):
    without_federation(content)
    with pytest.raises(UserError, match=r"is not in the LVIS format: .*of a dataset in COCO's format say format: coco"):
        read(content)
    dataset = load_lvis_format(tmp_path / "annotations.json", tmp_path, federated=False)
    assert "neg_category_ids" not in dataset[0]
    assert len(dataset[1]["annotations"]) == 2


def test_a_list_is_refused(read):
    with pytest.raises(UserError, match="not in the LVIS or COCO format: it holds a list, not a dictionary"):
        read(V1["annotations"])


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"<html>"])
def test_truncated_file_is_named(content, read, tmp_path, damage):
    with pytest.raises(
        UserError, match=r"^Annotation file .*annotations.json is truncated .*; download or write it again.$"
    ):
        read(damage(orjson.dumps(content)))


def test_missing_file_and_folder_are_named(content, tmp_path):
    with pytest.raises(UserError, match=r"^Annotation file .*absent.json does not exist; .*DETECTRON2_DATASETS"):
        open_annotations(tmp_path / "absent.json")
    with pytest.raises(UserError, match=rf"^Annotation file {tmp_path} cannot be read \(Is a directory\)"):
        open_annotations(tmp_path)
    (tmp_path / "annotations.json").write_bytes(orjson.dumps(content))
    with pytest.raises(UserError, match=r"^Image folder .*images does not exist; .*DETECTRON2_DATASETS"):
        load_lvis_format(tmp_path / "annotations.json", tmp_path / "images")


def test_chosen_categories_are_in_the_order_of_their_ids(tmp_path, content):
    (tmp_path / "a.json").write_text(json.dumps(content))
    annotations = open_annotations(tmp_path / "a.json")
    assert [record["id"] for record in chosen_categories(annotations, None)] == [3, 41, 905]
    assert [record["id"] for record in chosen_categories(annotations, ["zebra", "ant"])] == [3, 905]
    with pytest.raises(UserError, match=r"has no category 'bea'; did you mean 'bee'\?"):
        chosen_categories(annotations, ["ant", "bea"])
    with pytest.raises(UserError, match="has no category 'xyz'; it has ant, bee, zebra …"):
        chosen_categories(annotations, ["xyz"])
