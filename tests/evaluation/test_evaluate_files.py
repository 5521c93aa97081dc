"""Evaluation of files: the official packages' numbers, in whatever form the results come, and clear errors."""

import csv
import json
import math
import random
import subprocess
import sys

import pycocotools.mask as mask_utils
import pytest

from eql_d2.errors import UserError
from eql_d2.evaluation.evaluate_files import read_ground_truth
from eql_d2.evaluation.metrics.references import run_official_evaluation, run_pycocotools
from tests.conftest import ROOT
from tests.evaluation.made_up import as_coco, fresh, made_up, official


@pytest.fixture
def case():
    return made_up(seed=10, num_images=20)


def approx(expected):
    return pytest.approx(expected, abs=1e-9, nan_ok=True)


# --- numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["hotcoco", "lvis"])
def test_lvis_files(case, run, engine):
    pytest.importorskip("lvis")
    metrics = run(*case, engine=engine)
    assert metrics == {task: approx(official(*case, task)) for task in ("bbox", "segm")}
    assert metrics["segm"]["AP"] > 20


@pytest.mark.parametrize("form", ["shuffled", "indented", "one per line", "other keys first", "polygons", "raw counts"])
def test_forms_of_results(case, run, form):
    """Any order, any white space, any form of masks."""
    pytest.importorskip("lvis")
    content, results = case
    text = None
    if form == "shuffled":
        random.Random(0).shuffle(results)
    expected = {task: approx(official(content, results, task)) for task in ("bbox", "segm")}
    if form == "indented":
        text = json.dumps(results, indent=3)
    elif form == "one per line":
        text = "\n[ " + "\n,\r\n".join(json.dumps(result) for result in results) + "\n]\n"
    elif form == "other keys first":
        results = [
            {"segmentation": r["segmentation"], "note": 'a "},{" in it é', "x": [{"y": {}}, {}]} | r for r in results
        ]
    elif form == "polygons":
        for result in results:
            x, y, width, height = result["bbox"]
            result["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    elif form == "raw counts":
        for result in results:
            columns = mask_utils.decode(result["segmentation"]).ravel(order="F").tolist()
            counts, value = [0], 0
            for pixel in columns:
                if pixel != value:
                    counts.append(0)
                    value = pixel
                counts[-1] += 1
            result["segmentation"]["counts"] = counts
    assert run(content, text or results) == expected


def test_images_without_results_count(case, run):
    pytest.importorskip("lvis")
    content, results = case
    results = [result for result in results if result["image_id"] > 3]
    assert run(content, results)["bbox"] == approx(official(content, results, "bbox"))
    assert run(content, [])["bbox"]["AP"] == 0


def test_tasks_follow_from_the_results(case, run):
    content, results = case
    both = run(content, results)
    for task, other in (("bbox", "segmentation"), ("segm", "bbox")):
        shapes = [{key: value for key, value in result.items() if key != other} for result in results]
        assert run(content, shapes) == {task: approx(both[task])}
        assert run(content, results, [task]) == {task: approx(both[task])}
        wrong = "segm" if task == "bbox" else "bbox"
        with pytest.raises(UserError, match=rf"result 0 \(counted from 0\) has no {other}; leave {wrong} "):
            run(content, shapes, [wrong])


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_coco_files_get_their_groups_from_training_counts(case, run, engine, tmp_path):
    content, results = as_coco(case[0]), case[1]
    shares = {1: 5, 2: 10, 3: 11, 4: 100, 5: 101, 6: 300}  # images of training: r, r, c, c, f, f
    train = [{"image_id": i, "category_id": k} for k, share in shares.items() for i in range(share)]
    train += [{"image_id": i, "category_id": 1, "iscrowd": 1} for i in range(200, 300)]  # crowds do not count
    train += [{"image_id": 0, "category_id": 2} for _ in range(50)]  # nor does a second one in an image
    categories = [{"id": k, "name": str(k)} for k in shares]
    train = [{**annotation, "bbox": [0, 0, 1, 1]} for annotation in train]
    images = [{"id": i, "file_name": "x.jpg", "width": 9, "height": 9} for i in range(300)]
    (tmp_path / "train.json").write_text(json.dumps({"images": images, "annotations": train, "categories": categories}))
    counts = [{**c, "image_count": shares[c["id"]], "instance_count": 500} for c in categories]
    (tmp_path / "counts.json").write_text(json.dumps({"num_images": 300, "categories": counts}))
    metrics = run(content, results, engine=engine, train_annotations=tmp_path / "train.json")
    assert metrics == run(content, results, engine=engine, category_counts=tmp_path / "counts.json")
    shapes = [{key: value for key, value in result.items() if key != "segmentation"} for result in results]
    evaluation = run_pycocotools(fresh(content), shapes, "bbox")
    of_class = 100 * evaluation.eval["precision"][:, :, :, 0, 2].mean(axis=(0, 1))
    assert metrics["bbox"]["AP"] == pytest.approx(100 * evaluation.stats[0])
    for letter, group in (("r", of_class[:2]), ("c", of_class[2:4]), ("f", of_class[4:])):
        assert metrics["bbox"][f"AP{letter}"] == pytest.approx(group.mean(), abs=1e-9)
    with pytest.raises(UserError, match="both say how often classes are"):
        run(content, results, train_annotations="x", category_counts="y")


def test_training_counts_of_other_classes(case, run, tmp_path):
    counts = [{"id": 1, "name": "one", "image_count": 5, "instance_count": 5}]
    (tmp_path / "counts.json").write_text(json.dumps({"num_images": 300, "categories": counts}))
    with pytest.raises(UserError, match=r"counts.json has no category 2 \('class 2'\) of .*a.json"):
        run(*case, category_counts=tmp_path / "counts.json")


def test_rules_are_told_and_can_be_chosen(case, run, caplog):
    content, results = case
    federated = run(content, results)["bbox"]
    assert not caplog.records
    exhaustive = run(as_coco(content), results)["bbox"]
    assert "has no neg_category_ids: evaluated by COCO's rules" in caplog.text
    assert "no APr, APc and APf without --train-annotations or --category-counts" in caplog.text
    assert [name for name, value in exhaustive.items() if math.isnan(value)] == ["APr", "APc", "APf"]
    chosen = run(content, results, rules="coco")["bbox"]
    assert chosen["AP"] == pytest.approx(exhaustive["AP"])
    assert chosen["AP"] != pytest.approx(federated["AP"])
    with pytest.raises(UserError, match="image 1 has no neg_category_ids and no not_exhaustive_category_ids"):
        run(as_coco(content), results, rules="lvis")
    del content["images"][4]["neg_category_ids"]
    with pytest.raises(UserError, match="image 5 has no neg_category_ids"):
        run(content, results)


def test_fixed_ap_and_the_ap_of_each_class(case, run, tmp_path):
    pytest.importorskip("lvis")
    metrics = run(*case, ["bbox"], fixed_ap=True, class_ap_folder=tmp_path / "new")["bbox"]
    assert metrics["AP-fixed"] == pytest.approx(official(*case, "bbox", max_dets=-1)["AP"], abs=1e-9)
    rows = list(csv.DictReader((tmp_path / "new" / "per_class_ap_bbox.csv").open()))
    assert [row["category_id"] for row in rows] == list("123456")
    for column in ("AP", "AP-fixed"):
        assert sum(float(row[column]) for row in rows) / 6 == pytest.approx(metrics[column], abs=1e-3)


def test_ground_truth_keeps_little(case, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(case[0]))
    ground_truth = read_ground_truth(tmp_path / "a.json")
    assert ground_truth.rules == "lvis"
    assert [a for i in ground_truth.images for a in ground_truth.annotations(i)] == case[0]["annotations"]
    packed = sum(map(len, ground_truth._packed.values()))
    assert packed < 1.1 * len(json.dumps(case[0]["annotations"], separators=(",", ":")))


# --- the tool ---------------------------------------------------------------------------------------------


def tool(*arguments):
    command = [sys.executable, "tools/evaluate.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_tool(case, run, tmp_path):
    case[0]["annotations"] = [a for a in case[0]["annotations"] if a["category_id"] not in (3, 6)]  # no rare class
    expected = run(*case)
    files = ("--annotations", tmp_path / "a.json", "--results", tmp_path / "r.json")
    done = tool(*files, "--output", tmp_path / "deep" / "metrics.json", "--iou-type", "bbox", "segm")
    assert done.returncode == 0, done.stderr
    assert "AR@300" in done.stdout
    metrics = json.loads((tmp_path / "deep" / "metrics.json").read_text())
    assert metrics["bbox"]["APr"] is None
    for task, values in expected.items():
        assert {name: value for name, value in metrics[task].items() if value is not None} == approx(
            {name: value for name, value in values.items() if not math.isnan(value)}
        )
    (tmp_path / "r.json").write_text(json.dumps([{**case[1][0], "score": float("nan")}]))
    done = tool(*files)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: Results file {tmp_path}/r.json: result 0 (counted from 0) has the score nan, not a finite number.\n"
    )


# --- masks whose sizes are those of boxes -------------------------------------------------------------------


def with_large_boxes(results):
    """The same masks, each with a box of sixteen times its area."""
    return [{**result, "bbox": [*result["bbox"][:2], *(4 * side for side in result["bbox"][2:])]} for result in results]


@pytest.mark.parametrize("engine", ["hotcoco", "lvis"])
def test_sizes_of_masks_by_their_boxes_are_the_official_packages(case, run, engine):
    """The official tools go by the box's area where a result has both."""
    pytest.importorskip("lvis")
    content, results = case
    results = with_large_boxes(results)
    found = run_official_evaluation(fresh(content), results, "segm").get_results()
    expected = {name: 100 * value if value >= 0 else math.nan for name, value in found.items()}
    by_boxes = run(content, results, ["segm"], engine=engine, segm_area="box")["segm"]
    assert by_boxes == approx(expected)
    by_masks = run(content, results, ["segm"], engine=engine)["segm"]
    assert by_masks == approx(official(content, results, "segm"))
    assert by_masks["AP"] == by_boxes["AP"] and by_masks["APs"] != approx(by_boxes["APs"])


def test_sizes_by_boxes_of_the_other_rules_and_of_fixed_ap(case, run):
    content, results = as_coco(case[0]), with_large_boxes(case[1])
    expected = run_pycocotools(content, [dict(result) for result in results], "segm").stats[3:6] * 100
    values = run(content, results, ["segm"], segm_area="box")["segm"]
    assert [values[name] for name in ("APs", "APm", "APl")] == approx([v if v >= 0 else math.nan for v in expected])
    values = run(*case[:1], results, ["segm"], segm_area="box", fixed_ap=True)["segm"]
    assert [values[f"AP{size}-fixed"] for size in "sml"] == approx([values[f"AP{size}"] for size in "sml"])


def test_sizes_by_boxes_need_boxes(case, run):
    content, results = case
    for result in results:
        del result["bbox"]
    with pytest.raises(UserError, match="has no bbox, whose area is asked for; leave --segm-area at mask"):
        run(content, results, segm_area="box")
    with pytest.raises(UserError, match=r"segm_area \(--segm-area\) is 'boxes'; it must be mask or box"):
        run(content, results, segm_area="boxes")
