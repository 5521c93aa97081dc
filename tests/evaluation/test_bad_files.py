"""Broken annotation and result files: one sentence that names the entry, or a count of what is left out."""

import json

import pytest

from eql_d2.errors import UserError
from eql_d2.evaluation.evaluate_files import evaluate_files
from tests.evaluation.made_up import as_coco, compressed, fresh, made_up, official, rectangle


@pytest.fixture
def case():
    return made_up(seed=10, num_images=20)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image_id": 99}, "names the unknown image_id 99; give the annotations of the same images"),
        ({"image_id": "three"}, "names the unknown image_id 'three'"),
        ({"category_id": None}, "has the category_id None, not a whole number"),
        ({"score": float("nan")}, "has the score nan, not a finite number"),
        ({"score": float("inf")}, "has the score inf, not a finite number"),
        ({"score": "high"}, "has the score 'high', not a finite number"),
        ({"bbox": [1.0, 2.0, -3.0, -4.0]}, r"has a bbox of negative size, \[1.0, 2.0, -3.0, -4.0\]"),
        ({"bbox": [1.0, 2.0, float("nan"), 4.0]}, r"has the bbox \[1.0, 2.0, nan, 4.0\], not four finite numbers"),
        ({"bbox": [1.0, "a", -3.0, 4.0]}, r"has the bbox \[1.0, 'a', -3.0, 4.0\], not four finite numbers"),
        ({"bbox": {}}, "has the bbox {}, not four finite numbers"),
        ({"segmentation": [[1, 1, 5, 5]]}, "has a polygon of 2 points; it takes three or more"),
        (
            {"segmentation": {"size": [20, 20], "counts": "0"}},
            r"has an RLE of another size than its image \(\[20, 20\], where the image has \[200, 200\]\)",
        ),
        ({"segmentation": []}, "has no segmentation"),
        ({"segmentation": "[[1, 1, 5, 5, 1, 5]]"}, "has a text for its segmentation; write the list"),
    ],
)
def test_a_broken_result_is_named(case, run, change, expected):
    case[1][17].update(change)
    with pytest.raises(UserError, match=rf"^Results file .*r.json: result 17 \(counted from 0\) {expected}"):
        run(*case)


def test_missing_keys_are_named(case, run):
    del case[1][4]["score"], case[1][4]["image_id"]
    with pytest.raises(UserError, match=r"result 4 \(counted from 0\) has no image_id and no score\."):
        run(*case)
    with pytest.raises(UserError, match=r"result 0 .* has neither bbox nor segmentation"):
        run(case[0], [{"image_id": 1, "category_id": 1, "score": 0.5}])


def test_what_the_official_package_drops_is_counted(case, run, caplog):
    pytest.importorskip("lvis")
    content, results = case
    for number in (3, 8):
        results[number]["category_id"] = 99
    for number in (5, 9, 11):
        results[number]["bbox"][2] *= -1
    expected = pytest.approx(official(content, results, "bbox"), abs=1e-9, nan_ok=True)
    assert run(content, results, ["bbox"])["bbox"] == expected
    assert "2 of" in caplog.text
    assert "name a category that is not among the annotations' and are left out" in caplog.text
    assert "the first is result 3." in caplog.text
    assert f"3 of {len(results)} results have a box of negative area and are left out" in caplog.text
    # pycocotools counts such a box as a wrong detection, of an area below all ranges.
    with pytest.raises(UserError, match=r"result 5 .* has a bbox of negative size"):
        run(as_coco(content), results, ["bbox"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is not a JSON list of results"),
        ('{"annotations": []}', "is not a JSON list of results"),
        ("[1, 2]", r"result 0 \(counted from 0\) is not a dictionary"),
        ("[", r"is truncated or not JSON: result 0 \(counted from 0\) cannot be read"),
        ("[{}, {]", r"result 0 .* has no image_id"),
    ],
)
def test_files_that_are_no_results(case, run, text, expected):
    with pytest.raises(UserError, match=expected):
        run(case[0], text)


@pytest.mark.parametrize("rest", [1, 2, 30, 400])
def test_a_truncated_results_file(case, run, rest):
    text = json.dumps(case[1])[:-rest]
    place, whole = 1, 0
    while text[place:].count("}") > 1:  # each result has one in its mask, and one at its end
        place = text.index("}", text.index("}", place) + 1) + 1
        whole += 1
    with pytest.raises(UserError, match=rf"r.json is truncated or not JSON: result {whole} \(counted from 0\)"):
        run(case[0], text)


