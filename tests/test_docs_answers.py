"""What docs/troubleshooting.md and docs/reproduce.md answer, tried on the code."""

import re

import numpy as np
import orjson
import pytest
import torch

from eql_d2.data.category_counts import category_counts
from eql_d2.data.registration import register_custom_datasets
from eql_d2.engine import LongTailTrainer
from eql_d2.engine.ledger.writing import plain_config
from eql_d2.engine.scaling import scale_to_processes
from eql_d2.errors import UserError
from eql_d2.evaluation.evaluate_files import evaluate_files
from eql_d2.long_tail import CategoryCounts
from eql_d2.losses import (
    EqualizationLossV2,
    FocalLoss,
    SeesawLoss,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SoftmaxEqualizationLoss,
)
from eql_d2.reproduction.recipes import recipe_of_row
from eql_d2.reproduction.tables import find_rows
from tests.conftest import ROOT
from tests.docs_pages import tables

PAGE = ROOT / "docs" / "troubleshooting.md"
K = 1203


def table_with(header):
    (found,) = (table for table in tables(PAGE) if table.header == header)
    return found


def test_losses_at_the_start():
    classes = torch.full((512,), K)
    classes[:128] = torch.arange(128)
    losses = {
        "softmax": SoftmaxCrossEntropy(K),
        "sigmoid, EQL": SigmoidCrossEntropy(K),
        "EQLv2": EqualizationLossV2(K),
        "Seesaw": SeesawLoss(K),
        "focal": FocalLoss(K),
    }
    rows = dict(table_with(("loss", "at the start")).rows)
    assert rows.keys() == losses.keys()
    for name, loss in losses.items():
        values = loss(loss.initial_bias().expand(512, -1).contiguous(), classes).values()
        told = [float(number) for number in re.findall(r"\d+\.\d+", rows[name])]
        assert [round(value.item(), 2) for value in values] == pytest.approx(told, abs=0.011), name


def test_sizes_of_tensors():
    for _, size, megabytes, _ in table_with(("tensor", "size", "MB", "here")).rows:
        entries = np.prod([int(side) for side in size.split(" × ")])
        assert entries * 4 / 1e6 == pytest.approx(float(megabytes), rel=0.03), size


def test_scores_of_a_new_detector_are_below_detectron2s_threshold():
    """With 0.05 it would detect nothing, and with the recipes' 0.0001 it does."""
    for loss in (SoftmaxCrossEntropy(K), SigmoidCrossEntropy(K), EqualizationLossV2(K)):
        highest = loss.scores(loss.initial_bias()[None])[:, :K].max()
        assert 0.0001 < highest < 0.05


def test_groups_are_by_image_counts():
    counts = CategoryCounts(tuple(range(4)), tuple("abcd"), (10, 11, 100, 101), (999, 11, 100, 101), 1000)
    assert counts.frequency_groups == ("r", "c", "c", "f")


def test_a_group_without_objects_has_no_ap(tiny_set, tmp_path):
    """NaN, and left out of the mean: detections of the other classes are perfect, so AP is 100."""
    content = orjson.loads((tiny_set / "val.json").read_bytes())
    rare = {category["id"] for category in content["categories"] if category["frequency"] == "r"}
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] not in rare]
    for image in content["images"]:
        image["not_exhaustive_category_ids"] = []
    found = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
        for a in content["annotations"]
    ]
    assert rare
    assert found
    (tmp_path / "val.json").write_bytes(orjson.dumps(content))
    (tmp_path / "results.json").write_bytes(orjson.dumps(found))
    metrics = evaluate_files(tmp_path / "val.json", tmp_path / "results.json", ("bbox",))["bbox"]
    assert np.isnan(metrics["APr"])
    assert (metrics["AP"], metrics["APc"], metrics["APf"]) == pytest.approx((100, 100, 100))


