"""A run that was stopped and resumed ends with the weights of one that was not; checkpoints are never half written."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch

from eql_d2.engine import LongTailTrainer
from eql_d2.engine.checkpoint import AtomicCheckpointer
from eql_d2.errors import UserError
from tests.conftest import ROOT, make_tiny_cfg, narrow


class Stopped(Exception):
    """Stands for the power failure."""


def train_until(trainer, stop_before=None):
    """Train; raise Stopped before an iteration if asked."""
    run_step = trainer.run_step

    def run_step_or_stop():
        if trainer.iter == stop_before:
            raise Stopped
        run_step()

    trainer.run_step = run_step_or_stop
    trainer.train()


def train(cfg, *, resume=False, stop_before=None):
    """Train without the evaluation at the end; raise Stopped before an iteration if asked."""
    trainer = LongTailTrainer(cfg)
    trainer._hooks = [hook for hook in trainer._hooks if type(hook).__name__ != "EvalHook"]
    trainer.resume_or_load(resume=resume)
    train_until(trainer, stop_before)
    return trainer


@pytest.fixture(scope="module")
def straight(tiny_set, tmp_path_factory):
    """Config of a run that nothing stops, and its trainer."""
    torch.set_num_threads(1)
    cfg = make_tiny_cfg(tiny_set, tmp_path_factory.mktemp("resume") / "straight")
    narrow(cfg)
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD = "RepeatFactorTrainingSampler", 0.5
    return cfg, train(cfg)


@pytest.mark.parametrize("workers", [0, 1])
def test_stopped_and_resumed_equals_uninterrupted(straight, tmp_path, workers):
    cfg, whole = straight
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(tmp_path / "stopped")
    cfg.DATALOADER.NUM_WORKERS = workers  # the data does not depend on it
    with pytest.raises(Stopped):
        train(cfg, stop_before=3)  # the last checkpoint is that of iteration 2
    resumed = train(cfg, resume=True)
    assert resumed.start_iter == 2
    for (name, value), other in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    momentum, resumed_momentum = (
        [state["momentum_buffer"] for state in trainer.optimizer.state.values()] for trainer in (whole, resumed)
    )
    assert all(torch.equal(a, b) for a, b in zip(momentum, resumed_momentum, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("predictor", ["EQLv2Predictor", "SeesawPredictor", "BAGSPredictor"])
@pytest.mark.parametrize("heads", ["LongTailROIHeads", "LongTailCascadeROIHeads"])
def test_a_long_run_stopped_half_way_ends_with_the_same_state(tiny_cfg, tmp_path, predictor, heads):
    tiny_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR, tiny_cfg.MODEL.ROI_HEADS.NAME = predictor, heads
    tiny_cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 100, 50
    tiny_cfg.ENGINE.WATCH_PERIOD = 20
    straight = train(tiny_cfg)
    tiny_cfg.OUTPUT_DIR = str(tmp_path / "stopped")
    with pytest.raises(Stopped):
        train(tiny_cfg, stop_before=50)
    resumed = train(tiny_cfg, resume=True)
    assert resumed.start_iter == 50
    state, resumed_state = straight.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(value, resumed_state[name]) for name, value in state.items())
    if predictor != "BAGSPredictor":
        assert any(".loss." in name for name in state)
    files = [(tmp_path / folder / "class_gradients.csv").read_text() for folder in ("run", "stopped")]
    assert files[0] == files[1]


def test_a_resumed_run_says_which_options_it_does_not_take(straight, caplog):
    tiny_cfg = straight[0].clone()
    trainer = LongTailTrainer(tiny_cfg)
    trainer.resume_or_load(resume=True)
    assert "start anew" not in caplog.text
    tiny_cfg.SOLVER.BASE_LR *= 2
    tiny_cfg.SOLVER.WEIGHT_DECAY = 0.5
    trainer = LongTailTrainer(tiny_cfg)
    trainer.resume_or_load(resume=True)
    kept = tiny_cfg.SOLVER.BASE_LR / 2
    assert f"SOLVER.BASE_LR is {2 * kept:g}, but a resumed run keeps that of its checkpoint, {kept:g};" in caplog.text
    assert "SOLVER.WEIGHT_DECAY is 0.5" in caplog.text and "MOMENTUM" not in caplog.text


def test_another_seed_gives_other_weights(straight, tmp_path):
    """The test above could not fail if nothing were random."""
    cfg, first = straight
    cfg = cfg.clone()
    cfg.SEED, cfg.OUTPUT_DIR = 2, str(tmp_path / "other")
    second = train(cfg)
    key = "roi_heads.box_predictor.cls_score.weight"
    assert not torch.equal(first.model.state_dict()[key], second.model.state_dict()[key])


def test_resume_without_a_checkpoint(tiny_cfg):
    with pytest.raises(UserError, match=r"--resume: .*run has no checkpoint"):
        LongTailTrainer(tiny_cfg).resume_or_load(resume=True)


def test_a_run_is_not_overwritten(tiny_cfg):
    LongTailTrainer(tiny_cfg).checkpointer.save("model_0000001", iteration=1)
    with pytest.raises(UserError, match="holds a run already; continue it with --resume"):
        LongTailTrainer(tiny_cfg).resume_or_load(resume=False)


@pytest.fixture
def small_files_only():
    """A real limit on file size, which fails writing as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def checkpointer(tmp_path):
    checkpointer = AtomicCheckpointer(torch.nn.Linear(200, 200), str(tmp_path))  # 160 kB
    checkpointer.save("model_0000001", iteration=1)
    return checkpointer


def test_full_disk_keeps_the_last_good_checkpoint(checkpointer, tmp_path, request):
    good = checkpointer.model.weight.clone()
    torch.nn.init.zeros_(checkpointer.model.weight)
    request.getfixturevalue("small_files_only")
    for name in ("model_0000002", "model_0000001"):  # a new file, and one of the same name
        with pytest.raises(UserError, match=rf"{name}.pth could not be written .* checkpoint: .*model_0000001.pth"):
            checkpointer.save(name, iteration=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth"]
    model = torch.nn.Linear(200, 200)
    AtomicCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    assert torch.equal(model.weight, good)


def test_saving_again_replaces_the_checkpoint(checkpointer, tmp_path):
    torch.nn.init.zeros_(checkpointer.model.weight)
    checkpointer.save("model_0000001", iteration=1)
    assert torch.load(tmp_path / "model_0000001.pth")["model"]["weight"].abs().sum() == 0
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_killed_process_resumes_exactly(tiny_cfg, tmp_path):
    """SIGKILL leaves no time to clean up; the resumed run ends with the very weights of one left alone."""
    narrow(tiny_cfg)
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.MAX_ITER = 8
    killed = tmp_path / "killed"
    config = tmp_path / "config.yaml"
    config.write_text(tiny_cfg.dump())
    command = [sys.executable, "tools/train_net.py", "--config-file", config, "OUTPUT_DIR", killed]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as in the tests: sums are the same to the last bit
    process = subprocess.Popen(command, cwd=ROOT, env=one_thread, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (killed / "model_0000003.pth").exists():
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "model_final.pth").exists()
    straight = train(tiny_cfg).model.state_dict()
    tiny_cfg.OUTPUT_DIR = str(killed)
    resumed = train(tiny_cfg, resume=True)
    assert resumed.start_iter >= 2  # the kill may come between a checkpoint and the pointer to it
    assert all(torch.equal(value, resumed.model.state_dict()[name]) for name, value in straight.items())
