"""Gradient sums against autograd one number at a time; logs and files of real runs, one process and two."""

import csv
import json
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from eql_d2.data.registration import register_custom_datasets
from eql_d2.engine.class_watch import WatchClasses, summary
from eql_d2.losses import EqualizationLossV2
from eql_d2.modeling.gradient_sums import GradientSums
from tests.engine.test_resume import Stopped, train
from tests.losses.test_interface import LOSSES, K, compute


def make_batch(loss, rows=9):
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(rows, loss.num_logits, generator=generator) * 2
    return logits.requires_grad_(), torch.randint(0, K + loss.has_background, (rows,), generator=generator)


@pytest.mark.parametrize("name", LOSSES)
def test_sums_of_every_loss(name):
    loss = LOSSES[name]()
    logits, gt_classes = make_batch(loss)
    collector = GradientSums(loss.class_columns)
    intermediate = logits * 1  # as in a model, the logits are no leaf
    collector.watch(intermediate, gt_classes)
    grad = torch.autograd.grad(sum(compute(loss, intermediate, gt_classes).values()), logits)[0]
    expected = torch.zeros(2, K)
    for i, gt_class in enumerate(gt_classes.tolist()):
        for j, column in enumerate(loss.class_columns.tolist()):
            expected[0 if gt_class == j else 1, j] += grad[i, column].abs() * len(gt_classes)
    torch.testing.assert_close(collector.take_recent(), expected)
    assert collector.take_recent().abs().sum() == 0


def test_of_eqlv2_they_are_its_own_statistics():
    loss = EqualizationLossV2(K)
    collector = GradientSums(loss.class_columns)
    generator = torch.Generator().manual_seed(5)
    for _ in range(4):
        logits = torch.randn(9, K + 1, generator=generator).requires_grad_()
        gt_classes = torch.randint(0, K + 1, (9,), generator=generator)
        collector.watch(logits, gt_classes)
        loss(logits, gt_classes)["loss_cls"].backward()
    torch.testing.assert_close(collector.take_recent(), torch.stack([loss.pos_grad, loss.neg_grad]))


def test_mixed_precision_s_scale_is_undone_and_overflow_left_out():
    loss = LOSSES["softmax"]()
    plain, scaled = GradientSums(loss.class_columns), GradientSums(loss.class_columns)
    scaled.loss_scale = torch.tensor(1024.0)
    for factor, collector in ((1.0, plain), (1024.0, scaled), (torch.inf, scaled)):
        logits, gt_classes = make_batch(loss)
        collector.watch(logits, gt_classes)
        (loss(logits, gt_classes)["loss_cls"] * factor).backward()
    torch.testing.assert_close(scaled.take_recent(), plain.take_recent())


def test_summary_by_hand():
    class Counts:
        frequency_groups = ("r", "f", "r", "f")

    values = torch.tensor([1.0, 10, 3, 20])
    scalars = summary("x", values, Counts)
    assert scalars == {"x_r": 2, "x_f": 15, "x_p10": pytest.approx(1.6), "x_p50": 6.5, "x_p90": pytest.approx(17)}


@pytest.fixture
def watched_cfg(tiny_cfg):
    tiny_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = "SeesawPredictor"
    tiny_cfg.ENGINE.WATCH_PERIOD = 2
    return tiny_cfg


def read_classes(folder):
    with open(f"{folder}/class_gradients.csv", newline="") as file:
        return list(csv.DictReader(file))


def watch_of(trainer):
    """The hook under test."""
    (hook,) = (hook for hook in trainer._hooks if isinstance(hook, WatchClasses))
    return hook


