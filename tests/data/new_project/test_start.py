"""The guided start: split, choices and config from the data, and the forms of annotation tools."""

import itertools
import json
import re

import pytest
import yaml
from PIL import Image

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.new_project import start_project
from eql_d2.data.new_project.choices import method_of, schedule_of
from eql_d2.data.new_project.splitting import split_by_image
from eql_d2.data.new_project.tool_formats import coco_file
from eql_d2.engine import load_config
from eql_d2.errors import UserError
from eql_d2.long_tail import CategoryCounts
from tests.data.small_set import HEIGHT, WIDTH, make_content, write_picture, write_set

SQUARE = [4, 4, 8, 8]


def counts_of(image_counts, num_images=1000):
    k = len(image_counts)
    names = tuple(f"c{i}" for i in range(k))
    return CategoryCounts(tuple(range(1, k + 1)), names, tuple(image_counts), tuple(image_counts), num_images)


def test_a_schedule_in_epochs():
    schedule = schedule_of(1000, batch=4, epochs=20)
    assert (schedule.iterations, schedule.period) == (5000, 250)
    assert schedule.base_lr == pytest.approx(0.02 * 4 / 16)
    assert schedule.steps == (3333, 4444)
    assert schedule_of(117_000, batch=16).epochs == 12
    assert schedule_of(30, batch=4).epochs == 100
    assert schedule_of(1, batch=4, epochs=1).iterations >= 10


def test_the_method_follows_the_tail():
    assert method_of(counts_of([50])).predictor == "SoftmaxPredictor"
    assert method_of(counts_of([50, 40, 30])).sampler == "TrainingSampler"
    moderate = method_of(counts_of([100, 50, 10]))
    assert (moderate.predictor, moderate.sampler) == ("SoftmaxPredictor", "RepeatFactorTrainingSampler")
    assert moderate.repeat_threshold == 0.05
    assert method_of(counts_of([900, 40, 2, 0])).predictor == "SeesawPredictor"


