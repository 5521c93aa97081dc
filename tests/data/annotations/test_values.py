"""Values as annotation tools write them: what is made right, where, and what is refused by name."""

import codecs
import copy
import gzip
import json

import numpy as np
import orjson
import pytest
from pycocotools import mask as mask_api

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.run_lengths import total_pixels
from eql_d2.data.annotations.values import (
    clean_annotation,
    clean_content,
    clean_image,
    clean_result,
    not_finite,
    number,
    whole,
)
from eql_d2.errors import UserError
from eql_d2.evaluation.evaluate_files import evaluate_files

MASK = np.zeros((40, 60), np.uint8, order="F")
MASK[10:20, 10:20] = 1
RLE = {"size": [40, 60], "counts": mask_api.encode(MASK)["counts"].decode()}
CLEAN = {
    "images": [{"id": i, "file_name": f"{i}.jpg", "width": 60, "height": 40} for i in (1, 2)],
    "annotations": [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [10, 10, 10, 10], "area": 100, "segmentation": RLE}
        for i in (1, 2)
    ],
    "categories": [{"id": 1, "name": "ant"}],
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "annotations.json"


def changed(key, values, index=1):
    content = copy.deepcopy(CLEAN)
    content[key][index].update(values)
    return content


def read(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    annotations = open_annotations(path)
    images, records = zip(*(annotations.records(index) for index in range(len(annotations))), strict=True)
    return annotations, list(images), [record for of_image in records for record in of_image]


@pytest.mark.parametrize("word", ["r", "rare", "Rare "])
def test_frequencies_may_be_words(path, word):
    annotations, *_ = read(path, changed("categories", {"frequency": word}, index=0))
    assert annotations.category_records == [{**CLEAN["categories"][0], "frequency": "r"}]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("images", {"width": 60.0, "height": "40"}),
        ("images", {"coco_url": "", "neg_category_ids": None}),
        ("images", {"id": "2"}),
        ("annotations", {"iscrowd": None, "ignore": ""}),
        ("annotations", {"image_id": 2.0, "category_id": "1", "id": "2"}),
        ("annotations", {"bbox": ["10", 10.0, 10, "1e1"], "area": "100"}),
        ("annotations", {"segmentation": {"size": [40.0, "60"], "counts": [410] + [10, 30] * 9 + [10, 1620]}}),
        ("categories", {"id": 1.0, "frequency": None}),
    ],
)
def test_what_says_the_same_is_read_as_the_same(path, key, values):
    index = 0 if key == "categories" else 1
    annotations, images, records = read(path, changed(key, values, index))
    assert [f for f in annotations.findings if f.level == "defect"] == []
    assert images == CLEAN["images"]
    assert records == CLEAN["annotations"]
    assert [type(image["width"]) for image in images] == [int, int]
    assert annotations.category_records == CLEAN["categories"]


@pytest.mark.parametrize(("value", "flag"), [(True, 1), ("1", 1), (1.0, 1), ("true", 1), (False, 0), ("0", 0), (3, 1)])
def test_flags_become_0_or_1(path, value, flag):
    annotations, _, records = read(path, changed("annotations", {"iscrowd": value}))
    assert records[1]["iscrowd"] == flag
    assert annotations.regions.tolist() == [False, bool(flag)]


@pytest.mark.parametrize("empty", [None, [], [[]], "", {}])
def test_no_mask_is_no_mask(path, empty):
    annotations, _, records = read(path, changed("annotations", {"segmentation": empty}))
    assert "segmentation" not in records[1]
    assert [finding.kind for finding in annotations.findings] == ["annotation without segmentation"]


def test_one_polygon_without_the_list_around_it(path):
    square = [10, 10, 20, 10, 20, 20, 10, 20]
    _, _, records = read(path, changed("annotations", {"segmentation": square}))
    assert records[1]["segmentation"] == [square]


@pytest.mark.parametrize("first", [0, -1, None, 2**63 + 7])
def test_annotations_are_numbered_where_their_ids_do_not_serve(path, first):
    content = changed("annotations", {"id": first}, index=0)
    _, _, records = read(path, content)
    expected = [first, 2] if first == 2**63 + 7 else [1, 2]
    assert [record["id"] for record in records] == expected
    cleaned = clean_content(copy.deepcopy(content))
    assert [annotation["id"] for annotation in cleaned["annotations"]] == expected


def test_unsigned_hashes_are_ids(path, tmp_path):
    number = 2**64 - 5
    content = changed("images", {"id": number})
    content["annotations"][1]["image_id"] = number
    annotations, images, _ = read(path, content)
    assert annotations.image_ids.tolist() == [1, number]
    assert annotations.ground_truth(number)[0] == images[1]
    results = [{"image_id": number, "category_id": 1, "bbox": [10, 10, 10, 10], "score": 0.5, "segmentation": RLE}]
    (tmp_path / "results.json").write_bytes(orjson.dumps(results))
    metrics = evaluate_files(path, tmp_path / "results.json")
    assert metrics["segm"]["AP"] == metrics["bbox"]["AP"] == pytest.approx(100 * 51 / 101)  # one of two is found


