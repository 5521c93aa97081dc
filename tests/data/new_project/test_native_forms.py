"""CVAT's XML and VGG Image Annotator's JSON, as the tools write them."""

import json
import logging
import math

import numpy as np
import pytest
from pycocotools import mask as mask_api

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.new_project.tool_formats import coco_file
from eql_d2.errors import UserError
from tests.data.small_set import HEIGHT, WIDTH, write_picture

CVAT = f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><name>pets</name><labels><label><name>dog</name><color>#fff</color><type>any</type></label>
  <label><name>cat</name></label><label><name>fox</name></label></labels></task></meta>
  <image id="0" name="a/0.jpg" width="{WIDTH}" height="{HEIGHT}">
    <box label="cat" source="manual" occluded="0" xtl="4.00" ytl="5.00" xbr="12.50" ybr="13.00" z_order="0"></box>
    <box label="cat" occluded="0" xtl="4" ytl="6" xbr="12" ybr="10" rotation="90.00"></box>
    <polygon label="dog" points="2.00,2.00;10.00,2.00;10.00,6.00" z_order="0">
      <attribute name="age">3</attribute></polygon>
    <mask label="dog" rle="1, 2, 2, 1" left="3" top="4" width="3" height="2" z_order="0"></mask>
    <ellipse label="cat" cx="10" cy="10" rx="6" ry="3" z_order="0"></ellipse>
    <points label="cat" points="1,1"></points>
  </image>
  <image id="1" name="1.jpg" width="{WIDTH}" height="{HEIGHT}"></image>
