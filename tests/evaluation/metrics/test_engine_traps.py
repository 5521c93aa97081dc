"""Where the compiled engine by itself differs from the official package: the same number comes out, or an error."""

import math

import numpy as np
import pytest
from detectron2.data.datasets.lvis import load_lvis_json
from pycocotools.mask import encode

from eql_d2.errors import UserError
from eql_d2.evaluation.metrics.evaluation import Evaluation
from eql_d2.evaluation.metrics.ground_truth import GroundTruth
from tests.evaluation.made_up import compressed, evaluate_content, made_up, official

EMPTY_MASK = {"size": [200, 200], "counts": encode(np.zeros((200, 200), np.uint8, order="F"))["counts"].decode()}

pytest.importorskip("lvis")


def changed(records, step, **values):
    for record in records[::step]:
        record.update(values)


def assert_official(content, results, task, max_dets=300):
    ours = evaluate_content(content, results, task, max_dets=max_dets).values
    expected = official(content, results, task, max_dets)
    assert ours == pytest.approx(expected, abs=1e-9, nan_ok=True)
    return ours


@pytest.fixture
def case():
    return made_up()


@pytest.mark.parametrize("task", ["bbox", "segm"])
class TestSameNumbers:
    def test_plain(self, case, task):
        assert 20 < assert_official(*case, task)["AP"] < 80

    def test_more_detections_than_count(self, task):
        """Each image has over 300, many of equal score: the first of those count."""
        content, results = made_up(num_images=2, num_classes=5)
        results = [r for image in content["images"] for r in results if r["image_id"] == image["id"] for _ in range(40)]
        assert max(sum(r["image_id"] == i for r in results) for i in (1, 2)) > 320
        assert_official(content, results, task)

    @pytest.mark.parametrize("limit", [1, 5])
    def test_a_smaller_limit(self, case, task, limit):
        assert assert_official(*case, task, limit)["AP"] < official(*case, task)["AP"]

    def test_ignored_objects(self, case, task):
        changed(case[0]["annotations"], 4, ignore=1)
        changed(case[0]["annotations"][1:], 4, ignore=0)
        with_ignored = assert_official(*case, task)
        assert with_ignored["AP"] != pytest.approx(official(*made_up(), task)["AP"])

    def test_crowds_are_objects_like_others(self, case, task):
        changed(case[0]["annotations"], 4, iscrowd=1)
        assert assert_official(*case, task) == pytest.approx(official(*made_up(), task))

    def test_objects_without_area_are_not_there(self, case, task):
        changed(case[0]["annotations"], 5, area=0.0)
        assert_official(*case, task)

    def test_detections_without_area_are_not_there(self, case, task):
        plain = official(*case, task)
        changed(case[1], 5, bbox=[3.0, 3.0, 0.0, 9.0], segmentation=EMPTY_MASK, score=0.99)
        assert assert_official(*case, task)["AP"] != pytest.approx(plain["AP"])

    def test_detections_of_unknown_categories_take_a_place_and_count_for_nothing(self, task):
        content, results = made_up(num_images=2, num_classes=5)
        strangers = [{**results[0], "category_id": 99, "score": 1.0} for _ in range(298)]
        assert_official(content, strangers + results, task)

    def test_ids_as_large_as_they_come(self, case, task):
        for annotation in case[0]["annotations"]:
            annotation["id"] += 2**40
        assert_official(*case, task)

    def test_orders_of_images_and_categories(self, case, task):
        for part in ("images", "categories", "annotations"):
            case[0][part].reverse()
        assert_official(*case, task)


def test_boxes_of_negative_area_are_not_there(case):
    changed(case[1], 5, bbox=[30.0, 30.0, -10.0, 9.0], score=0.99)
    assert_official(*case, "bbox")


def test_areas_of_masks_and_not_of_the_boxes_at_hand(case):
    for result in case[1]:
        x, y, width, height = result["bbox"]
        result["segmentation"] = compressed([x, y, x + width, y, x, y + height])  # half of the box
    assert_official(*case, "segm")