def test_a_run_logs_groups_percentiles_and_classes(watched_cfg):
    watched_cfg.SOLVER.MAX_ITER = 20  # the writers write every 20 iterations
    watched_cfg.SOLVER.CHECKPOINT_PERIOD = 1000  # the file is written at the end as well
    trainer = train(watched_cfg)
    lines = [json.loads(line) for line in Path(watched_cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()]
    logged = {name for line in lines for name in line if name.startswith("classes/")}
    quantities = ("positive_gradient", "negative_gradient", "gradient_ratio", "cum_samples")
    groups = set(watch_of(trainer)._counts.frequency_groups)
    assert logged == {f"classes/{q}_{end}" for q in quantities for end in (*groups, "p10", "p50", "p90")}
    # Every second iteration, of which the last alone has a checkpoint; they are numbered from 0.
    for name in logged:
        assert [iteration for _, iteration in trainer.storage.history(name).values()] == list(range(1, 20, 2))
    assert not any(trainer.storage.smoothing_hints()[name] for name in logged)  # each value is of its own iterations
    rows = read_classes(watched_cfg.OUTPUT_DIR)
    assert len(rows) == 6
    samples = trainer.model.roi_heads.box_predictor.loss.cum_samples
    assert [float(row["classes/cum_samples"]) for row in rows] == samples.tolist()
    for row in rows:
        ratio = float(row["classes/positive_gradient"]) / float(row["classes/negative_gradient"])
        assert float(row["classes/gradient_ratio"]) == pytest.approx(ratio, rel=1e-4)


def test_the_sums_survive_a_restart(watched_cfg, tmp_path):
    train(watched_cfg)
    straight = read_classes(watched_cfg.OUTPUT_DIR)
    watched_cfg.OUTPUT_DIR = str(tmp_path / "stopped")
    with pytest.raises(Stopped):
        train(watched_cfg, stop_before=3)
    train(watched_cfg, resume=True)
    assert read_classes(watched_cfg.OUTPUT_DIR) == straight


def test_each_stage_of_a_cascade_is_watched(watched_cfg):
    watched_cfg.MODEL.ROI_HEADS.NAME = "LongTailCascadeROIHeads"
    watched_cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    train(watched_cfg)
    row = read_classes(watched_cfg.OUTPUT_DIR)[0]
    stages = [float(row[f"classes_stage{stage}/negative_gradient"]) for stage in range(3)]
    assert len(set(stages)) == 3
    assert min(stages) > 0


def test_zero_switches_it_off(watched_cfg, tmp_path):
    watched_cfg.ENGINE.WATCH_PERIOD = 0
    trainer = train(watched_cfg)
    assert trainer.model.roi_heads.box_predictor.gradient_sums is None
    assert not (tmp_path / "run" / "class_gradients.csv").exists()


@pytest.fixture(params=[[]])
def own_records(watched_cfg, request):
    """The training data registered by the user's own code, as Detectron2's tutorial does; maybe with more classes."""
    records = list(DatasetCatalog.get("tiny_train"))
    DatasetCatalog.register("own", lambda: records)
    MetadataCatalog.get("own").thing_classes = MetadataCatalog.get("tiny_train").thing_classes + request.param
    watched_cfg.DATASETS.TRAIN = ("own",)
    yield records
    DatasetCatalog.remove("own")
    MetadataCatalog.remove("own")


def test_a_dataset_of_records_is_watched_by_its_own_counts(watched_cfg, own_records):
    train(watched_cfg)
    images = [{annotation["category_id"] for annotation in record["annotations"]} for record in own_records]
    expected = [sum(number in classes for classes in images) for number in range(6)]
    assert [int(row["image_count"]) for row in read_classes(watched_cfg.OUTPUT_DIR)] == expected


@pytest.mark.parametrize("own_records", [["of no image"]], indirect=True)
def test_a_dataset_without_counts_trains_unwatched(watched_cfg, own_records, caplog):
    watched_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = "SoftmaxPredictor"  # needs no counts
    with caplog.at_level("WARNING", logger="eql_d2"):
        train(watched_cfg)
    assert "Classes are not watched: MODEL.ROI_HEADS.NUM_CLASSES is 6, but" in caplog.text


def watch_in_each_process(cfg, folder):
    torch.set_num_threads(1)
    register_custom_datasets(cfg)
    trainer = train(cfg)
    torch.save(watch_of(trainer)._sums, folder / f"{comm.get_rank()}.pth")


def test_two_processes_sum_up(watched_cfg, tmp_path, two_processes):
    watched_cfg.SOLVER.IMS_PER_BATCH = 4
    two_processes(watch_in_each_process, watched_cfg, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    assert torch.equal(first, second)
    in_file = [float(row["classes/negative_gradient"]) for row in read_classes(watched_cfg.OUTPUT_DIR)]
    assert in_file == pytest.approx(first[0, 1].tolist(), rel=1e-4)
    watched_cfg.OUTPUT_DIR = str(tmp_path / "one")
    watched_cfg.SOLVER.IMS_PER_BATCH = 2
    alone = watch_of(train(watched_cfg))._sums
    assert (first[0].sum() / alone[0].sum()).item() == pytest.approx(2, rel=0.2)  # twice the RoIs