def test_rubbish_in_the_middle_and_at_the_end(case, run):
    text = json.dumps(case[1])
    places = [i for i in range(len(text)) if text.startswith("}, {", i)]
    broken = text[: places[6] + 1] + " " + text[places[6] + 2 :]
    with pytest.raises(UserError, match="is truncated or not JSON: result"):
        run(case[0], broken)
    with pytest.raises(UserError, match="goes on after the end of its list"):
        run(case[0], text + "[]")


@pytest.mark.parametrize("part", ["annotations", "results"])
def test_files_that_are_not_there(case, run, tmp_path, part):
    run(*case)
    paths = {"annotations": tmp_path / "a.json", "results": tmp_path / "r.json", part: tmp_path / "none.json"}
    with pytest.raises(UserError, match=r"none.json cannot be read \(No such file or directory\)"):
        evaluate_files(**paths)
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        evaluate_files(**{**paths, part: tmp_path})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"images": [', "a.json is truncated or not JSON"),
        ("[]", "is not in the LVIS or COCO format: no list images and annotations and categories"),
        ('{"images": [], "categories": []}', "no list annotations"),
        ('{"images": [], "categories": [], "annotations": []}', "has no annotations, so that there is nothing"),
        ('{"images": [3], "categories": [], "annotations": [{}]}', "an entry of images is not a dictionary"),
        ('{"images": [{"id": 1}], "categories": [], "annotations": [{}]}', "image 1 has no height and no width"),
    ],
)
def test_annotation_files_that_are_none(run, content, expected):
    with pytest.raises(UserError, match=expected):
        run(content, [])


def test_broken_training_annotations(case, run, tmp_path):
    broken = {**fresh(case[0]), "annotations": [{"image_id": 1, "category_id": 77, "bbox": [0, 0, 1, 1]}]}
    broken["images"] = [{**image, "file_name": "x.jpg"} for image in broken["images"]]
    (tmp_path / "train.json").write_text(json.dumps(broken))
    with pytest.raises(UserError, match=r"train.json: an annotation names the unknown category_id 77"):
        run(*case, train_annotations=tmp_path / "train.json")


@pytest.mark.parametrize(
    ("records", "change", "expected"),
    [
        ("annotations", {"segmentation": [[None, 1, 5, 5, 1, 5]]}, "annotation 1 has a polygon with a coordinate that"),
        ("annotations", {"iscrowd": [0]}, r"annotation 1 has the iscrowd \[0\]; it is 0 or 1"),
        ("annotations", {"category_id": True}, "annotation 1 names the unknown category_id True"),
        ("annotations", {"category_id": [1]}, r"annotation 1 names the unknown category_id \[1\]"),
        ("annotations", {"area": -4.0}, "annotation 1 has the area -4.0, which is negative"),
        ("images", {"width": 0}, "image 1 has the width 0, not a positive whole number"),
        ("images", {"height": 20.5}, "image 1 has the height 20.5, not a positive whole number"),
        ("images", {"height": None}, "image 1 has no height"),
    ],
)
def test_a_broken_record_is_named(case, run, records, change, expected):
    content, results = case
    content[records][0].update(change)
    with pytest.raises(UserError, match=expected):
        run(content, results)


@pytest.mark.parametrize(
    ("as_other", "expected"),
    [
        (lambda x, y, w, h: [x, y, x + w, y + h], "bbox looks like x0, y0, x1, y1 in"),
        (lambda x, y, w, h: [x / 200, y / 200, w / 200, h / 200], "they look like shares of the image, from 0 to 1"),
        (lambda x, y, w, h: [y, x, h, w], "bbox looks like y, x, height, width in"),
    ],
)
def test_boxes_of_results_in_another_form_are_told(case, run, caplog, as_other, expected):
    content, results = case
    for result in results:  # a mask over the whole box
        result["segmentation"] = compressed(rectangle(*result["bbox"]))
    run(content, results)
    assert "looks like" not in caplog.text
    for result in results:
        result["bbox"] = as_other(*result["bbox"])
    run(content, results)
    assert expected in caplog.text
    assert "of the annotations" not in caplog.text