def test_without_frequencies_there_are_no_groups(case):
    expected = official(*case, "bbox")
    del case[0]["categories"][2]["frequency"]
    ours = evaluate_content(*case, "bbox").values
    for name, value in expected.items():
        if name in ("APr", "APc", "APf"):
            assert math.isnan(ours[name])
        else:
            assert ours[name] == pytest.approx(value, abs=1e-9)


def test_the_official_package_stays_what_it_is(tiny_set):
    """hotcoco's init_as_lvis would replace it by classes without the img_ann_map that Detectron2 reads."""
    import lvis

    assert lvis.LVIS.__module__ == "lvis.lvis"
    records = load_lvis_json(str(tiny_set / "val.json"), str(tiny_set))
    assert sum(len(record["annotations"]) for record in records) > 10


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": 0}, "made_up.json: annotation 0 has not a positive whole number for its id"),
        ({"id": -4}, "annotation -4 has not a positive whole number"),
        ({"id": "7"}, "annotation 7 has not a positive whole number"),
        ({"id": 5}, "annotation 5 is there twice; ids have to differ"),
        ({"image_id": 77}, "annotation 4 names the unknown image_id 77"),
        ({"category_id": 77}, "annotation 4 names the unknown category_id 77"),
        ({"bbox": [1, 2, -3, 4]}, r"annotation 4 has a bbox of negative size, \[1, 2, -3, 4\]"),
        ({"bbox": [1, 2, 3]}, r"annotation 4 has the bbox \[1, 2, 3\], not four finite numbers"),
        ({"bbox": None}, "annotation 4 has the bbox None"),
        ({"area": float("nan")}, "annotation 4 has the area nan, not a finite number"),
    ],
)
def test_a_broken_annotation_is_named(case, change, expected):
    case[0]["annotations"][3].update(change)
    with pytest.raises(UserError, match=expected):
        GroundTruth(case[0], "made_up.json")


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([[1.0, 1.0, 5.0, 5.0]], "annotation 4 has a polygon of 2 points; it takes three or more"),
        ([[1.0, 1.0, 5.0, 5.0, 2.0]], "annotation 4 has a polygon of 2.5 points"),
        ([], "annotation 4 has no segmentation"),
        (None, "annotation 4 has no segmentation"),
        ({"size": [3, 4], "counts": [12]}, r"annotation 4 has an RLE of another size than its image \(\[3, 4\], where"),
    ],
)
def test_a_broken_mask_is_named_where_masks_are_evaluated(case, segmentation, expected):
    sound = evaluate_content(*case, "bbox").values
    case[0]["annotations"][3]["segmentation"] = segmentation
    with pytest.raises(UserError, match=expected):
        evaluate_content(*case, "segm")
    assert evaluate_content(*case, "bbox").values == sound


@pytest.mark.parametrize("key", ["neg_category_ids", "not_exhaustive_category_ids"])
def test_missing_federated_labels(case, key):
    del case[0]["images"][2][key]
    with pytest.raises(UserError, match=f"made_up.json: image 3 has no {key}"):
        GroundTruth(case[0], "made_up.json")


def test_missing_or_repeated_images_and_categories(case):
    for part, kind in (("images", "image"), ("categories", "category")):
        content = {**case[0], part: [*case[0][part], case[0][part][1]]}
        with pytest.raises(UserError, match=f"{kind} id 2 is there twice"):
            GroundTruth(content, "made_up.json")
        content = {**case[0], part: [*case[0][part], {"name": "no id"}]}
        with pytest.raises(UserError, match=f"{kind} number {len(case[0][part])} of the file has no id"):
            GroundTruth(content, "made_up.json")
    case[0]["categories"][0]["frequency"] = "often"
    with pytest.raises(UserError, match="category 1 has the frequency 'often'; it must be r, c or f"):
        GroundTruth(case[0], "made_up.json")


def test_images_that_are_not_there_or_come_twice(case):
    evaluation = Evaluation(GroundTruth(case[0], "made_up.json"), ("bbox",))
    evaluation.add_image(1, [])
    with pytest.raises(UserError, match=r"^Image id 99 is not in made_up.json"):
        evaluation.add_image(99, [])
    with pytest.raises(UserError, match=r"^Image id 1 of made_up.json was given twice"):
        evaluation.add_image(1, [])