def test_a_split_has_every_class_that_can_be_parted_in_both_sets(tmp_path):
    content = make_content(30)
    content["categories"] += [{"id": 7, "name": "rare"}, {"id": 8, "name": "single"}]
    content["annotations"][3]["category_id"] = content["annotations"][17]["category_id"] = 7
    content["annotations"][9]["category_id"] = 8
    path = write_set(tmp_path, "all.json", content)
    splits = [split_by_image(open_annotations(path), tmp_path / str(i), 0.2, seed=i // 2) for i in range(4)]
    texts = [(split.train.read_text(), split.val.read_text()) for split in splits]
    assert texts[0] == texts[1] != texts[2] == texts[3]
    for split in splits:
        train, val = (json.loads(path.read_text()) for path in (split.train, split.val))
        ids = [{image["id"] for image in part["images"]} for part in (train, val)]
        assert not ids[0] & ids[1]
        assert len(ids[0]) + len(ids[1]) == 30
        assert len(ids[1]) == 6
        classes = [{a["category_id"] for a in part["annotations"]} for part in (train, val)]
        assert classes == [{3, 5, 7, 8}, {3, 5, 7}]
        assert train["categories"] == val["categories"]
        assert "1 class is in one set only, too rare to be parted: single" in split.sentence


def test_groups_stay_together(tmp_path):
    content = make_content(12)
    for image in content["images"]:
        image["video"] = image["id"] // 3
    annotations = open_annotations(write_set(tmp_path, "all.json", content))
    split = split_by_image(annotations, tmp_path / "parts", 0.3, group_by="video")
    videos = [{i["video"] for i in json.loads(path.read_text())["images"]} for path in (split.train, split.val)]
    assert all(videos)
    assert not videos[0] & videos[1]
    with pytest.raises(UserError, match=r"--group-by is 'site', which image 10 of .* lacks"):
        split_by_image(annotations, tmp_path / "others", group_by="site")
    with pytest.raises(UserError, match="has 1 group, which cannot be parted"):
        split_by_image(annotations, tmp_path / "others", group_by="folder")


def test_from_one_file_to_a_config_that_loads_anywhere(tmp_path, monkeypatch):
    write_set(tmp_path, "all.json", make_content(8))
    monkeypatch.chdir(tmp_path)
    project = start_project("all.json", ".", "birds", name="birds", batch=2, epochs=3)
    monkeypatch.chdir("/")
    cfg = load_config(str(tmp_path / "birds" / "birds.yaml"))
    assert [entry["name"] for entry in cfg.DATASETS.CUSTOM] == ["birds_train", "birds_val"]
    assert {entry["images"] for entry in cfg.DATASETS.CUSTOM} == {str(tmp_path)}
    assert [len(open_annotations(entry["annotations"])) for entry in cfg.DATASETS.CUSTOM] == [6, 2]
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BEST_METRIC) == (2, 10, "segm/AP")
    assert cfg.MODEL.WEIGHTS.startswith("detectron2://COCO-InstanceSegmentation")
    assert cfg.MODEL.WEIGHTS_MATCH_CLASSES
    assert "6 images train and 2 (25 %) validate" in " ".join(project.sentences)
    with pytest.raises(UserError, match=r"birds.yaml is there already"):
        start_project(tmp_path / "all.json", tmp_path, tmp_path / "birds", name="birds")


def test_a_project_moves_with_its_bases(tmp_path, monkeypatch):
    write_set(tmp_path / "here", "all.json", make_content(8))
    project = start_project(tmp_path / "here" / "all.json", tmp_path / "here", tmp_path / "here" / "p", epochs=1)
    assert str(tmp_path) not in re.sub("(?m)^#.*$", "", project.config_file.read_text())
    expected = load_config(str(project.config_file))
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.setenv("EQL_D2_CONFIGS", str(tmp_path / "no_configs"))
    cfg = load_config(str(tmp_path / "there" / "p" / "my.yaml"))
    assert cfg.dump().replace(str(tmp_path / "there"), "") == expected.dump().replace(str(tmp_path / "here"), "")
    assert cfg.MODEL.ROI_HEADS.NAME == "LongTailROIHeads"
    assert cfg.INPUT.MASK_FORMAT == "polygon"


def test_boxes_alone_and_two_files(tmp_path):
    for name, first in (("train.json", 0), ("val.json", 8)):
        content = make_content(6, first)
        for annotation in content["annotations"]:
            del annotation["segmentation"]
        write_set(tmp_path, name, content)
    start_project(tmp_path / "train.json", tmp_path, tmp_path / "p", val=tmp_path / "val.json", pretrained="imagenet")
    cfg = load_config(str(tmp_path / "p" / "my.yaml"))
    assert not cfg.MODEL.MASK_ON
    assert cfg.SOLVER.BEST_METRIC == "bbox/AP"
    assert cfg.MODEL.WEIGHTS == "detectron2://ImageNetPretrained/MSRA/R-50.pkl"


def test_defects_are_told_before_anything_is_written(tmp_path):
    content = make_content(6)
    content["annotations"][2]["bbox"] = [99, 99, 5, 5]
    path = write_set(tmp_path, "all.json", content)
    with pytest.raises(UserError, match=r"The train set: annotation 102 .*has a box outside its image;.*--ignore"):
        start_project(path, tmp_path, tmp_path / "p")
    assert not (tmp_path / "p").exists()
    start_project(path, tmp_path, tmp_path / "p", ignore_defects=True)
    assert load_config(str(tmp_path / "p" / "my.yaml")).DATASETS.IGNORE_DEFECTS


# --- the forms of annotation tools ------------------------------------------------------------------------


def coco_export(folder, path, **of_image):
    """A COCO file with the peculiarities of a tool, its pictures under ``images``."""
    content = make_content(4)
    for number, image in enumerate(content["images"]):
        image.update(of_image, file_name=f"{number:03d}.jpg")
        write_picture(folder / "images" / f"{number:03d}.jpg", number)
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("path", "of_image"),
    [
        # CVAT's "COCO 1.0", with the empty URLs that it writes.
        (
            "annotations/instances_default.json",
            {"coco_url": "", "flickr_url": "", "license": 0},
        ),
        # Label Studio's COCO export.
        ("result.json", {}),
        # VGG Image Annotator's "Export annotations (COCO format)".
        ("annotations.json", {"coco_url": "", "date_captured": ""}),
        # Roboflow's COCO export.
        ("_annotations.coco.json", {"extra": {"name": "x.jpg"}}),
    ],
)
def test_exports_in_cocos_format_are_read(tmp_path, path, of_image):
    coco_export(tmp_path, path, **of_image)
    found, images = coco_file(tmp_path, None, tmp_path / "unused.json")
    assert (found, images) == (tmp_path / path, tmp_path / "images")
    project = start_project(tmp_path, None, tmp_path / "p", epochs=1)
    assert load_config(str(project.config_file)).MODEL.MASK_ON


