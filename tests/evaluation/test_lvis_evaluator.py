"""LVIS evaluation: two engines with the same numbers, and rules and values worked out by hand."""

import csv
import math

import numpy as np
import orjson
import pytest
import torch
from detectron2.utils import comm

from eql_d2.data.registration import register_custom_datasets, register_lvis_format
from eql_d2.errors import UserError
from eql_d2.evaluation import LVISEvaluator
from eql_d2.evaluation.metrics.engines import METRIC_NAMES
from eql_d2.evaluation.metrics.references import run_official_evaluation
from tests.evaluation.predictions import (
    TASKS,
    evaluate,
    ground_truth_as_predictions,
    make_instances,
    noisy_predictions,
    read_ground_truth,
)

ENGINES = ("hotcoco", "lvis")


def assert_same_metrics(one, other):
    assert set(one) == set(other) == set(TASKS)
    for task in TASKS:
        assert list(one[task]) == list(other[task]) == list(METRIC_NAMES)
        assert one[task] == pytest.approx(other[task], abs=1e-9, nan_ok=True)
        assert 5 < one[task]["AP"] < 95  # equality of nothing or of everything would say little


@pytest.fixture
def val_100(shared_data):
    register_lvis_format("val_100", shared_data / "lvis_v0.5_val_100.json", shared_data)
    return "val_100"


# --- the two engines --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_engines_agree_on_noise(tiny_cfg, seed):
    pytest.importorskip("lvis")
    predictions = noisy_predictions("tiny_val", seed)
    assert max(len(instances) for _, instances in predictions) > 300
    assert min(len(instances) for _, instances in predictions) == 0
    ours, official = (evaluate("tiny_val", predictions, engine=engine) for engine in ENGINES)
    assert_same_metrics(ours, official)


def test_engines_agree_on_real_annotations(val_100):
    pytest.importorskip("lvis")
    predictions = noisy_predictions(val_100)
    ours, official = (evaluate(val_100, predictions, engine=engine) for engine in ENGINES)
    assert_same_metrics(ours, official)


def test_the_truth_gets_full_marks(val_100):
    metrics = evaluate(val_100, ground_truth_as_predictions(val_100))
    for task in TASKS:
        for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"):
            assert metrics[task][name] == pytest.approx(100, abs=1e-9), (task, name)


def test_equals_the_official_package_run_by_itself(val_100, tmp_path):
    """On the saved results, one shape at a time: with a box at hand the package takes a mask's area from it."""
    pytest.importorskip("lvis")
    ours = evaluate(val_100, noisy_predictions(val_100, seed=2), output_dir=str(tmp_path))
    saved = orjson.loads((tmp_path / "lvis_instances_results.json").read_bytes())
    for task, shape in (("bbox", "bbox"), ("segm", "segmentation")):
        results = [{key: result[key] for key in ("image_id", "category_id", "score", shape)} for result in saved]
        official = run_official_evaluation(read_ground_truth(val_100), results, task).get_results()
        assert ours[task] == pytest.approx({name: 100 * official[name] for name in METRIC_NAMES}, abs=1e-9)


def test_no_detections_at_all(tiny_cfg):
    pytest.importorskip("lvis")
    images = read_ground_truth("tiny_val")["images"]
    predictions = [({"image_id": image["id"]}, make_instances(image, [])) for image in images]
    for engine in ENGINES:
        metrics = evaluate("tiny_val", predictions, engine=engine)
        assert metrics["bbox"]["AP"] == metrics["segm"]["AP"] == metrics["bbox"]["AR@300"] == 0


# --- by hand ----------------------------------------------------------------------------------------------

BOXES = ([10, 10, 20, 20], [50, 50, 30, 20], [10, 60, 25, 25])
ELSEWHERE = [70, 5, 20, 20]


