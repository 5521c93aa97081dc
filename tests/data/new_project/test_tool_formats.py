"""Exports as tools write them, in their folders, and broken ones: the file and the entry are named."""

import json
import shutil

import pytest

from eql_d2.data.new_project import start_project
from eql_d2.data.new_project.tool_formats import coco_file, own_validation
from eql_d2.errors import UserError
from tests.data.small_set import HEIGHT, WIDTH, make_content, write_picture

BOX = "0 0.5 0.5 0.25 0.25\n"


def write_images(folder, first=0):
    for number in range(first, first + 3):
        write_picture(folder / f"{number}.png", seed=number)


def label_studio_yolo(folder):
    write_images(folder / "images")
    labels = {f"labels/{n}.txt": BOX for n in range(3)}
    notes = json.dumps({"categories": [{"id": 0, "name": "cat"}], "info": {}})
    return {"classes.txt": "cat\n", "notes.json": notes, **labels}


def cvat_yolo(folder):
    write_images(folder / "obj_train_data")
    labels = {f"obj_train_data/{n}.txt": BOX for n in range(3)}
    return {"obj.names": "cat\n", "obj.data": "classes = 1\n", "train.txt": "obj_train_data/0.png\n", **labels}


def create_ml(folder):
    write_images(folder)
    coordinates = {"x": WIDTH / 2, "y": HEIGHT / 2, "width": WIDTH / 4, "height": HEIGHT / 4}
    of_image = [{"label": "cat", "coordinates": coordinates}]
    return {"create.json": json.dumps([{"image": f"{n}.png", "annotations": of_image} for n in range(3)])}