</annotations>"""


def records_of(path, images, output):
    found, folder = coco_file(path, images, output)
    annotations = open_annotations(found)
    assert [f.sentence for f in annotations.findings if f.level == "defect"] == []
    names = [record["name"] for record in annotations.category_records]
    read = [annotations.records(place) for place in range(len(annotations))]
    return names, folder, [image["file_name"] for image, _ in read], [record for _, of in read for record in of]


@pytest.mark.parametrize("as_folder", [False, True])
def test_cvat(tmp_path, caplog, as_folder):
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "annotations.xml").write_text(CVAT)
    path = tmp_path if as_folder else tmp_path / "annotations.xml"
    with caplog.at_level(logging.WARNING):
        names, folder, files, records = records_of(path, None, tmp_path / "out" / "all.json")
    assert (names, folder, files) == (["dog", "cat", "fox"], tmp_path / "images", ["a/0.jpg", "1.jpg"])
    assert "1 shapes of the kind points are left out" in caplog.text
    box, turned, polygon, mask, ellipse = records
    assert [names[record["category_id"] - 1] for record in records] == ["cat", "cat", "dog", "dog", "cat"]
    assert (box["bbox"], box["area"]) == ([4, 5, 8.5, 8], 68)
    assert "segmentation" not in box
    assert turned["bbox"] == pytest.approx([6, 4, 4, 8])  # about its middle, (8, 8)
    assert turned["area"] == pytest.approx(32)
    assert (polygon["bbox"], polygon["area"]) == ([2, 2, 8, 4], 16)
    assert polygon["segmentation"] == [[2, 2, 10, 2, 10, 6]]
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[4, 4:6] = pixels[5, 5] = 1  # rows of three: 0 1 1, 0 0 1
    assert (mask_api.decode(mask["segmentation"]) == pixels).all()
    assert (mask["bbox"], mask["area"]) == ([4, 4, 2, 2], 3)
    assert ellipse["bbox"] == pytest.approx([4, 7, 12, 6])
    assert ellipse["area"] == pytest.approx(math.pi * 18, rel=0.01)


def test_cvat_of_video_and_broken_xml(tmp_path):
    path = tmp_path / "annotations.xml"
    path.write_text("<annotations>\n<version>1.1</version><track id='0' label='cat'></track></annotations>")
    with pytest.raises(UserError, match="is CVAT's form for video; export the task as CVAT for images"):
        coco_file(path, None, tmp_path / "x.json")
    for text in (CVAT[:500], CVAT.replace('width="32"', ""), CVAT.replace('xtl="4.00"', 'xtl="left"')):
        path.write_text(text)
        with pytest.raises(UserError, match=r"cannot be (converted from the form of CVAT|read \()"):
            coco_file(path, None, tmp_path / "x.json")


def test_grouped_shapes_of_cvat_are_one_object(tmp_path):
    polygon = '<polygon label="{}" points="{}" group_id="{}"></polygon>'
    mask = '<mask label="cat" rle="0, 4" left="{}" top="0" width="2" height="2" group_id="3"></mask>'
    shapes = [
        polygon.format("cat", "0,0;4,0;4,4", 1),
        polygon.format("cat", "10,10;12,10;12,12;10,12", 1),
        polygon.format("dog", "0,0;4,0;4,4", 1),
        polygon.format("cat", "0,0;4,0;4,4", 0),
        mask.format(2),
        mask.format(3),
    ]
    image = f'<image id="0" name="0.jpg" width="{WIDTH}" height="{HEIGHT}">{"".join(shapes)}</image>'
    (tmp_path / "annotations.xml").write_text(f"<annotations>{image}</annotations>")
    names, _, _, records = records_of(tmp_path / "annotations.xml", None, tmp_path / "a.json")
    found = [(names[record["category_id"] - 1], record["bbox"], record["area"]) for record in records]
    # A triangle of 8 pixels and a square of 4; two masks of 2 x 2 that share a column.
    assert sorted(found) == [
        ("cat", [0, 0, 4, 4], 8),
        ("cat", [0, 0, 12, 12], 12),
        ("cat", [2, 0, 3, 2], 6),
        ("dog", [0, 0, 4, 4], 8),
    ]


def via_region(shape, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


RECT = {"name": "rect", "x": 4, "y": 5, "width": 8, "height": 8}
SHAPES = [
    RECT,
    {"name": "polygon", "all_points_x": [2, 10, 10], "all_points_y": [2, 2, 6]},
    {"name": "circle", "cx": 10, "cy": 10, "r": 5},
    {"name": "ellipse", "cx": 10, "cy": 10, "rx": 6, "ry": 3, "theta": math.pi / 2},
    {"name": "point", "cx": 1, "cy": 1},
]


def write_via(folder, regions, form):
    write_picture(folder / "0.jpg", 0)
    files = {"0.jpg123": {"filename": "0.jpg", "size": 123, "regions": regions, "file_attributes": {}}}
    if form == "project":
        files = {"_via_settings": {"core": {}}, "_via_img_metadata": files, "_via_attributes": {}}
    if form == "version 1":
        files["0.jpg123"]["regions"] = {str(number): region for number, region in enumerate(regions)}
    (folder / "via.json").write_text(json.dumps(files))
    return folder / "via.json"


@pytest.mark.parametrize("form", ["project", "export", "version 1"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_via(tmp_path, caplog, form, as_folder):
    labels = ["cat", {"dog": True, "cat": False}, "cat", "dog", "cat"]
    regions = [via_region(shape, species=label) for shape, label in zip(SHAPES, labels, strict=True)]
    path = write_via(tmp_path, regions, form)
    with caplog.at_level(logging.WARNING):
        names, folder, files, records = records_of(tmp_path if as_folder else path, None, tmp_path / "o" / "a.json")
    assert (names, folder, files) == (["cat", "dog"], tmp_path, ["0.jpg"])
    assert [names[record["category_id"] - 1] for record in records] == ["cat", "dog", "cat", "dog"]
    assert "1 shapes of the kind point are left out" in caplog.text
    expected = [[4, 5, 8, 8], [2, 2, 8, 4], [5, 5, 10, 10], [7, 4, 6, 12]]
    assert [record["bbox"] for record in records] == [pytest.approx(box) for box in expected]
    assert [record["area"] for record in records] == pytest.approx([64, 16, math.pi * 25, math.pi * 18], rel=0.01)


def test_the_attribute_of_the_classes(tmp_path):
    path = write_via(tmp_path, [via_region(RECT, Class="cat", age="3")], "export")
    assert records_of(path, None, tmp_path / "a" / "a.json")[0] == ["cat"]
    path = write_via(tmp_path, [via_region(RECT, age="3", sex="f")], "export")
    with pytest.raises(UserError, match="has the region attributes age, sex, and none is called label or class"):
        coco_file(path, None, tmp_path / "a.json")
    path = write_via(tmp_path, [via_region(RECT, label="cat"), via_region(RECT)], "export")
    with pytest.raises(UserError, match=r"region 1 of image 0\.jpg has no label, or several"):
        coco_file(path, None, tmp_path / "a.json")
    (tmp_path / "0.jpg").unlink()
    with pytest.raises(UserError, match=r"names image 0\.jpg, which cannot be read"):
        coco_file(path, None, tmp_path / "a.json")
