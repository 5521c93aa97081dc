"""What is wrong or remarkable about annotation files, each case made on purpose in a file that is otherwise good."""

import copy
import logging
import pickle

import orjson
import pytest
from detectron2.data import DatasetCatalog

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.findings import Finding, FindingCounter
from eql_d2.data.annotations.lvis_format import load_lvis_format
from eql_d2.data.checks.before_start import check_dataset
from eql_d2.data.checks.mask_findings import mask_findings
from eql_d2.data.registration import register_lvis_format
from eql_d2.errors import UserError

SQUARE = [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]]
GOOD = {
    "images": [
        {
            "id": image_id,
            "file_name": f"{image_id}.jpg",
            "height": 40,
            "width": 60,
            "neg_category_ids": [],
            "not_exhaustive_category_ids": [],
        }
        for image_id in (1, 2)
    ],
    "annotations": [
        {"id": number, "image_id": 1 + number % 2, "category_id": 1 + number % 3, "bbox": [10, 10, 10, 10], "area": 100}
        | {"segmentation": SQUARE}
        for number in range(1, 7)
    ],
    "categories": [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}, {"id": 3, "name": "cow"}],
}


@pytest.fixture
def path(tmp_path):
    """The annotation file; its images lie beside it."""
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).touch()
    return tmp_path / "annotations.json"


@pytest.fixture
def findings_of(path):
    """The findings in the good file after a change."""

    def write(change):
        content = copy.deepcopy(GOOD)
        change(content)
        path.write_bytes(orjson.dumps(content))
        return open_annotations(path)

    return write


def annotation(**values):
    """Changes annotation 3, of image 2."""
    return lambda content: content["annotations"][2].update(values)


def without(kind, index, key):
    return lambda content: content[kind][index].pop(key)


def test_a_good_file_has_none(findings_of):
    assert findings_of(lambda content: None).findings == ()


def test_an_area_may_be_that_of_the_image_and_a_little_more(findings_of):
    """Areas are rounded, and those of polygons along the edges come out larger."""
    whole = {"bbox": [0, 0, 60, 40], "segmentation": None}
    annotations = findings_of(annotation(area=1.01 * 60 * 40 + 0.9, **whole))
    assert [finding.level for finding in annotations.findings] == ["remark"]  # that there is no mask


def test_crowds_alone_train_nothing(findings_of):
    def to_crowds(content):
        for record in content["annotations"]:
            record["iscrowd"] = 1

    (defect,) = (finding for finding in findings_of(to_crowds).findings if finding.level == "defect")
    assert defect.kind == "crowds only"
    assert defect.sentence == (
        "all 6 annotations are crowds (iscrowd or ignore 1), which train nothing; where each is one object, as CVAT's "
        "brush masks are, write 0"
    )


@pytest.mark.parametrize(("records", "number_anew"), [("images", False), ("categories", False), ("annotations", True)])
def test_annotations_alone_may_do_without_ids(findings_of, records, number_anew):
    (finding,) = findings_of(lambda content: content[records].append(content[records][0])).findings[:1]
    assert finding.sentence.endswith("; number them anew, or leave the ids out") == number_anew


