"""Label Studio's own JSON, full and minimal: shapes in percent, brushes as a stream of bits, paths of its server."""

import json
import logging
import math

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api

from eql_d2.data.new_project.tool_formats import coco_file
from eql_d2.errors import UserError

WIDTH, HEIGHT = 200, 100


def brush(pixels):
    """Label Studio's stream of a mask: bytes in runs of one length, 8 bits each; the fourth channel is the mask."""
    values = np.zeros((*pixels.shape, 4), int)
    values[..., 3] = pixels * 255
    bits = f"{values.size:032b}" + f"{8 - 1:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    flat = values.ravel().tolist()
    place = 0
    while place < len(flat):
        end = place
        while end < len(flat) and flat[end] == flat[place] and end - place < 2**16:
            end += 1
        if end - place > 1:
            bits += "1" + "11" + f"{end - place - 1:016b}" + f"{flat[place]:08b}"
        else:
            bits += "0" + "00" + "000" + f"{flat[place]:08b}"  # one value as it is
        place = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


MASK = np.zeros((HEIGHT, WIDTH), int)
MASK[10:20, 30:50] = 1
MASK[40, 60] = 1

RECTANGLE = {"x": 10, "y": 20, "width": 5, "height": 10, "rotation": 0, "rectanglelabels": ["cat"]}
VALUES = [
    RECTANGLE,
    {**RECTANGLE, "rotation": 90},
    {"points": [[10, 10], [20, 10], [20, 30]], "closed": True, "polygonlabels": ["dog"]},
    {"x": 50, "y": 50, "radiusX": 10, "radiusY": 5, "rotation": 0, "ellipselabels": ["cat"]},
    {"format": "rle", "rle": brush(MASK), "brushlabels": ["dog"]},
    {"x": 1, "y": 1, "width": 0.5, "keypointlabels": ["cat"]},
]


def results(values):
    return [
        {"id": f"r{n}", "from_name": "label", "to_name": "image", "type": next(k for k in value if k[-6:] == "labels")}
        | {"original_width": WIDTH, "original_height": HEIGHT, "value": value}
        for n, value in enumerate(values)
    ]


def task(number, image, of_task, **more):
    done = {"id": number, "result": of_task, "was_cancelled": False}
    return {"id": number, "annotations": [done], "data": {"image": image}, **more}


def read(tmp_path, tasks, *names):
    (tmp_path / "images").mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / name)
    (tmp_path / "project-1.json").write_text(json.dumps(tasks))
    path, images = coco_file(tmp_path, None, tmp_path / "new" / "annotations.json")
    assert images == tmp_path / "images"
    return json.loads(path.read_text())


@pytest.mark.parametrize("minimal", [False, True])
def test_every_shape(tmp_path, caplog, minimal):
    tasks = [task(1, "/data/upload/1/0a1b2c3d-one.jpg", results(VALUES))]
    if minimal:
        size = {"original_width": WIDTH, "original_height": HEIGHT}
        tasks = [{"id": 1, "image": tasks[0]["data"]["image"], "label": [{**value, **size} for value in VALUES]}]
    with caplog.at_level(logging.WARNING):
        content = read(tmp_path, tasks, "0a1b2c3d-one.jpg")
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert content["images"] == [{"id": 1, "file_name": "0a1b2c3d-one.jpg", "width": WIDTH, "height": HEIGHT}]
    box, turned, polygon, ellipse, brushed = content["annotations"]
    labels = [names[annotation["category_id"]] for annotation in content["annotations"]]
    assert labels == ["cat", "cat", "dog", "cat", "dog"]
    assert box["bbox"] == pytest.approx([20, 20, 10, 10])
    assert "segmentation" not in box
    assert turned["bbox"] == pytest.approx([10, 20, 10, 10])  # a quarter clockwise about its first corner, (20, 20)
    assert (polygon["bbox"], polygon["area"]) == (pytest.approx([20, 10, 20, 20]), pytest.approx(200))
    assert ellipse["bbox"] == pytest.approx([80, 45, 40, 10])
    assert ellipse["area"] == pytest.approx(math.pi * 20 * 5, rel=0.01)
    assert (mask_api.decode(brushed["segmentation"]) == MASK).all()
    assert (brushed["bbox"], brushed["area"]) == ([30, 10, 31, 31], 201)
    assert ("shapes of the kind keypoint" in caplog.text) is not minimal


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("/data/upload/1/0a1b2c3d-one.jpg", "one.jpg"),
        ("/data/local-files/?d=photos/my%20cat.jpg", "my cat.jpg"),
        ("s3://bucket/set/one.png", "one.png"),
        ("https://example.org/a/one.jpg?width=3", "one.jpg"),
    ],
)
def test_where_an_image_is(tmp_path, said, name):
    assert read(tmp_path, [task(1, said, results(VALUES[:1]))], name)["images"][0]["file_name"] == name


def test_labels_of_a_shape_of_their_own_and_several_annotators(tmp_path, caplog):
    shape = {"x": 10, "y": 20, "width": 5, "height": 10}
    apart = [
        {"id": "a", "from_name": "r", "to_name": "image", "type": "rectangle", "value": shape},
        {"id": "a", "from_name": "l", "to_name": "image", "type": "labels", "value": {**shape, "labels": ["fox"]}},
    ]
    skipped = {"id": 7, "result": results(VALUES[:1]), "was_cancelled": True}
    truth = {"id": 8, "result": results(VALUES[2:3]), "was_cancelled": False, "ground_truth": True}
    tasks = [task(1, "one.jpg", apart), task(2, "two.jpg", results(VALUES[:1]))]
    tasks[1]["annotations"] = [truth, *tasks[1]["annotations"], skipped]
    content = read(tmp_path, tasks, "one.jpg", "two.jpg")
    names = {category["id"]: category["name"] for category in content["categories"]}
    labels = [(a["image_id"], names[a["category_id"]]) for a in content["annotations"]]
    assert labels == [(1, "fox"), (2, "dog")]
    assert "1 tasks have several labellings" in caplog.text


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        ([task(3, "lost.jpg", results(VALUES[:1]))], r"names image lost\.jpg, which is not in .*; set --images"),
        (
            [task(3, "one.jpg", results([{**RECTANGLE, "rectanglelabels": []}]))],
            r"rectangle 0 of image one\.jpg has no label; give it one in Label Studio",
        ),
        ([task(3, "one.jpg", results([{**RECTANGLE, "x": "left"}]))], r"result 0 of image one\.jpg cannot be read"),
        ([task(3, "one.jpg", results([{**VALUES[4], "rle": [0, 0]}]))], r"result 0 of image one\.jpg cannot be read"),
        ([{"id": 3, "from_name": 1, "to_name": 2, "data": {"text": "no"}}], "task 3 names no picture"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, tasks, sentence):
    with pytest.raises(UserError, match=sentence):
        read(tmp_path, tasks, "one.jpg")
