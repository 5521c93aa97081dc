"""Stops by any signal, in the foreground and in the background: nothing is lost and nothing is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from eql_d2.child_processes import leave_stopping_to_parent
from eql_d2.engine import LongTailTrainer, launch, supervision
from eql_d2.engine.stopping import STOPPED_STATUS, RunStopped, stop_request
from eql_d2.errors import UserError
from tests.conftest import ROOT, make_tiny_cfg, narrow
from tests.engine.test_resume import train

SLEEPER = """
import os, sys, time
from pathlib import Path
from tests.launch_alone import launch
def work(folder):
    Path(folder, f"{os.getpid()}").touch()
    time.sleep(600)
if __name__ == "__main__":
    launch(work, device="cpu", num_processes_per_machine=2, args=(sys.argv[1],), stop_grace=2)
"""


def stop_in_iteration(trainer, iteration, number=signal.SIGTERM):
    """Let a real signal come in the middle of a step."""
    run_step = trainer.run_step

    def run_step_and_signal():
        run_step()
        if trainer.iter == iteration:
            os.kill(os.getpid(), number)
            time.sleep(0.01)  # handlers run between two instructions

    trainer.run_step = run_step_and_signal


@pytest.fixture(scope="module")
def straight(tiny_set, tmp_path_factory):
    """Config of a run that nothing stops, and its weights."""
    torch.set_num_threads(1)
    cfg = make_tiny_cfg(tiny_set, tmp_path_factory.mktemp("stopping") / "straight")
    narrow(cfg)
    cfg.DATASETS.TEST = ()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.ENGINE.WATCH_PERIOD = 4, 100, 3
    return cfg, train(cfg).model.state_dict()


HANG_UP = pytest.param(
    signal.SIGHUP, marks=pytest.mark.skipif(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, reason="under nohup")
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, HANG_UP])
def test_a_stopped_run_saves_and_ends_as_one_that_was_not(straight, tmp_path, number):
    cfg, expected = straight
    kept = Path(cfg.OUTPUT_DIR, "class_gradients.csv").read_text()
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(tmp_path / "stopped")
    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=False)
    stop_in_iteration(trainer, 1, number)
    with stop_request.listen(30), pytest.raises(RunStopped) as stopped:
        trainer.train()
    assert stopped.value.code == STOPPED_STATUS
    assert stopped.value.sentence.startswith(f"stopped by {number.name}; go on from ")
    assert sorted(path.name for path in Path(cfg.OUTPUT_DIR).glob("*.pth")) == ["model_0000001.pth"]
    resumed = train(cfg, resume=True)
    assert resumed.start_iter == 2
    state = resumed.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in expected.items())
    assert Path(cfg.OUTPUT_DIR, "class_gradients.csv").read_text() == kept


def test_evaluation_is_stopped_at_once(tiny_cfg):
    trainer = LongTailTrainer(tiny_cfg)
    trainer.test = lambda *_: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(60))
    trainer.resume_or_load(resume=False)
    began = time.monotonic()
    with stop_request.listen(100), pytest.raises(RunStopped) as stopped:
        trainer.train()
    assert time.monotonic() - began < 50
    assert stopped.value.code == STOPPED_STATUS and stopped.value.checkpoint.endswith("model_final.pth")


def test_without_a_checkpoint_the_status_is_that_of_the_signal():
    with stop_request.listen(30), pytest.raises(RunStopped) as stopped:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert "there is no checkpoint" in stopped.value.sentence


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)]
    with stop_request.listen(30):
        assert signal.getsignal(signal.SIGTERM) != before[0]
    after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)]
    assert before == after


def start_sleepers(folder, ignored=()):
    """The parent of two processes that do nothing, started as a shell script in the background would."""
    script = folder / "sleeper.py"
    script.write_text(SLEEPER)
    traps = "".join(f"trap '' {name}; " for name in ignored)
    command = f"{traps}{sys.executable} {script} {folder} & echo $!; wait"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    shell = subprocess.Popen(["sh", "-c", command], env=environment, stdout=subprocess.PIPE, text=True)
    parent = int(shell.stdout.readline())
    deadline = time.monotonic() + 250
    while len(list(folder.glob("[0-9]*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    return shell, parent, [int(path.name) for path in folder.glob("[0-9]*")]


def is_there(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
@pytest.mark.parametrize(
    ("number", "ignored"),
    [
        (signal.SIGTERM, ("INT",)),
        pytest.param(signal.SIGINT, ("INT",), marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, ("INT", "TERM", "HUP"), marks=pytest.mark.slow),
        (signal.SIGKILL, ("INT", "TERM", "HUP")),
    ],
)
def test_nothing_outlives_the_parent(tmp_path, number, ignored):
    shell, parent, workers = start_sleepers(tmp_path, ignored)
    try:
        assert len(workers) == 2
        os.kill(parent, number)
        deadline = time.monotonic() + 60
        while any(map(is_there, [parent, *workers])) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not [process for process in [parent, *workers] if is_there(process)]
    finally:
        for process in filter(is_there, [parent, *workers]):
            os.kill(process, signal.SIGKILL)
        shell.kill()
        shell.wait()


class EndsAMomentLater(multiprocessing.get_context("spawn").Process):
    """Its pipe is closed a moment before the system says that it has ended, as on a busy machine."""

    asked = False

    @property
    def exitcode(self):
        status = super().exitcode
        if status is not None and not self.asked:
            self.asked = True
            return None
        return status


def tell(mouth):
    mouth.send((time.time(), "mistake", "The last word."))
    os._exit(1)


def test_no_word_of_a_process_is_lost_however_it_ends():
    ear, mouth = multiprocessing.Pipe(duplex=False)
    process = EndsAMomentLater(target=tell, args=(mouth,))
    process.start()
    process.join()
    told = []
    supervision._watch({process: ear}, told, 1.0)
    assert [what for _, _, what in told] == ["The last word."]


def die_or_wait(folder):
    """One of two processes is killed from outside; the other would wait for it."""
    from detectron2.utils import comm

    if comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def test_a_killed_process_is_told_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match="A process of the run was killed by SIGKILL, perhaps as memory ran out"):
        launch(die_or_wait, device="cpu", num_processes_per_machine=2, args=(tmp_path,), stop_grace=1)


def test_a_loaders_worker_outlives_the_signal_for_a_while_and_not_its_parent():
    child = os.fork()
    if child == 0:
        leave_stopping_to_parent()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)
    began = time.monotonic()
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGALRM
    assert time.monotonic() - began > 0.5
