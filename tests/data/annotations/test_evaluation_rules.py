"""What evaluation refuses, record by record, and the finding that says it before training."""

import json

import pytest

from eql_d2.data.annotations import evaluation_rules as rules
from eql_d2.data.annotations.cache import open_annotations

IMAGE = {"id": 1, "width": 60, "height": 40}
OTHER_SIZE = "has an RLE of another size than its image"
GOOD = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12}


@pytest.mark.parametrize("value", [0, -1.5, 2**70])
def test_numbers(value):
    assert rules.is_number(value)
    assert rules.complaint_about_number(value, "score") is None


@pytest.mark.parametrize("value", [True, "1", None, float("nan"), float("-inf"), [1]])
def test_no_numbers(value):
    assert not rules.is_number(value)
    assert rules.complaint_about_number(value, "score") == f"has the score {value!r}, not a finite number"


@pytest.mark.parametrize(
    "box", [None, [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, "4"], (1, 2, 3, 4), [1, 2, 3, float("nan")]]
)
def test_no_boxes(box):
    assert rules.complaint_about_box(box) == f"has the bbox {box!r}, not four finite numbers"


def test_boxes():
    assert rules.complaint_about_box([-5, -5, 0, 0]) is None
    assert rules.complaint_about_box([0, 0, 1, -1]) == "has a bbox of negative size, [0, 0, 1, -1]"


@pytest.mark.parametrize(
    ("mask", "complaint"),
    [
        ({"size": [40, 60], "counts": [2400]}, None),
        (
            {"size": [60, 40], "counts": [2400]},
            f"{OTHER_SIZE} ([60, 40], where the image has [40, 60]: height comes first)",
        ),
        ({"size": [40, 60]}, "has an RLE whose counts are neither a text nor a list of whole numbers"),
        ({"counts": "x"}, "has an RLE without a size [height, width] (it has None)"),
        ([], "has no segmentation"),
        (None, "has no segmentation"),
        ([[0, 0, 4, 0, 4, 4]], None),
        ([[0, 0, 4, 0, 4, 4], [0, 0, 4, 0]], "has a polygon of 2 points; it takes three or more"),
        ([[0, 0, 4, 0, 4, 4, 4]], "has a polygon of 3.5 points; it takes three or more"),
        ([{"counts": "x"}] * 2, "has a list of several run lengths for its mask; merge them into one"),
        ([5], "has a polygon of 0 points; it takes three or more"),
    ],
)
def test_masks(mask, complaint):
    assert rules.complaint_about_mask(mask, IMAGE) == complaint


def test_images():
    assert rules.complaint_about_image(IMAGE, federated=False) is None
    assert rules.complaint_about_image({"id": 1, "width": 1, "height": 1}, federated=False) is None
    assert rules.complaint_about_image({"id": 1}, federated=False) == "has no height and no width"
    missing = rules.complaint_about_image({**IMAGE, "neg_category_ids": []}, federated=True)
    assert missing == "has no not_exhaustive_category_ids"


@pytest.mark.parametrize("frequency", ["r", "c", "f", "", None])
def test_groups(frequency):
    assert rules.complaint_about_frequency({"frequency": frequency}) is None
    assert rules.complaint_about_frequency({}) is None


def test_no_group():
    assert rules.complaint_about_frequency({"frequency": "often"}) == "has the frequency 'often'; it must be r, c or f"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({}, None),
        ({"id": 0}, "has not a positive whole number for its id"),
        ({"id": True}, "has not a positive whole number for its id"),
        ({"id": "1"}, "has not a positive whole number for its id"),
        ({"id": 7}, "is there twice; ids have to differ"),
        ({"image_id": 3}, "names the unknown image_id 3"),
        ({"category_id": 3}, "names the unknown category_id 3"),
        ({"bbox": [1, 2, -3, 4]}, "has a bbox of negative size"),
        ({"area": 0}, None),
        ({"area": -1}, "has the area -1, which is negative"),
        ({"area": None}, "has the area None, not a finite number"),
    ],
)
def test_annotations(change, complaint):
    seen = {7}
    told = rules.complaint_about_annotation({**GOOD, **change}, seen, images={1}, categories={1})
    assert (told is None) if complaint is None else told.startswith(complaint)
    assert complaint is not None or seen == {7, 1}


@pytest.mark.parametrize("key", ["id", "image_id", "category_id", "bbox", "area"])
def test_an_annotation_that_lacks_a_key(key):
    record = {name: value for name, value in GOOD.items() if name != key}
    assert rules.complaint_about_annotation(record, set(), {1}, {1}) == f"has no {key}"
    assert rules.complaint_about_annotation([], set(), {1}, {1}) == "is a list, not a dictionary"


@pytest.fixture
def finding(tmp_path):
    """The finding of a file of two images with an annotation each, after a change."""

    def of(change, federated=False, groups_known=True):
        lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        content = {
            "images": [{**IMAGE, "id": i, "file_name": f"{i}.jpg", **lists} for i in (1, 2)],
            "annotations": [{**GOOD, "id": i, "image_id": i} for i in (1, 2)],
            "categories": [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}],
        }
        change(content)
        path = tmp_path / "val.json"
        path.write_text(json.dumps(content))
        return rules.evaluation_finding(open_annotations(path), federated, groups_known)

    return of


def test_a_good_file_has_no_finding(finding):
    assert finding(lambda content: None, federated=True, groups_known=False) is None


def test_the_first_complaint_and_their_number(finding):
    def no_areas(content):
        for annotation in content["annotations"]:
            del annotation["area"]

    told = finding(no_areas)
    assert (told.level, told.count) == ("defect", 2)
    assert told.sentence == "annotation 1 of image 1 has no area, which evaluation needs"


def test_lvis_lists_are_needed_by_lvis_rules_alone_and_only_where_there_are_annotations(finding):
    def without(content):
        for image in content["images"]:
            del image["neg_category_ids"], image["not_exhaustive_category_ids"]

    def without_annotations(content):
        without(content)
        content["annotations"] = []

    assert finding(without) is None
    told = finding(without, federated=True)
    assert told.sentence.startswith("image 1 has no neg_category_ids and no not_exhaustive_category_ids, which")
    assert told.count == 2
    assert finding(without_annotations, federated=True) is None


def test_words_for_groups_matter_where_nothing_else_says_them(finding):
    def words(content):
        content["categories"][1]["frequency"] = "seldom"

    assert finding(words, groups_known=True) is None
    told = finding(words, groups_known=False)
    assert told.sentence == "category 2 has the frequency 'seldom'; it must be r, c or f, which evaluation needs"
