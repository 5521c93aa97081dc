"""Which checkpoint a run goes on from: broken ones cost themselves alone, restarts find their own run only."""

import shutil
from argparse import Namespace

import pytest
import torch

from eql_d2.engine import setup
from eql_d2.engine.checkpoint import AtomicCheckpointer
from eql_d2.engine.resuming import check_run_folder, checkpoint_to_resume, decide_resume, newest_good
from eql_d2.engine.run_lock import RunLock, launch_of
from eql_d2.errors import UserError


@pytest.fixture
def run(tmp_path):
    """A folder with the checkpoints of three iterations and the final one."""
    model = torch.nn.Linear(3, 3)
    checkpointer = AtomicCheckpointer(model, str(tmp_path))
    for iteration in (9, 19, 29):
        torch.nn.init.constant_(model.weight, iteration)
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    return tmp_path


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


BREAKAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:300]),
    "flipped": flip,
    "gone": lambda path: path.unlink(),
    "text": lambda path: path.write_text("<html>404</html>"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_last_checkpoint_names_the_newest_good_one(run, breakage):
    BREAKAGES[breakage](run / "model_0000029.pth")
    with pytest.raises(
        UserError, match=r"model_0000029.pth is broken \(.*\); the newest whole one is model_0000019.pth"
    ):
        checkpoint_to_resume(str(run))
    assert checkpoint_to_resume(str(run), "last-good") == run / "model_0000019.pth"
    model = torch.nn.Linear(3, 3)
    checkpointer = AtomicCheckpointer(model, str(run))
    assert checkpointer.resume_or_load("", resume="last-good")["iteration"] == 19
    assert (model.weight == 19).all()
    assert checkpoint_to_resume(str(run)) == run / "model_0000019.pth"  # which is the last from now on


@pytest.mark.parametrize("content", [b"", b"\n", b"model_0000099.pth", b"../model_0000029.pth", b"\xff\xfe", b"\0"])
def test_a_broken_pointer_names_the_newest_good_one(run, content):
    (run / "last_checkpoint").write_bytes(content)
    with pytest.raises(
        UserError, match=r"the newest whole one is model_0000029.pth: go on from there with --resume last"
    ):
        checkpoint_to_resume(str(run))
    (run / "last_checkpoint").unlink()
    with pytest.raises(UserError, match=r"newest whole one is model_0000029.pth"):
        checkpoint_to_resume(str(run))


def test_nothing_whole_is_left(run):
    for path in run.glob("*.pth"):
        flip(path)
    with pytest.raises(UserError, match="no other is whole; start anew"):
        checkpoint_to_resume(str(run))
    with pytest.raises(UserError, match="has no whole checkpoint"):
        checkpoint_to_resume(str(run), "last-good")


def test_iterations_count_and_not_names(run):
    shutil.copy(run / "model_0000009.pth", run / "model_0000999.pth")
    assert newest_good(str(run)) == run / "model_0000029.pth"


def test_checkpoints_without_a_pointer_are_not_trained_over(run):
    (run / "last_checkpoint").unlink()
    with pytest.raises(UserError, match=r"holds checkpoints of a run \(model_0000029.pth\) but no last_checkpoint"):
        check_run_folder(str(run), "")
    check_run_folder(str(run), "last-good")


def test_weights_of_others_are_no_run(tmp_path):
    (tmp_path / "r50.pth").write_bytes(b"weights")
    check_run_folder(str(tmp_path), "")


def test_auto_resumes_what_is_there(run, tmp_path):
    assert decide_resume(str(run), "auto", {}) == "last"
    assert decide_resume(str(tmp_path / "nothing"), "auto", {}) == ""
    assert decide_resume(str(run), "", {}) == ""
    assert decide_resume(str(run), "last-good", {}) == "last-good"


@pytest.mark.parametrize(
    ("environment", "counter"),
    [
        ({"TORCHELASTIC_RUN_ID": "none"}, "TORCHELASTIC_RESTART_COUNT"),
        ({"TORCHELASTIC_RUN_ID": "job7"}, "TORCHELASTIC_RESTART_COUNT"),
        ({"SLURM_JOB_ID": "7"}, "SLURM_RESTART_COUNT"),
    ],
)
def test_restarts_go_on_with_their_own_run_only(run, environment, counter):
    restarted = {**environment, counter: "1"}
    assert decide_resume(str(run), "", restarted) == ""  # the run there is not this job's
    lock = RunLock(run, launch_of(environment))
    lock.acquire()
    lock.release()
    assert decide_resume(str(run), "", {**environment, counter: "0"}) == ""
    assert decide_resume(str(run), "", restarted) == "last"
    other = {name: f"{value}8" for name, value in environment.items()}
    assert decide_resume(str(run), "", {**other, counter: "1"}) == ""


def test_the_tools_are_told_what_was_decided(tiny_cfg, tiny_checkpoint, tmp_path):
    """With --resume auto, and under torchrun and Slurm, the command line alone does not say it."""
    (tmp_path / "tiny.yaml").write_text(tiny_cfg.dump())
    args = Namespace(config_file=str(tmp_path / "tiny.yaml"), opts=[], eval_only=False, resume="auto")
    setup(args)
    assert args.resume == ""
    shutil.copy(tiny_checkpoint, tiny_cfg.OUTPUT_DIR)
    (tmp_path / "run" / "last_checkpoint").write_text(tiny_checkpoint.name)
    args.resume = "auto"
    setup(args)
    assert args.resume == "last"
