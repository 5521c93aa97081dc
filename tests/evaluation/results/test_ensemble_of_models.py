"""Ensembles of models on EmojiLVIS, and the tool."""

import runpy
import sys

import orjson
import pytest
import torch
from torchvision.ops import batched_nms

from eql_d2.evaluation.evaluate_files import evaluate_files
from eql_d2.evaluation.results.ensemble import merge_results, read_images_and_categories
from eql_d2.evaluation.results.ensemble_rules import Member, Rules
from tests.conftest import ROOT
from tests.evaluation.predictions import evaluate, noisy_predictions


@pytest.fixture
def saved(tiny_cfg, tiny_set, tmp_path):
    """Annotations of EmojiLVIS's val set, and the results of two made-up models."""
    files = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        evaluate("tiny_val", noisy_predictions("tiny_val", seed), output_dir=str(folder))
        files.append(folder / "lvis_instances_results.json")
    return tiny_set / "val.json", files


def without_overlaps(results):
    """What a detector gives: within an image and class no two boxes overlap by more than a half."""
    boxes = torch.tensor([r["bbox"] for r in results], dtype=torch.float64)
    boxes[:, 2:] += boxes[:, :2]
    groups = torch.tensor([1000 * r["image_id"] + r["category_id"] for r in results])
    kept = batched_nms(boxes, torch.tensor([r["score"] for r in results], dtype=torch.float64), groups, 0.5)
    return [results[i] for i in sorted(kept.tolist())]


@pytest.mark.parametrize("rules", [Rules(), Rules(iou_type="segm", iou_threshold=0.95), Rules("wbf")])
@pytest.mark.parametrize("copies", [2, 3])
def test_a_model_with_itself_changes_no_metric(saved, tmp_path, rules, copies):
    annotations, (path, _) = saved
    results = without_overlaps(orjson.loads(path.read_bytes()))
    single = tmp_path / "single.json"
    single.write_bytes(orjson.dumps(results))
    ground_truth = read_images_and_categories(annotations)
    count = merge_results(ground_truth, [Member(single)] * copies, tmp_path / "merged.json", rules)
    assert count == len(results) > 20
    expected = evaluate_files(annotations, single)
    assert 5 < expected["bbox"]["AP"] < 95
    metrics = evaluate_files(annotations, tmp_path / "merged.json")
    for task in ("bbox", "segm"):
        assert metrics[task] == pytest.approx(expected[task], abs=1e-9, nan_ok=True)


def test_images_merged_at_once_or_one_by_one(saved, tmp_path, monkeypatch):
    annotations, files = saved
    merged = []
    for at_once in (1, 10**6):
        monkeypatch.setattr("eql_d2.evaluation.results.ensemble.DETECTIONS_AT_ONCE", at_once)
        for merge_by in ("nms", "wbf"):
            ground_truth = read_images_and_categories(annotations)
            merge_results(ground_truth, [Member(f) for f in files], tmp_path / "out.json", Rules(merge_by))
            merged.append((tmp_path / "out.json").read_bytes())
    assert orjson.loads(merged[0]) == orjson.loads(merged[2])
    assert orjson.loads(merged[1]) == orjson.loads(merged[3])
    assert len(merged[0]) > 1000


def test_the_tool(saved, tmp_path, monkeypatch, capsys):
    annotations, files = saved
    tool = ROOT / "tools" / "ensemble.py"
    arguments = ["--annotations", annotations, "--results", *files, "--output", tmp_path / "merged.json"]
    arguments += ["--merge", "wbf", "--rescore", "r=2", "--weights", "2"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in [tool, *arguments, "1"]])
    runpy.run_path(str(tool), run_name="__main__")
    count = len(orjson.loads((tmp_path / "merged.json").read_bytes()))
    assert capsys.readouterr().out == f"{tmp_path / 'merged.json'}: {count} results of 2 models in 12 images\n"
    monkeypatch.setattr(sys, "argv", [str(word) for word in [tool, *arguments]])
    with pytest.raises(SystemExit, match=r"^error: --weights has 1 numbers for 2 results files; give one each\.$"):
        runpy.run_path(str(tool), run_name="__main__")