def write_files(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(("write", "named"), [(label_studio_yolo, "."), (cvat_yolo, "."), (create_ml, "create.json")])
def test_exports_without_a_data_yaml(tmp_path, write, named):
    pytest.importorskip("supervision")
    write_files(tmp_path, write(tmp_path))
    path, _ = coco_file(tmp_path / named, None, tmp_path / "new" / "annotations.json")
    content = json.loads(path.read_text())
    assert [category["name"] for category in content["categories"]] == ["cat"]
    boxes = [annotation["bbox"] for annotation in content["annotations"]]
    assert boxes == [pytest.approx([0.375 * WIDTH, 0.375 * HEIGHT, WIDTH / 4, HEIGHT / 4], abs=0.01)] * 3


def ultralytics(folder):
    for part, first in (("train", 0), ("val", 3)):
        write_images(folder / "images" / part, first)
    labels = {f"labels/{'val' if n > 2 else 'train'}/{n}.txt": BOX for n in range(6)}
    return {"data.yaml": "path: .\ntrain: images/train\nval: images/val\nnames: [cat]\n", **labels}


def roboflow_yolo(folder):
    for part, first in (("train", 0), ("valid", 3)):
        write_images(folder / part / "images", first)
    labels = {f"{'valid' if n > 2 else 'train'}/labels/{n}.txt": BOX for n in range(6)}
    return {"data.yaml": "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cat']\n", **labels}


def roboflow_coco(folder):
    files = {}
    for part, first in (("train", 0), ("valid", 3)):
        content = make_content(3, first)
        for image in content["images"]:
            image["file_name"] = image["file_name"].split("/")[-1]
            write_picture(folder / part / image["file_name"], seed=image["id"])
        files[f"{part}/_annotations.coco.json"] = json.dumps(content)
    return files


def ultralytics_elsewhere(folder):
    files = ultralytics(folder)
    return {**files, "data.yaml": files["data.yaml"].replace("path: .", "path: ../datasets/cats")}


@pytest.mark.parametrize("write", [ultralytics, ultralytics_elsewhere, roboflow_yolo, roboflow_coco])
def test_an_exports_own_validation_set_is_used(tmp_path, write):
    pytest.importorskip("supervision")
    write_files(tmp_path, write(tmp_path))
    project = start_project(tmp_path, None, tmp_path / "new", name="cats", decode=False)
    assert project.sentences[0].startswith("The export's own validation set is used")
    train, val = ({image["file_name"] for image in _content(part)["images"]} for part in project.check.sets)
    assert len(train) == len(val) == 3
    assert not train & val
    assert not (tmp_path / "new" / "val.json").exists()


def _content(part):
    return json.loads(part.annotation_file.read_text())


def test_no_validation_set(tmp_path):
    write_files(tmp_path, {"train.json": json.dumps(make_content(3))})
    assert own_validation(tmp_path) is own_validation(tmp_path / "train.json") is None


def test_several_files_in_a_folder(tmp_path):
    write_files(tmp_path, {"first.json": json.dumps(make_content(3))})
    assert coco_file(tmp_path, None, tmp_path / "out.json") == (tmp_path / "first.json", tmp_path)
    write_files(tmp_path, {"second.json": json.dumps(make_content(3))})
    with pytest.raises(UserError, match=r"holds several COCO files \(first\.json, second\.json\); name one"):
        coco_file(tmp_path, None, tmp_path / "out.json")


@pytest.mark.parametrize("named", [".", "Annotations"])
def test_pascal_voc_in_its_folders(tmp_path, named):
    pytest.importorskip("supervision")
    write_images(tmp_path / "JPEGImages")
    write_files(tmp_path, {f"Annotations/{n}.xml": VOC.format(n) for n in range(3)})
    path, images = coco_file(tmp_path / named, None, tmp_path / "new" / "annotations.json")
    assert images == tmp_path / "JPEGImages"
    assert [image["file_name"] for image in json.loads(path.read_text())["images"]] == ["0.png", "1.png", "2.png"]


def test_several_folders_to_train_on(tmp_path):
    write_files(tmp_path, {**ultralytics(tmp_path), "data.yaml": "train: [images/a, images/b]\nnames: [cat]\n"})
    with pytest.raises(UserError, match="names 2 folders to train on, images/a first; put all images"):
        coco_file(tmp_path, None, tmp_path / "new.json")
    write_files(tmp_path, {"data.yaml": "train: [images/train]\nval: [images/val]\nnames: [cat]\n"})
    assert own_validation(tmp_path) == (tmp_path, tmp_path / "images" / "val")


def test_a_validation_set_that_is_not_there_is_told(tmp_path, caplog):
    data = "train: images/train\nval: images/dev\nnames: [cat]\n"
    write_files(tmp_path, {**ultralytics(tmp_path), "data.yaml": data})
    assert own_validation(tmp_path) == (tmp_path, tmp_path / "images" / "val")
    shutil.rmtree(tmp_path / "images" / "val")
    assert own_validation(tmp_path) is None
    assert "names val images/dev, which is not there or has no labels; it is left out" in caplog.text


LABELME = {
    "shapes": [{"label": "cat", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}],
    "imageHeight": HEIGHT,
    "imageWidth": WIDTH,
}
VOC = (
    "<annotation><filename>{}.png</filename><object><name>cat</name>"
    "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)
CVAT = '<annotations><image id="0" name="0.png" width="32" height="24">{}</image></annotations>'
VIA = {"0.png1": {"filename": "0.png", "regions": [{"region_attributes": {"label": "cat"}}]}}


def labelme(number, **changes):
    return json.dumps({**LABELME, "imagePath": f"{number}.png", **changes})


@pytest.mark.parametrize(
    ("files", "named", "sentence"),
    [
        ({"a/0.json": labelme(0), "a/1.json": labelme(1)[:-9]}, "a", r"a/1\.json cannot be converted from .* LabelMe"),
        (
            {"a/0.json": labelme(0), "a/1.json": labelme(1, shapes=[{"shape_type": "polygon"}])},
            "a",
            r"a/1\.json cannot be converted",
        ),
        ({"a/0.xml": VOC.format(0), "a/1.xml": VOC.format(1)[:-9]}, "a", r"a/1\.xml cannot be converted .* Pascal VOC"),
        ({"c.xml": CVAT.format('<box label="cat" xtl="1"/>')}, "c.xml", r"c\.xml: box 0 of image 0\.png .*no 'ytl'"),
        (
            {"c.xml": CVAT.format('<box xtl="1"/>')},
            "c.xml",
            r"c\.xml: box 0 of image 0\.png cannot be read \(no 'label",
        ),
        ({"v.json": json.dumps(VIA)}, "v.json", r"v\.json: region 0 of image 0\.png .*\(no 'shape_attributes'\)"),
        ({"data.yaml": "train: images\n"}, "data.yaml", r"data\.yaml names no classes; add names"),
        ({"a.csv": "filename,x\n"}, "a.csv", r"a\.csv is a table, which no tool writes alike; export COCO's format"),
        ({"a.xml": VOC.format(0)}, "a.xml", r"a\.xml is not CVAT's; name the folder, if it is one of Pascal VOC's"),
        ({"p.json": '[{"id": 1, "from_name": "l", "to_name": "i"}]'}, "p.json", "p.json: task 1 names no picture"),
        ({"p.json": '[{"image_id": 1, "score": 0.5}]'}, "p.json", "looks like a results file, which tools/evaluate"),
        ({"p.json": '{"type": "FeatureCollection"}'}, "p.json", r"images and categories missing \(it looks like GeoJ"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, files, named, sentence):
    pytest.importorskip("supervision")
    write_images(tmp_path / "images")
    write_files(tmp_path, files)
    with pytest.raises(UserError, match=sentence):
        start_project(tmp_path / named, tmp_path / "images", tmp_path / "new", decode=False)
