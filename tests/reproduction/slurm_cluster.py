"""A real Slurm of two nodes on this machine, in a folder of its own, for tests of job scripts."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo", "squeue")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
MpiDefault=none
ReturnToService=2
GresTypes=gpu
SchedulerParameters=bf_interval=2,sched_interval=3
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} Gres=gpu:1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} Gres=gpu:1
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 State=UP OverSubscribe=FORCE:4
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF State=UP
"""


class SlurmCluster:
    """The cluster's daemons.

    Args:
        folder: for their files.

    Attributes:
        environment: with which Slurm's commands find it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._daemons: list[subprocess.Popen] = []
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.environment["PATH"] += ":/usr/sbin:/usr/local/sbin"

    def start(self) -> None:
        """Start the daemons; the test is skipped where they do not run."""
        path = self.environment["PATH"]
        absent = [name for name in PROGRAMS if not shutil.which(name, path=path)]
        if absent:
            pytest.skip(f"needs Slurm ({', '.join(absent)} not found); Debian: apt-get install slurm-wlm munge")
        if os.geteuid():
            pytest.skip("needs root, as which Slurm's daemons run")
        folder, host = self._folder, socket.gethostname().split(".")[0]
        for name in ("state", "spool.n1", "spool.n2"):
            (folder / name).mkdir()
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        config = CONFIG.format(folder=folder, host=host, ports=_free_ports(3), cpus=os.cpu_count())
        (folder / "slurm.conf").write_text(config)
        (folder / "gres.conf").write_text("AutoDetect=off\nNodeName=n1,n2 Name=gpu File=/dev/null\n")
        files = {name: f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")}
        self._start("munged", "-F", "--force", f"--socket={folder}/munge.socket", *files.values())
        _wait(lambda: (folder / "munge.socket").exists())
        self._start("slurmctld", "-D")
        for node in ("n1", "n2"):
            self._start("slurmd", "-D", "-N", node)
        if not _wait(lambda: self.run("sinfo", "-h", "-N", "-p", "low", "-o", "%t").split() == ["idle", "idle"]):
            logs = "".join(path.read_text()[-500:] for path in folder.glob("*.log"))
            self.stop()
            pytest.skip(f"Slurm's daemons do not run on this machine: {logs}")

    def _start(self, name: str, *arguments: str) -> None:
        with open(self._folder / f"{name}.out", "a") as output:
            self._daemons.append(
                subprocess.Popen([name, *arguments], env=self.environment, stdout=output, stderr=subprocess.STDOUT)
            )

    def run(self, *command: str) -> str:
        """What one of Slurm's commands prints; empty if it fails."""
        environment = {**os.environ, **{name: self.environment[name] for name in ("SLURM_CONF", "PATH")}}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)  # a job gets what is set by now
        return done.stdout.strip() if done.returncode == 0 else ""

    def state_of(self, job: str) -> str:
        """That of a job, e.g. RUNNING."""
        return self.run("squeue", "-h", "-j", job, "-o", "%T")

    def stop(self) -> None:
        """End all jobs and daemons."""
        self.run("scancel", "--full", "--signal=KILL", "--user=root")
        self.run("scancel", "--user=root")
        _wait(lambda: not self.run("squeue", "-h"), 20)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait(holds, seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(0.5)
    return held