@pytest.fixture
def by_hand(tmp_path):
    """Writes a dataset of two images and two classes (ids 8 and 5), and evaluates boxes on it.

    Class 5 (index 0) has two objects in image 1 and one in image 2, class 8 (index 1) one in image 2.
    """

    def run(detections, engine="hotcoco", image_one=None, **options):
        images = [
            {"id": i, "file_name": f"{i}.jpg", "height": 100, "width": 100, "neg_category_ids": []}
            | {"not_exhaustive_category_ids": []}
            for i in (1, 2)
        ]
        images[0] |= image_one or {}
        objects = [(1, 5, BOXES[0]), (1, 5, BOXES[1]), (2, 5, BOXES[2]), (2, 8, BOXES[0])]
        annotations = [
            {"id": n + 1, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3], "segmentation": []}
            for n, (i, c, box) in enumerate(objects)
        ]
        categories = [{"id": 8, "name": "bee", "frequency": "f"}, {"id": 5, "name": "ant", "frequency": "r"}]
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_bytes(orjson.dumps({"images": images, "annotations": annotations, "categories": categories}))
        register_lvis_format("by_hand", path, tmp_path)
        predictions = [
            (
                {"image_id": image["id"]},
                make_instances(image, [(*d[1:], None) for d in detections if d[0] == image["id"]]),
            )
            for image in images
        ]
        return evaluate("by_hand", predictions, ("bbox",), engine=engine, **options)["bbox"]

    return run


ANTS = [(1, 0, 0.9, BOXES[0]), (2, 0, 0.8, ELSEWHERE), (2, 0, 0.7, BOXES[2]), (1, 0, 0.6, BOXES[0])]
NEGATIVES = {"neg_category_ids": [5, 8]}
# In order of score: right, wrong, right, wrong (a duplicate); one of three ants is missed. Precision is 1 up to recall
# 1/3 (34 of LVIS's 101 points) and 2/3 up to recall 2/3 (33 points).
AP_OF_ANTS = 100 * (34 + 33 * 2 / 3) / 101


@pytest.mark.parametrize("engine", ENGINES)
def test_average_precision_by_hand(by_hand, engine):
    if engine == "lvis":
        pytest.importorskip("lvis")
    metrics = by_hand(ANTS, engine)
    assert metrics["APr"] == pytest.approx(AP_OF_ANTS)
    assert metrics["APf"] == 0
    assert math.isnan(metrics["APc"])
    assert [metrics[name] for name in ("AP", "AP50", "AP75")] == pytest.approx([AP_OF_ANTS / 2] * 3)
    assert metrics["AR@300"] == pytest.approx(100 * (2 / 3 + 0) / 2)


@pytest.mark.parametrize("engine", ENGINES)
def test_federated_rules(by_hand, engine):
    if engine == "lvis":
        pytest.importorskip("lvis")
    bees = [(2, 1, 0.5, BOXES[0]), (1, 1, 0.9, ELSEWHERE)]  # the right one, and one in image 1, scored higher
    # Nobody looked for bees in image 1; then somebody did and found none.
    assert by_hand(bees, engine)["APf"] == pytest.approx(100)
    assert by_hand(bees, engine, NEGATIVES)["APf"] == pytest.approx(50)
    # Image 1 holds more ants than are annotated: what matches none there is neither right nor wrong.
    ants = [(1, 0, 0.95, ELSEWHERE), (1, 0, 0.9, BOXES[0]), (1, 0, 0.8, BOXES[1]), (2, 0, 0.7, BOXES[2])]
    assert by_hand(ants, engine, {"not_exhaustive_category_ids": [5]})["APr"] == pytest.approx(100)
    assert by_hand(ants, engine)["APr"] == pytest.approx(75)