DEFECTS = {
    "image id": (lambda c: c["images"].append(c["images"][0]), "image id 1 occurs 2 times", 6),
    "category id": (lambda c: c["categories"].append({"id": 2, "name": "x"}), "category id 2 occurs 2 times", 6),
    "annotation id": (annotation(id=1), "annotation id 1 occurs 2 times", 5),
    "unknown image": (annotation(image_id=9), "an annotation names the unknown image_id 9", 5),
    "unknown category": (annotation(category_id=9), "an annotation names the unknown category_id 9", 5),
    "no box": (without("annotations", 2, "bbox"), "annotation 3 of image 2 has no bbox", 5),
    "negative box": (
        annotation(bbox=[10, 10, -5, 5], segmentation=None, area=25),
        "annotation 3 of image 2 has a box of negative size",
        5,
    ),
    "box outside": (
        annotation(bbox=[60, 10, 5, 5], segmentation=None, area=25),
        "annotation 3 of image 2 has a box outside its image",
        5,
    ),
    "box above": (
        annotation(bbox=[10, -5, 5, 5], segmentation=None, area=25),
        "annotation 3 of image 2 has a box outside its image",
        5,
    ),
    "negative area": (annotation(area=-1), "annotation 3 of image 2 has an area that is negative or larger than", 5),
    "large area": (annotation(area=9999), "annotation 3 of image 2 has an area that is negative or larger than", 5),
    "area a little too large": (
        annotation(area=1.01 * 60 * 40 + 1.1),
        "annotation 3 of image 2 has an area that is",
        5,
    ),
    "line": (
        annotation(segmentation=[[1, 2, 3, 4]]),
        "annotation 3 of image 2 has a polygon of 2 points where 3 are needed",
        5,
    ),
    "odd": (annotation(segmentation=[[1] * 7]), "annotation 3 of image 2 has a polygon with an odd number", 5),
    "RLE sum": (
        annotation(segmentation={"size": [40, 60], "counts": [9, 9]}),
        "annotation 3 of image 2 has an RLE whose counts do not add up to its size",
        5,
    ),
    "RLE size": (
        annotation(segmentation={"size": [4, 6], "counts": [4, 20]}),
        "annotation 3 of image 2 has an RLE of another size than its image",
        5,
    ),
    "no height": (without("images", 1, "height"), "image 2 has no height", 3),
    "flat image": (lambda c: c["images"][1].update(width=0), "image 2 has a width that is not positive", 3),
    "no name": (without("images", 1, "file_name"), "image 2 has neither coco_url nor file_name", 3),
    "negative class": (
        lambda c: c["images"][0].update(neg_category_ids=[1, 7]),
        "neg_category_ids of image 1 has the unknown category 7",
        6,
    ),
}


@pytest.mark.parametrize("case", DEFECTS)
def test_a_defect_stops_training_with_its_sentence_or_is_left_out(findings_of, path, tmp_path, case, caplog):
    change, sentence, left = DEFECTS[case]
    annotations = findings_of(change)
    (defect,) = [finding for finding in annotations.findings if finding.level == "defect"]
    assert defect.sentence.startswith(sentence)
    assert defect.count == 1
    register_lvis_format("defective", path, tmp_path)
    for refuse in (lambda: check_dataset("defective"), lambda: load_lvis_format(path, tmp_path)):
        with pytest.raises(UserError) as error:
            refuse()
        assert str(error.value).startswith(f"Annotation file {path}: {defect}")
        assert "--ignore" in str(error.value)
        assert "\n" not in str(error.value)
    with caplog.at_level(logging.WARNING):
        check_dataset("defective", ignore_defects=True)
    assert f"{defect} (left out)" in caplog.text
    dataset = load_lvis_format(path, tmp_path, ignore_defects=True)
    assert sum(len(image["annotations"]) for image in dataset) == left
    assert sum(len(summary["annotations"]) for summary in dataset.summaries()) == left


REMARKS = {
    "box without area": (annotation(bbox=[10, 10, 0, 10], segmentation=None), "training leaves it out"),
    "box that sticks out of its image": (
        annotation(bbox=[50, 10, 13, 10], segmentation=None, area=130),
        "training cuts it off",
    ),
    "annotation without segmentation": (annotation(segmentation=[]), "it trains boxes, not masks"),
    "annotation without area": (without("annotations", 2, "area"), "the set can train, not evaluate"),
    "category name that occurs twice": (lambda c: c["categories"][0].update(name="bee"), "stay apart"),
    "category without instances": (lambda c: c["categories"].append({"id": 7, "name": "dog"}), "7 ('dog') has no inst"),
}


@pytest.mark.parametrize("kind", REMARKS)
def test_a_remark_is_told_and_training_goes_on(findings_of, path, tmp_path, kind, caplog):
    change, words = REMARKS[kind]
    findings = {finding.kind: finding for finding in findings_of(change).findings}
    assert set(findings) - {kind} <= {"annotation without segmentation"}
    assert findings[kind].level == "remark"
    assert words in findings[kind].sentence
    register_lvis_format("remarkable", path, tmp_path)
    with caplog.at_level(logging.WARNING):
        check_dataset("remarkable")
    assert findings[kind].sentence in caplog.text
    assert sum(len(image["annotations"]) for image in load_lvis_format(path, tmp_path)) == 6


@pytest.mark.parametrize("key", ["area"])
def test_what_cannot_be_evaluated_is_told_before_training(findings_of, path, tmp_path, key):
    findings_of(without("annotations", 2, key))
    register_lvis_format("for_training", path, tmp_path)
    check_dataset("for_training")
    with pytest.raises(UserError, match=f"has no {key}: .*; add it, or evaluate on another set"):
        check_dataset("for_training", evaluated=True)


