"""Ensembles that cannot be made: one sentence that names the file, the entry or the option."""

import orjson
import pytest

from eql_d2.errors import UserError
from eql_d2.evaluation.results.ensemble import merge_results, read_images_and_categories
from eql_d2.evaluation.results.ensemble_rules import Member, Rules, make_members
from tests.evaluation.results.small_ensembles import ANT, BEE, BOX, COW, result, with_mask


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (result(0.5, image=7), r"2.json: result 0 .* names the unknown image_id 7"),
        (result(float("nan")), r"2.json: result 0 .* has the score nan, not a finite number"),
        (result(1.5), r"2.json: a result of image 1 has the score 1.5, outside \[0, 1\]"),
        (result(-0.5), r"2.json: a result of image 1 has the score -0.5, outside \[0, 1\]"),
        (result(0.5, [1, 2, -3, 4]), r"2.json: result 0 .* has a bbox of negative size"),
        ({"image_id": 1, "category_id": ANT, "bbox": BOX}, r"2.json: result 0 .* has no score"),
        (
            with_mask(result(0.5), 5),
            r"2.json has results with bbox and segm, .*1.json with bbox; an ensemble needs the same",
        ),
    ],
)
def test_a_broken_result_is_named(merge, broken, sentence):
    with pytest.raises(UserError, match=sentence):
        merge([result(0.9)], [broken])


def test_unknown_categories_are_counted(merge, caplog):
    assert merge([result(0.9), result(0.8, category=77)], [result(0.7, category=78)]) == [result(0.9)]
    assert "1.json: 1 of 2 results name a category that is not among the annotations'" in caplog.text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"annotations": []}', "2.json is not a JSON list of results"),
        ("[1, 2]", r"2.json: result 0 .* is not a dictionary"),
        ('[{"image_id": 1, "categ', "2.json is truncated or not JSON"),
    ],
)
def test_files_that_are_no_results(merge, text, sentence):
    with pytest.raises(UserError, match=sentence):
        merge([result(0.9)], text)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weights": [1]}, "--weights has 1 numbers for 2 results files; give one each"),
        ({"weights": [1, 0]}, r"--weights are \[1.0, 0.0\]; they must be positive"),
        ({"weights": [1, float("nan")]}, "they must be positive"),
        ({"categories_of": ["3=r"]}, "--categories-of 3=r is not NUMBER=CATEGORIES .* 1 to 2"),
        ({"categories_of": ["rc"]}, "--categories-of rc is not NUMBER=CATEGORIES"),
        ({"categories_of": ["1=ant"]}, "ant is neither letters of r, c and f, nor ids"),
        ({"categories_of": ["1=5,6"]}, "--categories-of 5,6 names category 6, which .*a.json has not"),
        ({"categories_of": ["1=none.json"]}, r"none.json cannot be read \(No such file"),
        ({"merge": "soft"}, "--merge is 'soft'; it must be nms or wbf"),
        ({"merge": "wbf", "iou_type": "segm"}, "--iou-type is 'segm'; it must be bbox or, with --merge nms, segm"),
        ({"iou_type": "segm"}, "--iou-type segm needs masks, and the results of .*1.json have none"),
        ({"iou_threshold": 50}, r"--iou-threshold is 50; it must lie in \[0, 1\]"),
        ({"max_detections": 0}, "--max-detections is 0; it must be 1 or more"),
        ({"factors": {"x": 2.0}}, "--rescore has x=2; it takes r, c or f and a positive factor"),
        ({"factors": {"r": 0.0}}, "--rescore has r=0; it takes"),
    ],
)
def test_options_that_do_not_fit(merge, options, sentence):
    with pytest.raises(UserError, match=sentence):
        merge([result(0.9)], [result(0.8)], **options)


def test_the_categories_of_a_model_add_up(merge, tmp_path):
    merge([result(0.9)])
    ground_truth = read_images_and_categories(tmp_path / "a.json")
    words = [f"2={ANT}", "2=r", f"1={COW}"]
    first, second, third = make_members(["1.json", "2.json", "3.json"], None, words, ground_truth)
    assert (first.categories, second.categories, third.categories) == ({COW}, {ANT, BEE, COW}, None)


def test_frequencies_that_are_not_known(merge, tmp_path):
    merge([result(0.9)])
    content = orjson.loads((tmp_path / "a.json").read_bytes())
    del content["categories"][1]["frequency"]
    (tmp_path / "a.json").write_bytes(orjson.dumps(content))
    ground_truth = read_images_and_categories(tmp_path / "a.json")
    member = Member(tmp_path / "1.json")
    with pytest.raises(UserError, match="does not say how frequent every class is, which --rescore needs"):
        merge_results(ground_truth, [member], tmp_path / "out.json", Rules(factors={"r": 2.0}))
    with pytest.raises(UserError, match=r"--categories-of names the groups r, but .* name ids"):
        make_members(["1.json"], None, ["1=r"], ground_truth)


def test_what_cannot_be_read_or_written(merge, tmp_path):
    merge([result(0.9)])
    ground_truth = read_images_and_categories(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"--output .*1.json/out.json cannot be written \(.*\); name another"):
        merge_results(ground_truth, [Member(tmp_path / "1.json")], tmp_path / "1.json" / "out.json", Rules())
    for text, sentence in (("[]", "not in the LVIS or COCO format"), ("{", "truncated or not JSON")):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(UserError, match=sentence):
            read_images_and_categories(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"Annotation file none\.json cannot be read"):
        read_images_and_categories("none.json")


def test_a_failed_merge_leaves_the_old_file(merge, tmp_path):
    merge([result(0.9)])
    before = (tmp_path / "new" / "merged.json").read_bytes()
    with pytest.raises(UserError):
        merge([result(0.9)], [result(1.5)])
    assert (tmp_path / "new" / "merged.json").read_bytes() == before
    assert len(list((tmp_path / "new").iterdir())) == 1