def test_most_detections_an_image(by_hand):
    crowd = [(1, 0, 0.5, ELSEWHERE)] * 300 + [(1, 0, 0.4, BOXES[0])]
    assert by_hand(crowd)["APr"] == 0
    assert by_hand(crowd[1:])["APr"] > 0
    assert by_hand(ANTS, max_dets_per_image=1)["APr"] == pytest.approx(100 * 34 / 101)  # image 1's first; 2's is wrong
    for limit in (None, -1, 300, 1000):
        assert by_hand(ANTS, max_dets_per_image=limit)["APr"] == pytest.approx(AP_OF_ANTS)


def iou(box, other):
    overlap = [max(0, min(box[i] + box[i + 2], other[i] + other[i + 2]) - max(box[i], other[i])) for i in (0, 1)]
    common = overlap[0] * overlap[1]
    return common / (box[2] * box[3] + other[2] * other[3] - common)


def plain_ap(truth, results, category_id):
    """Box AP of one class, straight from the definition."""
    objects = [a for a in truth["annotations"] if a["category_id"] == category_id]
    in_image = {a["image_id"] for a in objects}
    labelled = in_image | {i["id"] for i in truth["images"] if category_id in i["neg_category_ids"]}
    found = [r for r in results if r["category_id"] == category_id and r["image_id"] in labelled]
    found.sort(key=lambda r: (-r["score"], r["image_id"]))
    total = []
    for threshold in np.linspace(0.5, 0.95, 10):
        free, hits = {a["id"]: a for a in objects}, []
        for result in found:
            options = [
                (iou(result["bbox"], a["bbox"]), i) for i, a in free.items() if a["image_id"] == result["image_id"]
            ]
            best = max(options, default=(0, None))
            hits.append(best[0] >= threshold)
            if hits[-1]:
                del free[best[1]]
        right = np.cumsum(hits)
        precision, recall = right / np.arange(1, len(hits) + 1), right / len(objects)
        total += [precision[recall >= point - 1e-12].max(initial=0) for point in np.linspace(0, 1, 101)]
    return 100 * np.mean(total)


def test_files_and_the_ap_of_each_class(tiny_cfg, tmp_path):
    predictions = noisy_predictions("tiny_val", seed=3)
    metrics = evaluate("tiny_val", predictions, output_dir=str(tmp_path / "new" / "folder"))
    folder = tmp_path / "new" / "folder"
    assert sorted(p.name for p in folder.iterdir()) == [
        "lvis_instances_results.json",
        "per_class_ap_bbox.csv",
        "per_class_ap_segm.csv",
    ]
    results = orjson.loads((folder / "lvis_instances_results.json").read_bytes())
    assert len(results) == sum(min(len(instances), 300) for _, instances in predictions)
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}
    truth = read_ground_truth("tiny_val")
    rows = list(csv.DictReader((folder / "per_class_ap_bbox.csv").open()))
    assert [int(row["category_id"]) for row in rows] == [category["id"] for category in truth["categories"]]
    assert [row["frequency"] for row in rows] == [category["frequency"] for category in truth["categories"]]
    for row in rows:
        assert float(row["AP"]) == pytest.approx(plain_ap(truth, results, int(row["category_id"])), abs=1e-3)
    assert np.mean([float(row["AP"]) for row in rows]) == pytest.approx(metrics["bbox"]["AP"], abs=1e-3)


# --- failures and odd cases -------------------------------------------------------------------------------


def test_unknown_image_and_engine(tiny_cfg):
    with pytest.raises(UserError, match=r"^Image id 99 is not in .*val.json"):
        evaluate("tiny_val", [({"image_id": 99}, make_instances({"height": 64, "width": 64}, []))])
    with pytest.raises(UserError, match=r"'coco' .TEST.LVIS_ENGINE.*by LVIS's rules it must be one of hotcoco, lvis"):
        LVISEvaluator("tiny_val", engine="coco")


@pytest.mark.parametrize("where", ["scores", "boxes"])
def test_predictions_that_are_not_finite(tiny_cfg, where):
    record, instances = next(p for p in noisy_predictions("tiny_val") if len(p[1]))
    values = instances.scores if where == "scores" else instances.pred_boxes.tensor[0]
    values[0] = float("nan")
    with pytest.raises(
        UserError, match=f"predictions for image id {record['image_id']} hold a score or box that is not"
    ):
        evaluate("tiny_val", [(record, instances)])


