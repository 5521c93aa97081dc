"""The linear scaling rule of SOLVER.REFERENCE_WORLD_SIZE, through the trainer."""

import json
import subprocess
import sys
from itertools import islice

import pytest

from eql_d2.data.training.loader import build_train_loader
from eql_d2.engine import LongTailTrainer
from eql_d2.engine.scaling import scale_to_processes
from eql_d2.errors import UserError
from tests.conftest import ROOT

SOLVER = {
    "IMS_PER_BATCH": 4,
    "BASE_LR": 0.02,
    "MAX_ITER": 40,
    "STEPS": (20, 30),
    "WARMUP_ITERS": 10,
    "CHECKPOINT_PERIOD": 8,
    "REFERENCE_WORLD_SIZE": 4,
}


@pytest.fixture
def reference_cfg(tiny_cfg):
    """A config that is meant for four processes."""
    for key, value in SOLVER.items():
        tiny_cfg.SOLVER[key] = value
    tiny_cfg.TEST.EVAL_PERIOD = 20
    return tiny_cfg


def test_on_one_process_instead_of_four(reference_cfg):
    reference_cfg.freeze()
    trainer = LongTailTrainer(reference_cfg)
    solver = trainer.cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.REFERENCE_WORLD_SIZE) == (1, 0.005, 1)
    assert (solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS) == (160, (80, 120), 40)
    assert (solver.CHECKPOINT_PERIOD, trainer.cfg.TEST.EVAL_PERIOD) == (32, 80)
    assert trainer.cfg.is_frozen()
    # What is not of the schedule stays, and the caller's config too.
    for key in ("SEED", "DATALOADER", "MODEL", "ENGINE"):
        assert trainer.cfg[key] == reference_cfg[key]
    assert {key: reference_cfg.SOLVER[key] for key in SOLVER} == SOLVER


def test_the_scaled_schedule_is_what_trains(reference_cfg):
    trainer = LongTailTrainer(reference_cfg)
    assert trainer.max_iter == 160
    assert len(next(iter(trainer.data_loader))) == 1
    rates = []
    for _ in range(160):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.scheduler.step()
    # Warm-up is linear from WARMUP_FACTOR (1/1000) of the rate to the whole of it.
    assert rates[0] == pytest.approx(0.005 / 1000)
    assert rates[20] == pytest.approx(0.005 * (1 + 1 / 1000) / 2)
    assert rates[40:80] == pytest.approx([0.005] * 40)
    assert rates[80:120] == pytest.approx([0.0005] * 40)
    assert rates[120:] == pytest.approx([0.00005] * 40)


def test_the_same_images_come_in_the_same_order(reference_cfg):
    def images(cfg, iterations):
        batches = islice(build_train_loader(cfg, seed=3), iterations)
        return [sample["image_id"] for batch in batches for sample in batch]

    of_reference = images(reference_cfg, 5)
    assert len(of_reference) == 20
    assert images(scale_to_processes(reference_cfg, 1), 20) == of_reference


@pytest.mark.slow
def test_two_processes_instead_of_one(tiny_cfg, tmp_path):
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.merge_from_list(["REFERENCE_WORLD_SIZE", 1, "BASE_LR", 0.01, "MAX_ITER", 6, "WARMUP_ITERS", 2])
    tiny_cfg.SOLVER.IMS_PER_BATCH = 1
    (tmp_path / "config.yaml").write_text(tiny_cfg.dump())
    tool = [sys.executable, ROOT / "tools" / "train_net.py", "--config-file", tmp_path / "config.yaml"]
    finished = subprocess.run([*tool, "--num-gpus", "2"], check=True, capture_output=True, text=True)
    assert "batch_size=2, learning_rate=0.02, max_iter=3, warmup=1" in finished.stdout
    last = json.loads((tmp_path / "run" / "metrics.json").read_text().splitlines()[-1])
    assert (last["iteration"], last["lr"]) == (2, 0.02)


@pytest.mark.parametrize("reference", [0, 1])
def test_nothing_to_scale(reference_cfg, reference):
    reference_cfg.SOLVER.REFERENCE_WORLD_SIZE = reference
    assert scale_to_processes(reference_cfg, 1) is reference_cfg


def test_periods_never_become_never(reference_cfg):
    reference_cfg.SOLVER.merge_from_list(["REFERENCE_WORLD_SIZE", 1, "MAX_ITER", 20, "CHECKPOINT_PERIOD", 5])
    scaled = scale_to_processes(reference_cfg, 64)
    assert (scaled.SOLVER.MAX_ITER, scaled.SOLVER.CHECKPOINT_PERIOD, scaled.TEST.EVAL_PERIOD) == (1, 1, 1)
    reference_cfg.TEST.EVAL_PERIOD = 0  # never before the end, as it says
    assert scale_to_processes(reference_cfg, 64).TEST.EVAL_PERIOD == 0


@pytest.mark.parametrize("reference", [3, -2])
def test_a_reference_that_does_not_divide_the_batch(reference_cfg, reference):
    reference_cfg.SOLVER.REFERENCE_WORLD_SIZE = reference
    with pytest.raises(UserError, match=f"REFERENCE_WORLD_SIZE is {reference}, by which SOLVER.IMS_PER_BATCH 4"):
        LongTailTrainer(reference_cfg)
