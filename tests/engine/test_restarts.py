"""Workers that torchrun starts again go on by themselves, on the command line of the first start."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from eql_d2.engine.run_lock import record_in
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
]
# Since PyTorch 2.4 the workers' store is that of the rendezvous, which a restart finds as the killed ones left it.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_is_started_again_and_the_run_ends_as_one_that_was_not(tiny_cfg, tmp_path, rank):
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.MAX_ITER = 16
    config, killed, straight = tmp_path / "config.yaml", tmp_path / "killed", tmp_path / "straight"
    config.write_text(tiny_cfg.dump())
    tool = ["tools/train_net.py", "--config-file", config]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"]
    command = [sys.executable, *torchrun, *tool, "OUTPUT_DIR", killed]
    with open(tmp_path / "output", "w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=output, stderr=output)
    while process.poll() is None and not (killed / "model_0000003.pth").exists():
        time.sleep(0.01)
    first = record_in(killed)["process"]
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    victim = first if rank == 0 else next(worker for worker in map(int, children) if is_worker(worker, first))
    os.kill(victim, signal.SIGKILL)
    status, text = process.wait(), (tmp_path / "output").read_text()
    assert status == 0, text[-3000:]
    starts = [int(number) for number in re.findall(r"Starting training from iteration (\d+)", text)]
    assert len(starts) == 2 and starts[0] == 0 < starts[1] < 16, starts
    subprocess.run(
        [sys.executable, *tool, "--num-gpus", "2", "OUTPUT_DIR", straight],
        cwd=ROOT,
        env=ENVIRONMENT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    one, other = (torch.load(folder / "model_final.pth", weights_only=True)["model"] for folder in (straight, killed))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def is_worker(process, first):
    """Whether a child of torchrun is a worker, and not the first."""
    return process != first and b"train_net.py" in Path(f"/proc/{process}/cmdline").read_bytes()