@pytest.mark.parametrize(
    ("key", "values", "sentence"),
    [
        ("images", {"id": -3}, r"images\[1\] has the id -3; ids are whole numbers from 0"),
        ("images", {"id": "a.jpg"}, r"images\[1\]: Expected int, got str"),
        ("images", {"id": 2**64}, r"images\[1\]: an id needs more than 64 bits"),
        ("annotations", {"image_id": 1.5}, r"annotations\[1\]: Expected int, got float"),
        ("annotations", {"category_id": True}, r"annotations\[1\]: Expected int, got bool"),
        ("annotations", {"bbox": ["a", 1, 2, 3]}, r"annotations\[1\]: Expected float, got str"),
    ],
)
def test_what_cannot_be_made_right_is_refused_by_name(path, key, values, sentence):
    with pytest.raises(UserError, match=sentence):
        read(path, changed(key, values))


@pytest.mark.parametrize(
    ("key", "values", "sentence"),
    [
        ("annotations", {"area": float("nan")}, "annotations[1] has area NaN, which is no number"),
        ("annotations", {"bbox": [1, 2, float("inf"), 3]}, "annotations[1] has bbox Infinity, which is no number"),
        ("images", {"width": float("nan")}, "images[1] has width NaN, which is no number"),
        ("images", {"width": 60.5}, "image 2 has a width that is no whole number"),
    ],
)
def test_what_is_no_number_is_a_defect_of_its_entry(path, key, values, sentence):
    annotations, *_ = read(path, changed(key, values))
    assert sentence in [str(finding) for finding in annotations.findings if finding.level == "defect"]
    assert len(annotations.categories) == 1


def test_a_category_without_a_number_is_refused(path):
    with pytest.raises(UserError, match=r"categories\[0\] has id NaN, which is no number"):
        read(path, changed("categories", {"id": float("nan")}, index=0))


def test_nan_in_a_field_that_nobody_reads(path):
    annotations, images, records = read(path, changed("annotations", {"confidence": float("nan")}))
    assert annotations.findings == ()
    assert (images, records[0]) == (CLEAN["images"], CLEAN["annotations"][0])


@pytest.mark.parametrize(
    "packed",
    [
        lambda text: codecs.BOM_UTF8 + text,
        gzip.compress,
        lambda text: gzip.compress(codecs.BOM_UTF8 + text),
        lambda text: codecs.BOM_UTF16_LE + text.decode().encode("utf-16-le"),
        lambda text: codecs.BOM_UTF16_BE + text.decode().encode("utf-16-be"),
    ],
)
def test_text_as_people_have_it(path, tmp_path, packed):
    path.write_bytes(packed(json.dumps(CLEAN).encode()))
    assert len(open_annotations(path)) == 2
    (tmp_path / "results.json").write_bytes(codecs.BOM_UTF8 + b"[]")
    assert evaluate_files(path, tmp_path / "results.json")["bbox"]["AP"] == 0


@pytest.mark.parametrize(("head", "what"), [(b"PK\x03\x04", "zip archive"), (b"\x1f\x8b\x08", "gzip")])
def test_archives_are_named(path, head, what):
    path.write_bytes(head + b"\0" * 50)
    with pytest.raises(UserError, match=what):
        open_annotations(path)


def test_run_lengths_add_up_as_pycocotools_reads_them():
    rng, masks = np.random.default_rng(0), []
    for _ in range(200):
        height, width = rng.integers(1, 50, 2)
        masks.append(np.asfortranarray(rng.random((height, width)) < rng.random(), np.uint8))
    masks.append(np.zeros((3000, 4000), np.uint8, order="F"))
    counts = [mask_api.encode(mask)["counts"] for mask in masks]
    assert total_pixels(counts).tolist() == [mask.size for mask in masks]
    assert [int(total_pixels([text.decode()])[0]) for text in counts] == [mask.size for mask in masks]
    assert total_pixels([]).tolist() == []


def test_texts_that_are_no_run_lengths():
    good = RLE["counts"]
    unended = good[:-1] + chr(ord(good[-1]) + 32)  # its last number is the same, and should go on
    broken = ["", f"b'{good}'", good[:-1], good + "`", unended, "ü", "\n", "o" * 40]
    totals = total_pixels([broken[0], good, *broken[1:], good]).tolist()
    assert totals[1] == totals[-1] == 2400  # whatever stands beside them
    assert 2400 not in totals[:1] + totals[2:-1]


