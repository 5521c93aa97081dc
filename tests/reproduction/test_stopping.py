"""A stopped tool leaves no training behind, and the same command goes on from the last checkpoint."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT


def others_working_in(folder):
    """Ids of this machine's other processes whose current folder it is: the tool, its run, and what that started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if path.readlink() == folder and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found


def wait_until(holds, seconds=180):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes by /proc")
@pytest.mark.parametrize(
    ("number", "num_processes"), [(signal.SIGINT, 1), pytest.param(signal.SIGTERM, 2, marks=pytest.mark.slow)]
)
def test_a_stopped_tool_stops_its_run(mini_root, number, num_processes):
    output = mini_root / "out"
    command = [sys.executable, str(ROOT / "tools" / "reproduce.py"), "run", "mini/eql", "--seeds", "0"]
    command += ["--output", str(output), "--num-gpus", str(num_processes)]
    command += ["--opts", "SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_PERIOD", "100000"]  # checkpoints fill disks
    # Where the tests run in the background, SIGINT is ignored, and would be by the tool.
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    try:
        name = "eql@SOLVER.MAX_ITER=100000@SOLVER.CHECKPOINT_PERIOD=100000"
        console = output / "mini" / name / "seed_0" / "console.log"
        wait_until(lambda: console.exists() and "Starting training from iteration" in console.read_text())
        assert len(others_working_in(mini_root)) >= 2 * num_processes
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    except BaseException:
        for number_of_process in others_working_in(mini_root):
            os.kill(number_of_process, signal.SIGKILL)
        raise
    assert process.returncode == 75
    assert told.strip().endswith("stopped; the same command goes on from the last checkpoint")
    wait_until(lambda: not others_working_in(mini_root), 10)
