"""COCO's rules: the very numbers of pycocotools, and the groups r, c, f as means of its classes."""

import numpy as np
import pytest

from eql_d2.errors import UserError
from eql_d2.evaluation.metrics.engines import COCO_METRIC_NAMES
from eql_d2.evaluation.metrics.references import run_pycocotools
from tests.evaluation.made_up import evaluate_content, fresh, made_up

CROWD_MASK = {"size": [200, 200], "counts": [100 * 200, 60 * 200, 40 * 200]}  # 60 columns


@pytest.fixture
def case():
    content, results = made_up(seed=1)
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    return content, results


def assert_pycocotools(content, results, task):
    ours = evaluate_content(content, results, task, rules="coco")
    other = {"bbox": "segmentation", "segm": "bbox"}[task]
    shapes = [{key: value for key, value in result.items() if key != other} for result in results]
    evaluation = run_pycocotools(fresh(content), shapes, task)
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", None, None, "AR@100", "ARs@100", "ARm@100", "ARl@100")
    stats = np.where(evaluation.stats < 0, np.nan, 100 * evaluation.stats)  # -1: no such object
    expected = {name: value for name, value in zip(names, stats, strict=True) if name}
    assert list(ours.values) == list(COCO_METRIC_NAMES)
    assert {name: ours.values[name] for name in expected} == pytest.approx(expected, abs=1e-9, nan_ok=True)
    of_class = evaluation.eval["precision"][:, :, :, 0, 2].mean(axis=(0, 1))
    assert ours.class_ap["AP"] == pytest.approx(np.where(of_class < 0, np.nan, of_class), nan_ok=True)
    for number, letter in enumerate("cfr"):  # class k is in group "rcf"[k % 3], and index k - 1
        group = of_class[number::3]
        mean = 100 * group[group >= 0].mean()  # -1: not an object of the class
        assert ours.values[f"AP{letter}"] == pytest.approx(mean, abs=1e-9)
    return ours.values


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_engines(case, task, engine):
    values = evaluate_content(*case, task, rules="coco", engine=engine).values
    assert values == pytest.approx(assert_pycocotools(*case, task), abs=1e-9)
    assert 20 < values["AP"] < 80


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_crowds_count_neither_for_nor_against(case, task):
    content, results = case
    plain = assert_pycocotools(content, results, task)
    for annotation in content["annotations"][::4]:
        annotation.update(iscrowd=1, bbox=[100.0, 0.0, 60.0, 200.0], segmentation=CROWD_MASK, area=60 * 200)
    for annotation in content["annotations"][1::5]:
        annotation["ignore"] = 1  # pycocotools overwrites it
    inside = next(r for r in results if r["image_id"] == content["annotations"][0]["image_id"])
    crowded = assert_pycocotools(content, results, task)
    assert crowded["AP"] != pytest.approx(plain["AP"])
    swallowed = {
        **inside,
        "category_id": content["annotations"][0]["category_id"],
        "bbox": [110.0, 10.0, 20.0, 20.0],
        "score": 0.99,
    }
    if task == "bbox":  # lies in the crowd of its class: costs nothing
        assert assert_pycocotools(content, [*results, swallowed], task)["AP"] == pytest.approx(crowded["AP"])


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_a_hundred_of_each_class(task):
    content, results = made_up(seed=2, num_images=2, num_classes=5)
    results = [dict(result) for result in results for _ in range(60)]
    assert len(results) > 2 * 5 * 100
    assert_pycocotools(content, results, task)


def test_what_lvis_leaves_out_counts_here(case):
    content, results = case
    for result in results[::6]:
        result.update(bbox=[3.0, 3.0, 0.0, 9.0], score=0.99)
    assert_pycocotools(content, results, "bbox")


def test_every_class_is_verified(case):
    """A detection of a class that is not annotated in its image is wrong; by LVIS's rules it would not count."""
    content, results = case
    absent = {
        image["id"]: set(range(1, 7))
        - {a["category_id"] for a in content["annotations"] if a["image_id"] == image["id"]}
        for image in content["images"]
    }
    wrong = [{**results[0], "image_id": i, "category_id": k, "score": 1.0} for i, ks in absent.items() for k in ks]
    before, after = (assert_pycocotools(content, chosen, "bbox")["AP"] for chosen in (results, results + wrong))
    assert after < before - 5


def test_no_results(case):
    for engine in ("hotcoco", "pycocotools"):
        assert evaluate_content(case[0], [], "bbox", rules="coco", engine=engine).values["AP"] == 0


def test_what_is_not_for_these_rules(case):
    with pytest.raises(UserError, match=r"engine is 'lvis'.*by COCO's rules it must be one of hotcoco, pycocotools"):
        evaluate_content(*case, "bbox", rules="coco", engine="lvis")
    with pytest.raises(
        UserError, match=r"AP-fixed is defined by LVIS's rules, and made_up.json is evaluated by COCO's"
    ):
        evaluate_content(*case, "bbox", rules="coco", fixed_ap=True)
