"""Running statistics that train are the same on all processes when a model is saved or evaluated, for any model."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils import comm
from torch import nn

from eql_d2.engine.batch_norm import AverageBatchNorm, training_statistics
from tests.conftest import ROOT


def model_of_rank(rank):
    model = nn.Sequential(
        nn.BatchNorm2d(2),
        nn.InstanceNorm2d(3, track_running_stats=True),
        nn.BatchNorm1d(2),
        nn.BatchNorm2d(1, track_running_stats=False),
    )
    for tensor in (model[0].running_mean, model[0].running_var, model[1].running_mean, model[2].running_mean):
        tensor.fill_(rank + 1)
    model[2].eval()  # frozen
    return model


def average(folder):
    """At iteration 4 a checkpoint is due; at 3 nothing."""
    model = model_of_rank(comm.get_rank())
    cfg = SimpleNamespace(SOLVER=SimpleNamespace(CHECKPOINT_PERIOD=4), TEST=SimpleNamespace(EVAL_PERIOD=0))
    hook = AverageBatchNorm(cfg)
    hook.trainer = SimpleNamespace(model=model, iter=2, max_iter=100)
    hook.after_step()
    kept = hook.local_state()
    hook.trainer.iter = 3
    hook.after_step()
    torch.save(
        (kept, {name: tensor.clone() for name, tensor in model.state_dict().items()}), folder / f"{comm.get_rank()}"
    )
    hook.load_local_state(kept)
    assert model[0].running_mean[0] == comm.get_rank() + 1


def test_means_over_processes_when_due_and_own_ones_before(tmp_path, two_processes):
    two_processes(average, tmp_path)
    for rank in (0, 1):
        kept, state = torch.load(tmp_path / str(rank))
        assert (kept[0]["0.running_mean"] == rank + 1).all()
        for name in ("0.running_mean", "0.running_var", "1.running_mean"):
            assert (state[name] == 1.5).all(), name
        assert (state["2.running_mean"] == rank + 1).all()


def test_statistics_are_those_that_steps_change():
    assert set(training_statistics(model_of_rank(0))) == {
        f"{layer}.running_{kind}" for layer in (0, 1) for kind in ("mean", "var")
    }


@pytest.mark.slow
def test_the_ledger_s_numbers_are_the_checkpoint_s(tiny_cfg, tmp_path):
    """Train with two processes, then evaluate the file with one and with two."""
    tiny_cfg.MODEL.FPN.NORM = tiny_cfg.MODEL.ROI_MASK_HEAD.NORM = "BN"
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.SOLVER.IMS_PER_BATCH, tiny_cfg.SOLVER.BASE_LR = 12, 4, 0.02
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    config = tmp_path / "config.yaml"
    config.write_text(tiny_cfg.dump())

    def run(*arguments):
        command = [sys.executable, "tools/train_net.py", "--config-file", config, *map(str, arguments)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    def results(folder):
        return json.loads((folder / "inference/tiny_val/lvis_instances_results.json").read_bytes())

    run("--num-gpus", 2, "OUTPUT_DIR", tmp_path / "run")
    weights = tmp_path / "run" / "model_final.pth"
    for count in (1, 2):
        run("--eval-only", "--num-gpus", count, "MODEL.WEIGHTS", weights, "OUTPUT_DIR", tmp_path / str(count))
    trained, one, two = (
        sorted(results(tmp_path / name), key=lambda result: (result["image_id"], -result["score"], result["bbox"]))
        for name in ("run", "1", "2")
    )
    assert trained and trained == one == two