def write_yolo(folder):
    for split, number in itertools.product(("train", "val"), range(3)):
        write_picture(folder / "images" / split / f"{number}.jpg", number)
        labels = folder / "labels" / split
        labels.mkdir(parents=True, exist_ok=True)
        center = [(4 + 4) / WIDTH, (4 + 4) / HEIGHT, 8 / WIDTH, 8 / HEIGHT]
        (labels / f"{number}.txt").write_text(f"{number % 2} {' '.join(map(str, center))}\n")
    data = {"path": str(folder), "train": "images/train", "val": "images/val", "names": ["cat", "dog"], "nc": 2}
    (folder / "data.yaml").write_text(yaml.safe_dump(data))


def write_labelme(folder):
    for number in range(3):
        write_picture(folder / f"{number}.jpg", number)
        shape = {
            "label": ("cat", "dog")[number % 2],
            "points": [[4, 4], [12, 12]],
            "shape_type": "rectangle",
            "flags": {},
        }
        content = {"version": "5.4.1", "flags": {}, "shapes": [shape], "imagePath": f"{number}.jpg", "imageData": None}
        (folder / f"{number}.json").write_text(json.dumps({**content, "imageHeight": HEIGHT, "imageWidth": WIDTH}))


def write_voc(folder):
    for number in range(3):
        write_picture(folder / f"{number}.jpg", number)
        box = "<xmin>5</xmin><ymin>5</ymin><xmax>13</xmax><ymax>13</ymax>"
        (folder / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.jpg</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height>"
            f"<depth>3</depth></size><object><name>{('cat', 'dog')[number % 2]}</name><bndbox>{box}</bndbox></object>"
            "</annotation>"
        )


@pytest.mark.parametrize("write", [write_yolo, write_labelme, write_voc])
def test_other_forms_are_converted(tmp_path, write):
    pytest.importorskip("supervision", reason="needs supervision: pip install 'eql_d2[convert]'")
    (tmp_path / "set").mkdir()
    write(tmp_path / "set")
    found, images = coco_file(tmp_path / "set", None, tmp_path / "out" / "annotations.json")
    annotations = open_annotations(found)
    assert [record["name"] for record in annotations.category_records] == ["cat", "dog"]
    assert len(annotations) == 3
    assert [finding for finding in annotations.findings if finding.level == "defect"] == []
    for place in range(3):
        image, (record,) = annotations.records(place)
        assert Image.open(images / image["file_name"]).size == (image["width"], image["height"])
        assert record["bbox"] == pytest.approx(SQUARE, abs=1.01)


def test_an_object_with_a_hole_is_no_crowd(tmp_path):
    """... or with a hole, which supervision writes as a crowd, since a polygon cannot say it."""
    pytest.importorskip("supervision", reason="needs supervision: pip install 'eql_d2[convert]'")
    write_labelme(tmp_path)
    ring = [[2, 2], [20, 2], [20, 20], [2, 20], [2, 10], [8, 10], [8, 14], [14, 14], [14, 8], [8, 8], [8, 9], [2, 9]]
    for number in range(3):
        content = json.loads((tmp_path / f"{number}.json").read_text())
        content["shapes"] = [{"label": "cat", "points": ring, "shape_type": "polygon", "flags": {}}]
        (tmp_path / f"{number}.json").write_text(json.dumps(content))
    found, _ = coco_file(tmp_path, None, tmp_path / "out" / "annotations.json")
    annotations = open_annotations(found)
    assert isinstance(annotations.records(0)[1][0]["segmentation"], dict)
    assert len(annotations.regions) == 3
    assert not annotations.regions.any()
    project = start_project(tmp_path, None, tmp_path / "p", epochs=1)
    assert load_config(str(project.config_file)).INPUT.MASK_FORMAT == "bitmask"  # a polygon cannot have the hole


def test_a_folder_of_no_known_form(tmp_path):
    with pytest.raises(UserError, match=r"is a folder without a COCO JSON file, a YOLO data\.yaml"):
        coco_file(tmp_path, None, tmp_path / "x.json")
    with pytest.raises(UserError, match="does not exist"):
        coco_file(tmp_path / "nowhere", None, tmp_path / "x.json")
