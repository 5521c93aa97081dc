"""Generated job scripts in a real Slurm: stopped and pre-empted jobs go on by themselves and lose nothing."""

import re
import shlex
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.reproduction.slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
SETUP = (
    f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH PYTHONPATH={shlex.quote(str(ROOT))} "
    "OMP_NUM_THREADS=1 MASTER_ADDR=127.0.0.1"
)
PORTS = """#!/bin/bash
#SBATCH --ntasks=2 --nodes=2 --output=ports.log
{setup}
for step in 1 2; do
  srun --overlap python -c 'import os
from eql_d2.engine.launch import place_given_by_cluster as place
print("url", place(dict(os.environ)).url, "rank", place(dict(os.environ)).rank)' &
done
wait
"""


@pytest.fixture
def cluster(tmp_path_factory):
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    cluster.start()
    yield cluster
    cluster.stop()


def wait_until(holds, what, seconds=420):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what()
        time.sleep(0.5)


def starts_in(log):
    """The iterations from which a job's trainings started."""
    text = log.read_text() if log.exists() else ""
    return list(dict.fromkeys(map(int, re.findall(r"Starting training from iteration (\d+)", text))))


def test_a_job_goes_on_after_a_stop_and_after_a_preemption(cluster, mini_root, reproduce):
    options = ["--gpus-per-node", "1", "--nodes", "2", "--cpus-per-gpu", "1", "--setup", SETUP, "--time", "60"]
    config = Path("configs/tiny.yaml")
    config.write_text(config.read_text().replace("MAX_ITER: 2", "MAX_ITER: 60\n  CHECKPOINT_PERIOD: 1000"))
    command = ["jobs", "mini/eql", "--seeds", "0", "--scheduler", "slurm", "--folder", "jobs", "--output", "out"]
    reproduce([*command, *options])
    job = cluster.run("sbatch", "--parsable", "jobs/stage_1.sbatch").split(";")[0]
    assert job
    run = Path("out/mini/eql/seed_0")

    def log():
        return next(iter(sorted(Path("jobs").glob("*.log"))), Path("jobs/none"))

    def told():
        return f"{cluster.state_of(job)} {log().read_text()[-3000:] if log().exists() else 'no log'}"

    # Stopped as before its time limit: it saves, and puts itself into the queue again.
    wait_until(lambda: starts_in(log()) == [0], told)
    time.sleep(5)
    cluster.run("scancel", "--signal=TERM", job)
    wait_until(lambda: len(starts_in(log())) == 2, told)
    assert "stopped by SIGTERM; go on from" in log().read_text()
    # Another job takes its place.
    other = cluster.run(
        "sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", "-o", "other.log", "--wrap", "sleep 3"
    )
    assert other
    wait_until(lambda: len(starts_in(log())) == 3, told)
    wait_until((run / "ledger.json").exists, told)
    starts = starts_in(log())
    assert starts == sorted(starts) and starts[0] == 0 < starts[1] < starts[2]  # and the log was not begun anew
    assert len(list(Path("jobs").glob("*.log"))) == 1
    lines = (run / "metrics.json").read_text().splitlines()
    assert [int(re.search(r'"iteration": (\d+)', line)[1]) for line in lines if "total_loss" in line] == [19, 39, 59]


def test_steps_of_a_job_meet_at_different_ports(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ports.sbatch").write_text(PORTS.format(setup=SETUP))
    assert cluster.run("sbatch", "--parsable", "ports.sbatch")
    log = Path("ports.log")
    wait_until(
        lambda: log.exists() and log.read_text().count("url tcp") == 4, lambda: log.read_text() if log.exists() else ""
    )
    places = re.findall(r"url (tcp://\S+) rank (\d)", log.read_text())
    assert len(set(places)) == 4 and len({url for url, _ in places}) == 2