def test_missing_images_stop_training_at_its_start(findings_of, path, tmp_path, caplog):
    findings_of(lambda content: None)
    (tmp_path / "2.jpg").unlink()
    register_lvis_format("incomplete", path, tmp_path)
    sentence = rf"^Annotation file {path}: image 2.jpg is not in the image folder {tmp_path}; .* lists them all"
    with pytest.raises(UserError, match=f"{sentence}, and --ignore leaves"):
        check_dataset("incomplete")
    check_dataset("incomplete", ignore_defects=True)
    assert "image 2.jpg is not in the image folder" in caplog.text
    dataset = DatasetCatalog.get("incomplete")
    assert [image["image_id"] for image in dataset] == [1]
    assert [len(summary["annotations"]) for summary in dataset.summaries()] == [len(dataset[-1]["annotations"])] == [3]
    assert pickle.loads(pickle.dumps(dataset))[0] == dataset[0]
    with pytest.raises(UserError, match=rf"{sentence}\.$"):  # metrics on the rest would be of another set
        check_dataset("incomplete", ignore_defects=True, evaluated=True)


def test_many_kinds_are_counted(findings_of, path, tmp_path):
    def change(content):
        for number in (0, 1, 2):
            content["annotations"][number]["bbox"] = [99, 99, 1, 1]
        content["annotations"][3]["area"] = -5
        content["annotations"][4]["segmentation"] = [[1, 2]]

    annotations = findings_of(change)
    assert sorted(finding.count for finding in annotations.findings if finding.level == "defect") == [1, 1, 3]
    with pytest.raises(UserError, match=r"has .*, and 2 other kinds of defect; tools/check_dataset.py lists them all"):
        load_lvis_format(path, tmp_path)


@pytest.mark.parametrize(
    ("kind", "change", "consequence"),
    [
        ("a mask without area", {"segmentation": [[10, 10, 20, 20, 15, 15]]}, "it trains as an empty mask"),
        ("a mask that leaves its box", {"bbox": [10, 10, 10, 5]}, "training uses both as they are"),
        ("an area that is not its mask's", {"area": 10}, "evaluation sorts it by size wrongly"),
    ],
)
def test_masks_are_measured_by_the_doctor(findings_of, kind, change, consequence):
    annotations = findings_of(annotation(**change))
    assert annotations.findings == ()  # nothing for every start of training
    (finding,) = mask_findings(annotations)
    assert (finding.level, finding.kind, finding.count) == ("remark", kind.split(" ", 1)[1], 1)
    assert finding.sentence == f"annotation 3 of image 2 has {kind}: {consequence}"


def test_a_crowd_may_leave_its_box(findings_of):
    annotations = findings_of(annotation(iscrowd=1, bbox=[10, 10, 10, 5], area=3))
    assert annotations.findings == mask_findings(annotations) == ()


def test_geometry_in_chunks_is_the_same(findings_of, monkeypatch):
    """Polygons are measured a chunk at a time; several polygons of one annotation stay together."""

    def change(content):
        content["annotations"][1]["segmentation"] = SQUARE + [[0, 0, 40, 0, 40, 30, 0, 30]]
        content["annotations"][4]["area"] = 30

    expected = mask_findings(findings_of(change))
    assert {finding.kind for finding in expected} == {"mask that leaves its box", "area that is not its mask's"}
    monkeypatch.setattr("eql_d2.data.annotations.geometry._CHUNK", 3)
    assert mask_findings(findings_of(change)) == expected


def test_the_real_sets_have_no_defects(shared_data, tiny_set):
    photographs = next((shared_data / "coco_photos_lvis_v1").glob("*.json"))
    for path in (shared_data / "lvis_v0.5_val_100.json", photographs, tiny_set / "train.json"):
        assert [str(f) for f in open_annotations(path).findings if f.level == "defect"] == []


def test_counter_keeps_the_first_case():
    counter = FindingCounter()
    counter.add("remark", "dull", "first is dull")
    counter.add("defect", "bad", "second is bad", 2)
    counter.add("remark", "dull", "third is dull", 4)
    bad, dull = Finding("defect", "bad", "second is bad", 2), Finding("remark", "dull", "first is dull", 5)
    assert counter.findings() == (bad, dull)
    assert str(dull) == "first is dull (and 4 more like this)"
