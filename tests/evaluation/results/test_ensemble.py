"""Ensembles of result files: cases worked out by hand."""

import pytest

from eql_d2.evaluation.results.ensemble_rules import parse_factors
from tests.evaluation.results.small_ensembles import ANT, BEE, BOX, COW, ELSEWHERE, NEAR, result, with_mask


def test_the_best_of_what_overlaps_stays(merge):
    one = [result(0.9), result(0.3, ELSEWHERE)]
    other = [result(0.8, NEAR), result(0.7, NEAR, BEE), result(0.6, NEAR, image=2)]
    # The bee and the ant of the other image overlap nothing of their own class and image.
    assert merge(one, other) == [one[0], other[1], one[1], other[2]]
    assert merge(one, other, iou_threshold=0.85) == [one[0], other[0], other[1], one[1], other[2]]


def test_boxes_are_fused(merge):
    merged = merge([result(0.9), result(0.6, ELSEWHERE)], [result(0.3, NEAR)], merge="wbf")
    assert [r["score"] for r in merged] == pytest.approx([0.6, 0.3])  # (0.9 + 0.3) / 2; 0.6 / 2 for one of two models
    assert merged[0]["bbox"] == pytest.approx([10, 10, 20, 0.75 * 20 + 0.25 * 16])
    assert merged[1]["bbox"] == ELSEWHERE


def test_weights(merge):
    """Confidences 0.9 and 4 · 0.8: the second model's box wins, or counts 3.2 of 4.1."""
    models = [result(0.9)], [result(0.8, NEAR)]
    (kept,) = merge(*models, weights=[1, 4])
    assert kept == result(0.8, NEAR)
    (fused,) = merge(*models, weights=[1, 4], merge="wbf")
    assert fused["score"] == pytest.approx((0.9 + 4 * 0.8) / 5)
    assert fused["bbox"] == pytest.approx([10, 10, 20, (0.9 * 20 + 3.2 * 16) / 4.1])
    assert merge([result(0.9)], [], weights=[1, 4])[0]["score"] == pytest.approx(0.9 / 4)


@pytest.mark.parametrize("rules", [{"merge": "nms"}, {"merge": "wbf"}])
@pytest.mark.parametrize("bees", ["2=r", "2=8,9", "2=ids.json"])
def test_a_class_that_an_expert_does_not_know_is_not_marked_down(merge, tmp_path, monkeypatch, caplog, rules, bees):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids.json").write_text("[9, 8]")
    generalist = [result(0.9), result(0.6, ELSEWHERE, BEE)]
    expert = [result(0.5, ELSEWHERE, BEE), result(0.7, ELSEWHERE, ANT)]
    merged = merge(generalist, expert, weights=[1, 3], categories_of=[bees], **rules)
    scores = {r["category_id"]: r["score"] for r in merged}
    assert len(merged) == 2
    assert scores[ANT] == pytest.approx(0.9)  # it would be 0.9 / 3 or 0.9 / 4 if the expert counted
    assert scores[BEE] == pytest.approx(0.5 if rules["merge"] == "nms" else (0.6 + 3 * 0.5) / 4)
    assert "2.json: 1 results of categories that it is said not to know are left out" in caplog.text


@pytest.mark.parametrize("order", [1, -1])
def test_ties_go_to_the_earlier_model_and_place(merge, order):
    """By model, then by place in the file, whatever the ids of the categories."""
    twins = [result(0.5, BOX, BEE), result(0.5, ELSEWHERE, ANT), result(0.5, BOX, ANT)][::order]
    merged = merge(twins, [result(0.5, NEAR, BEE), result(0.5, NEAR, COW)])
    assert merged == [*twins, result(0.5, NEAR, COW)]
    assert merge(twins, [result(0.5, NEAR, COW)], max_detections=2) == twins[:2]


def test_most_detections_of_an_image(merge):
    crowd = [result(0.5 + i / 1000, [0, 0, i + 1, 100 / (i + 1)], image=1 + i % 2) for i in range(100)]
    best = sorted(crowd, key=lambda r: (r["image_id"], -r["score"]))
    expected = [r for image in (1, 2) for r in [r for r in best if r["image_id"] == image][:7]]
    assert merge(crowd, iou_threshold=1.0, max_detections=7) == expected


def test_rescoring_wins_places_for_rare_classes(merge):
    models = [result(0.8, BOX), result(0.7, ELSEWHERE)], [result(0.5, BOX, BEE)]
    assert [r["category_id"] for r in merge(*models, max_detections=2)] == [ANT, ANT]
    lifted = merge(*models, factors=parse_factors(["r=3"]), max_detections=2)
    assert [(r["category_id"], r["score"]) for r in lifted] == [(ANT, 0.8), (BEE, pytest.approx(0.75))]  # odds 1 → 3
    factors = parse_factors(["f=0.25", "c=9"])
    assert [r["score"] for r in merge(*models, factors=factors)] == pytest.approx([0.5, 0.5, 0.7 / 1.9])


def test_masks(merge):
    """Boxes overlap by 0.8, masks by 0.25; the fused box gets the mask of its best member."""
    one, other = with_mask(result(0.9), rows=16), with_mask(result(0.8, NEAR), rows=4)
    assert merge([one], [other]) == [one]
    assert merge([one], [other], iou_type="segm") == [one, other]
    assert merge([one], [other], iou_type="segm", iou_threshold=0.2) == [one]
    (fused,) = merge([one], [other], merge="wbf")
    assert fused["segmentation"] == one["segmentation"]
    assert fused["bbox"][3] == pytest.approx((0.9 * 20 + 0.8 * 16) / 1.7)
    masks_only = [{key: value for key, value in r.items() if key != "bbox"} for r in (one, other)]
    assert merge(masks_only[:1], masks_only[1:]) == masks_only  # the boxes around the masks overlap by 0.25
    polygon = {**result(0.5), "segmentation": [[10, 10, 30, 10, 30, 26, 10, 26]]}
    assert merge([polygon], [])[0]["segmentation"] == one["segmentation"]


def test_nothing_to_merge(merge):
    assert merge([], []) == []
    assert merge([result(0.5)], []) == [result(0.5)]