def test_a_text_of_bytes_is_a_defect_and_no_result(path, tmp_path):
    text = {"size": [40, 60], "counts": str(RLE["counts"].encode())}
    annotations, *_ = read(path, changed("annotations", {"segmentation": text}))
    (defect,) = annotations.findings
    assert defect.sentence.startswith("annotation 2 of image 2 has an RLE whose counts do not add up to its size (they")
    path.write_text(json.dumps(CLEAN))
    results = [{"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": mask} for mask in (RLE, text)]
    (tmp_path / "results.json").write_bytes(orjson.dumps(results))
    with pytest.raises(UserError, match=r"result 1 \(counted from 0\) has an RLE whose counts do not add up"):
        evaluate_files(path, tmp_path / "results.json")


def test_results_are_made_right_too(path, tmp_path):
    path.write_text(json.dumps(CLEAN))
    metrics = []
    for image_id, category_id, score in ((1, 1, 0.5), ("1", 1.0, "0.5")):
        result = {"image_id": image_id, "category_id": category_id, "score": score, "bbox": [10, 10, 10, 10]}
        (tmp_path / "results.json").write_bytes(orjson.dumps([result]))
        metrics.append(evaluate_files(path, tmp_path / "results.json")["bbox"])
    assert repr(metrics[0]) == repr(metrics[1])
    assert metrics[0]["AP50"] > 0


def test_clean_records_stay_as_they_are():
    for clean, records in ((clean_image, CLEAN["images"]), (clean_annotation, CLEAN["annotations"])):
        assert [clean(record) for record in records] == records


def test_numbers_in_texts():
    assert [whole(value) for value in (7, 7.0, "7", "7.0", " 7 ", "1e3")] == [7, 7, 7, 7, 7, 1000]
    assert all(type(whole(value)) is int for value in (7.0, "7.0", "1e3"))
    assert [whole(value) for value in (7.5, "a", None, True, [7])] == [7.5, "a", None, True, [7]]
    assert [number(value) for value in ("7", "7.5", "-1e-3", "", "7,5")] == [7, 7.5, -0.001, "", "7,5"]


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"area": 1.0, "bbox": [0.0, 1, 2, 3]}, None),
        ({"area": float("nan")}, "area NaN"),
        ({"bbox": [0, float("-inf"), 2, 3]}, "bbox -Infinity"),
        ({"segmentation": [[0, 1], [float("inf"), 2]]}, "segmentation Infinity"),
        ({"segmentation": {"size": [float("nan"), 2], "counts": "x"}}, "segmentation NaN"),
        ({"note": float("nan")}, None),  # nobody reads it
    ],
)
def test_the_first_value_that_is_not_finite(record, complaint):
    assert not_finite(record) == complaint


def test_results_with_scores_as_texts():
    assert clean_result({"image_id": "3", "category_id": 1.0, "score": "0.5", "bbox": None}) == {
        "image_id": 3,
        "category_id": 1,
        "score": 0.5,
    }


SQUARE = [10, 10, 20, 10, 20, 20, 10, 20]
POINTS = [[10, 10], [20, 10], [20, 20], [10, 20]]


@pytest.mark.parametrize("segmentation", [POINTS, [POINTS], [[[str(x), str(y)] for x, y in POINTS]]])
def test_polygons_of_points_become_lists_of_coordinates(path, segmentation):
    _, _, records = read(path, changed("annotations", {"segmentation": segmentation}))
    assert records[1]["segmentation"] == [SQUARE]


@pytest.mark.parametrize("annotation_id", ["7f3e-42", 1.5, True, [1]])
def test_ids_that_are_no_numbers_are_made_anew(path, annotation_id):
    annotations, _, records = read(path, changed("annotations", {"id": annotation_id}))
    assert [record["id"] for record in records] == [1, 2]
    assert annotations.findings == ()


@pytest.mark.parametrize("coco_url", [False, 0, ["a.jpg"], {}])
def test_urls_that_are_no_texts_say_nothing(path, coco_url):
    _, images, _ = read(path, changed("images", {"coco_url": coco_url}))
    assert images[1] == CLEAN["images"][1]


def test_sizes_of_null_are_missing(path):
    annotations, _, _ = read(path, changed("images", {"width": None}))
    assert [finding.sentence for finding in annotations.findings] == ["image 2 has no width"]


@pytest.mark.parametrize(("flag", "expected"), [("yes", 1), ("No", 0)])
def test_flags_as_words(flag, expected):
    assert clean_annotation({"iscrowd": flag})["iscrowd"] == expected


@pytest.mark.parametrize(
    ("key", "values", "form"),
    [
        ("annotations", {"bbox": [[1, 2, 3, 4]]}, r"\(bbox is \[x, y, width, height\] in pixels\)"),
        ("annotations", {"segmentation": "text"}, r"\(segmentation is polygons, .*\)"),
        ("annotations", {"category_id": None}, r"\(category_id is a whole number\)"),
        ("images", {"file_name": 7}, r"\(file_name is a text\)"),
    ],
)
def test_a_refused_value_is_told_with_what_it_should_be(path, key, values, form):
    with pytest.raises(UserError, match=rf"{key}\[1\]: .*{form}; mend it"):
        read(path, changed(key, values))
