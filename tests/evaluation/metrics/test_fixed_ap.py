"""AP-fixed against the official package, given the best detections of each class as a plain loop chooses them."""

from collections import defaultdict

import numpy as np
import pytest

from eql_d2.evaluation.metrics.engines import AP_NAMES
from eql_d2.evaluation.metrics.evaluation import Evaluation
from eql_d2.evaluation.metrics.fixed_ap import FixedAP, match
from eql_d2.evaluation.metrics.ground_truth import GroundTruth
from tests.evaluation.made_up import evaluate_content, fresh, made_up, of_image, official

TASKS = ("bbox", "segm")


def best_by_plain_loop(results, limit):
    """The best of each class over the set, whatever image they are in."""
    of_class = defaultdict(list)
    for result in results:
        of_class[result["category_id"]].append(result)
    chosen = []
    for found in of_class.values():
        chosen += sorted(found, key=lambda result: result["score"], reverse=True)[:limit]
    order = {id(result): number for number, result in enumerate(results)}
    return sorted(chosen, key=lambda result: order[id(result)])


def fixed_ap(content, results, task, order=None, **options):
    """Percentages of FixedAP by itself."""
    ground_truth = GroundTruth(fresh(content), "made_up.json")
    fixed = FixedAP(ground_truth, task, **options)
    for image_id in order or [image["id"] for image in content["images"]]:
        results_of = of_image(results, image_id)
        fixed.update(ground_truth.images[image_id], ground_truth.annotations(image_id), results_of)
    values, class_ap = fixed.metrics(distributed=False)
    return {name: 100 * v if v >= 0 else float("nan") for name, v in values.items()}, class_ap


def expected_ap(content, results, task, limit):
    pytest.importorskip("lvis")
    metrics = official(content, best_by_plain_loop(results, limit), task, max_dets=-1)
    return {name: metrics[name] for name in AP_NAMES}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("limit", [1, 4, 15, 10_000])
def test_equals_the_official_package(task, limit):
    content, results = made_up(seed=3)
    values, _ = fixed_ap(content, results, task, limit=limit, buffer=10)
    assert values == pytest.approx(expected_ap(content, results, task, limit), abs=1e-9, nan_ok=True)
    assert 0 < values["AP"] < 90


@pytest.mark.parametrize("task", TASKS)
def test_odd_objects_and_detections(task):
    content, results = made_up(seed=4)
    for annotation in content["annotations"][::4]:
        annotation["ignore"] = 1
    for annotation in content["annotations"][1::5]:
        annotation["area"] = 0.0
    for result in results[::6]:
        result["bbox"] = [3.0, 3.0, 0.0, 9.0]
    results += [{**results[0], "category_id": 99, "score": 1.0}]
    # Equal objects: of equal overlaps the later one is taken, which shows where one of the two does not count.
    content["annotations"] += [{**a, "id": 1000 + a["id"]} for a in content["annotations"][::3]]
    for limit in (6, 10_000):
        values, _ = fixed_ap(content, results, task, limit=limit, buffer=10)
        assert values == pytest.approx(expected_ap(content, results, task, limit), abs=1e-9, nan_ok=True)


def test_no_limit_for_an_image():
    """Some 350 detections in an image, the right ones last: LVIS's 300 leave them out, AP-fixed does not."""
    content, results = made_up(seed=5, num_images=3)
    clutter = [
        {**results[0], "image_id": image["id"], "category_id": category_id, "score": 0.95}
        for image in content["images"]
        for category_id in range(1, 7)
        for _ in range(58)
    ]
    task_metrics = evaluate_content(content, clutter + results, "bbox", fixed_ap=True)
    values = task_metrics.values
    expected = expected_ap(content, clutter + results, "bbox", 10_000)
    assert {name: values[f"{name}-fixed"] for name in AP_NAMES} == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert values["AR@300"] < 20
    assert values["AP-fixed"] > values["AP"]
    assert set(task_metrics.class_ap) == {"AP", "AP-fixed"}


def test_orders_of_images_do_not_matter():
    """Equal scores at the cut are decided by image ids and not by the order of coming."""
    content, results = made_up(seed=6)
    ids = [image["id"] for image in content["images"]]
    values = [fixed_ap(content, results, "bbox", order, limit=5, buffer=7)[0] for order in (ids, ids[::-1])]
    assert values[0] == pytest.approx(values[1], abs=0, nan_ok=True)


def test_memory_is_bounded():
    content, results = made_up(seed=7, num_images=20)
    ground_truth = GroundTruth(content, "made_up.json")
    fixed = FixedAP(ground_truth, "bbox", limit=5, buffer=50)
    for image_id in ground_truth.images:
        fixed.update(ground_truth.images[image_id], ground_truth.annotations(image_id), of_image(results, image_id))
        assert len(fixed._kept) <= 5 * 6
        assert sum(map(len, fixed._pending)) <= 50
    assert len(results) > 150


def test_class_ap_and_empty_results():
    content, results = made_up(seed=8)
    values, class_ap = fixed_ap(content, results, "bbox")
    assert 100 * np.nanmean(class_ap) == pytest.approx(values["AP"])
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 2]
    values, class_ap = fixed_ap(content, [], "bbox")
    assert values["AP"] == 0
    assert np.isnan(class_ap).tolist() == [False, True, False, False, False, False]


def test_matching_prefers_what_counts():
    """One detection and two objects: the better overlap does not count, and is taken only at its own threshold."""
    left_out = np.zeros((4, 2), dtype=bool)
    left_out[:, 1] = True
    matched, ignored = match(np.array([[0.6, 0.9]]), left_out)
    assert matched[0, :, 0].tolist() == [True] * 9 + [False]  # 0.5, 0.55, 0.6 by the first; to 0.9 by the second
    assert ignored[0, :, 0].tolist() == [False] * 3 + [True] * 6 + [False]


def test_what_does_not_count_stays_free_for_another_detection():
    """The first detection takes the object that counts, so that the second is left without one at low thresholds."""
    left_out = np.zeros((4, 2), dtype=bool)
    left_out[:, 1] = True
    matched, _ = match(np.array([[0.6, 0.9], [0.6, 0.0]]), left_out)
    assert matched[0, :, 1].tolist() == [False] * 10


def test_of_equal_overlaps_the_later_object_is_taken():
    """As in the official package; the first object is left to the second detection, which overlaps nothing else."""
    matched, ignored = match(np.array([[0.8, 0.8], [0.8, 0.0]]), np.zeros((4, 2), dtype=bool))
    assert matched[0].T.tolist() == [[True] * 7 + [False] * 3] * 2
    assert not ignored.any()


def test_evaluation_gives_it_all_detections():
    content, results = made_up(seed=9)
    evaluation = Evaluation(GroundTruth(fresh(content), "made_up.json"), TASKS, max_dets=1, fixed_ap=True)
    for image in content["images"]:
        evaluation.add_image(image["id"], of_image(results, image["id"]))
    metrics = evaluation.compute()
    for task in TASKS:
        expected = fixed_ap(content, results, task)[0]
        assert metrics[task].values["AP-fixed"] == pytest.approx(expected["AP"], abs=1e-9)
        assert metrics[task].values["AP-fixed"] > metrics[task].values["AP"]