def test_a_test_set_gets_its_results_saved(tiny_cfg, tiny_set, tmp_path):
    content = read_ground_truth("tiny_val")
    predictions = noisy_predictions("tiny_val")
    images = [{key: image[key] for key in ("id", "height", "width", "file_name")} for image in content["images"]]
    (tmp_path / "test.json").write_bytes(orjson.dumps({"images": images, "categories": content["categories"]}))
    register_lvis_format("tiny_test", tmp_path / "test.json", tiny_set)
    for engine in ENGINES:
        assert evaluate("tiny_test", predictions, engine=engine, output_dir=str(tmp_path / engine)) == {}
        assert (tmp_path / engine / "lvis_instances_results.json").stat().st_size > 1000


def test_tasks_are_inferred_and_predictions_forgotten(tiny_cfg):
    predictions = noisy_predictions("tiny_val")
    evaluator = LVISEvaluator("tiny_val", distributed=False)
    runs = []
    for chosen in (predictions, ground_truth_as_predictions("tiny_val"), predictions):
        evaluator.reset()
        for record, instances in chosen:
            evaluator.process([record], [{"instances": instances}])
        runs.append(evaluator.evaluate())
    assert set(runs[0]) == set(TASKS)
    assert runs[1]["bbox"]["AP"] == pytest.approx(100)
    for task in TASKS:
        assert runs[2][task] == pytest.approx(runs[0][task], abs=0, nan_ok=True)


# --- processes --------------------------------------------------------------------------------------------


def evaluate_shares(cfg, path):
    """Both engines, the images shared out evenly and all to the first process; the first process saves it all."""
    torch.set_num_threads(1)
    register_custom_datasets(cfg)
    predictions = noisy_predictions("tiny_val", seed=4)
    rank, size = comm.get_rank(), comm.get_world_size()
    everything = {}
    for engine in ENGINES:
        for split, share in (("even", predictions[rank::size]), ("one", predictions if rank == 0 else [])):
            folder = f"{path}_{engine}_{split}"
            options = {"engine": engine, "output_dir": folder, "fixed_ap": engine == "hotcoco"}
            metrics = evaluate("tiny_val", share, None, distributed=True, **options)
            assert bool(metrics) == (rank == 0)
            everything[engine, split] = metrics
    if rank == 0:
        torch.save(everything, path)


def test_two_processes_equal_one(tiny_cfg, tmp_path, two_processes):
    pytest.importorskip("lvis")
    two_processes(evaluate_shares, tiny_cfg, tmp_path / "two")
    predictions = noisy_predictions("tiny_val", seed=4)
    expected = evaluate("tiny_val", predictions, fixed_ap=True)
    for (engine, split), metrics in torch.load(tmp_path / "two", weights_only=False).items():
        for task in TASKS:
            fixed = {name: metrics[task].pop(name) for name in list(metrics[task]) if name.endswith("-fixed")}
            assert len(fixed) == (9 if engine == "hotcoco" else 0)
            assert fixed == pytest.approx({name: expected[task][name] for name in fixed}, abs=1e-9, nan_ok=True)
        assert_same_metrics(metrics, {t: {n: expected[t][n] for n in METRIC_NAMES} for t in TASKS})
        folder = tmp_path / f"two_{engine}_{split}"
        assert not list(folder.glob("*.part-*"))
        results = orjson.loads((folder / "lvis_instances_results.json").read_bytes())
        limit = 10_000 if engine == "hotcoco" else 300  # all are saved where AP-fixed is asked for
        assert len(results) == sum(min(len(instances), limit) for _, instances in predictions)
        assert len({result["image_id"] for result in results}) > 6