def test_low_scores_cost_no_ap(tiny_set, tmp_path):
    content = orjson.loads((tiny_set / "val.json").read_bytes())
    found = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
        for a in content["annotations"]
    ]
    wrong = [dict(result, bbox=[0, 0, 1, 1], score=0.0002) for result in found[:20]]
    ap = []
    for results in (found, found + wrong):
        (tmp_path / "results.json").write_bytes(orjson.dumps(results))
        ap.append(evaluate_files(tiny_set / "val.json", tmp_path / "results.json", ("bbox",))["bbox"]["AP"])
    assert ap == pytest.approx([100, 100])


def test_divergence_is_one_sentence(tiny_cfg):
    tiny_cfg.SOLVER.merge_from_list(["BASE_LR", 1e6, "MAX_ITER", 20])
    tiny_cfg.DATASETS.TEST = ()
    trainer = LongTailTrainer(tiny_cfg)
    trainer.resume_or_load(resume=False)
    with pytest.raises(UserError, match=r"lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_ITERS or set SOLVER.CLIP_GRAD"):
        trainer.train()


def test_a_resumed_run_keeps_its_state_and_its_learning_rate(tiny_cfg):
    tiny_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = "EQLv2Predictor"
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.MAX_ITER = 2
    first = LongTailTrainer(tiny_cfg)
    first.resume_or_load(resume=False)
    first.train()
    tiny_cfg.SOLVER.BASE_LR /= 10
    resumed = LongTailTrainer(tiny_cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.optimizer.param_groups[0]["lr"] == first.optimizer.param_groups[0]["lr"] == 0.03
    name = "roi_heads.box_predictor.loss.pos_grad"
    assert name in PAGE.read_text()
    collected = resumed.model.state_dict()[name]
    assert collected.sum() > 0
    assert torch.equal(collected, first.model.state_dict()[name])


def test_seql_stays_finite():
    loss = SoftmaxEqualizationLoss(4, [0.5, 0.4, 0.05, 0.05], lambda_=0.1, gamma=1.0)
    logits = torch.tensor([[1e4, -1e4, 1e4, -1e4]] * 4, requires_grad=True)
    value = loss(logits, torch.arange(4))["loss_cls"]
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


def test_category_ids_with_gaps_are_counted_in_ascending_order(tiny_cfg, tiny_set, tmp_path):
    new_ids = {1: 70, 2: 7, 3: 30, 4: 1000, 5: 12, 6: 13}
    content = orjson.loads((tiny_set / "train.json").read_bytes())
    names = {}
    for category in content["categories"]:
        category["id"] = new_ids[category["id"]]
        names[category["id"]] = category["name"]
    for annotation in content["annotations"]:
        annotation["category_id"] = new_ids[annotation["category_id"]]
    for image in content["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [new_ids[identity] for identity in image[key]]
    (tmp_path / "gaps.json").write_bytes(orjson.dumps(content))
    tiny_cfg.DATASETS.CUSTOM = [
        {"name": "with_gaps", "annotations": str(tmp_path / "gaps.json"), "images": str(tiny_set)}
    ]
    register_custom_datasets(tiny_cfg)
    tiny_cfg.DATASETS.TRAIN = ("with_gaps",)
    counts = category_counts(tiny_cfg)
    assert counts.category_ids == (7, 12, 13, 30, 70, 1000)
    assert counts.names == tuple(names[identity] for identity in counts.category_ids)
    found = [sum(a["category_id"] == identity for a in content["annotations"]) for identity in counts.category_ids]
    assert list(counts.instance_counts) == found


def test_a_scaled_run_is_not_of_the_rows_config(monkeypatch):
    monkeypatch.chdir(ROOT)
    (row,) = find_rows("eqlv2_readme/r084")[1]
    recipe = recipe_of_row(row)
    scaled = recipe.cfg.clone()
    assert recipe.differing_keys(plain_config(scaled)) == []
    scaled.SOLVER.REFERENCE_WORLD_SIZE = 8
    differing = recipe.differing_keys(plain_config(scale_to_processes(scaled, 64)))
    assert {"SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR", "SOLVER.MAX_ITER"} <= set(differing)
