"""Starting the processes of a run: on GPUs or on a CPU, one machine or several, by ourselves or by a cluster."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm

from eql_d2.child_processes import end_with_parent
from eql_d2.engine.stopping import stop_request
from eql_d2.engine.supervision import SECONDS_TO_FOLLOW, leave, run_processes
from eql_d2.errors import UserError

__all__ = ["ProcessPlace", "launch", "leave", "place_given_by_cluster"]


@dataclass(frozen=True)
class ProcessPlace:
    """Where one process stands among all processes of a run.

    Attributes:
        rank: number among all processes.
        world_size: number of all processes.
        local_rank: number among the processes of this machine.
        local_size: number of processes of this machine, the same on all machines.
        url: where the processes meet, e.g. ``tcp://127.0.0.1:29500`` or ``env://``.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    url: str


def launch(
    main: Callable[..., Any],
    *,
    device: str,
    num_processes_per_machine: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple = (),
    timeout: float = 30.0,
    stop_grace: float = 25.0,
) -> None:
    """Run ``main(*args)`` in every process of a run.

    Under torchrun or Slurm's srun the processes exist already and only join; otherwise this starts
    ``num_processes_per_machine`` of them, and has to be called once on each machine. GPUs talk by NCCL,
    CPU processes by gloo.

    Args:
        main: what each process does.
        device: ``MODEL.DEVICE``.
        num_processes_per_machine: GPUs used on this machine, or CPU processes.
        num_machines: number of machines.
        machine_rank: number of this machine.
        dist_url: where the processes meet; "auto" is a file on a single machine, which no other run can take as it
            could a port.
        args: arguments of ``main``.
        timeout: minutes that a process waits for the others (``ENGINE.COLLECTIVE_TIMEOUT``).
        stop_grace: seconds between a signal to stop and the end of processes that are still there
            (``ENGINE.STOP_GRACE``).

    Raises:
        UserError: the arguments do not fit the machine, or a process that this started raised one or was killed.
        RunStopped: a signal stopped the run.
    """
    run = (device, main, args, timeout, stop_grace)
    place = place_given_by_cluster(os.environ)
    if place is not None:
        end_with_parent(signal.SIGTERM)
        _run_in_process_group(place, *run)
        return
    if num_processes_per_machine < 1:
        raise UserError(f"--num-gpus is {num_processes_per_machine}; it is the number of processes, at least 1.")
    world_size = num_processes_per_machine * num_machines
    if world_size == 1:
        with stop_request.listen(stop_grace):
            main(*args)
        return
    if device.startswith("cuda") and num_processes_per_machine > torch.cuda.device_count():
        raise UserError(
            f"--num-gpus is {num_processes_per_machine}, but this machine has {torch.cuda.device_count()} GPUs; "
            "lower it, or run processes on the CPU with MODEL.DEVICE cpu."
        )
    if dist_url == "auto":
        if num_machines > 1:
            raise UserError(
                "--dist-url has to name the first machine, e.g. tcp://HOST:29500, when there are several machines."
            )
        with tempfile.TemporaryDirectory(prefix="eql_d2_") as folder:
            url = Path(folder, "meeting").as_uri()
            _run_processes_here(range(num_processes_per_machine), num_processes_per_machine, url, run)
        return
    first_rank = machine_rank * num_processes_per_machine
    ranks = range(first_rank, first_rank + num_processes_per_machine)
    _run_processes_here(ranks, world_size, dist_url, run)


def _run_processes_here(ranks: range, world_size: int, url: str, run: tuple) -> None:
    """Start the processes of this machine and wait for them; ``run`` is what each gets beside its place."""
    places = [ProcessPlace(rank, world_size, rank - ranks.start, len(ranks), url) for rank in ranks]
    stop_grace = run[-1]
    _silence_warnings_of_ended_processes()
    with stop_request.listen(stop_grace + 2 * SECONDS_TO_FOLLOW):
        run_processes(_run_in_process_group, [(place, *run) for place in places], stop_grace)


def place_given_by_cluster(environment: Mapping[str, str]) -> ProcessPlace | None:
    """The place of this process as torchrun or Slurm's srun say it, or None if neither started it.

    Args:
        environment: environment variables.

    Raises:
        UserError: Slurm runs different numbers of tasks on its nodes.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        return ProcessPlace(
            rank=int(environment["RANK"]),
            world_size=int(environment["WORLD_SIZE"]),
            local_rank=int(environment["LOCAL_RANK"]),
            local_size=int(environment["LOCAL_WORLD_SIZE"]),
            url="env://",
        )
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        tasks, nodes = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_STEP_NUM_NODES"])
        if tasks % nodes:
            raise UserError(
                f"Slurm runs {tasks} tasks on {nodes} nodes; give every node as many with --ntasks-per-node."
            )
        host = environment.get("MASTER_ADDR") or _first_slurm_host(environment["SLURM_STEP_NODELIST"])
        # Jobs that share a machine get different ports, and so do the steps of a job.
        number = int(environment["SLURM_JOB_ID"]) + 7919 * int(environment.get("SLURM_STEP_ID", 0))
        port = environment.get("MASTER_PORT") or 20000 + number % 20000
        return ProcessPlace(
            rank=int(environment["SLURM_PROCID"]),
            world_size=tasks,
            local_rank=int(environment["SLURM_LOCALID"]),
            local_size=tasks // nodes,
            url=f"tcp://{host}:{port}",
        )
    return None


def _first_slurm_host(node_list: str) -> str:
    if "[" not in node_list:
        return node_list.split(",")[0]
    hosts = subprocess.run(["scontrol", "show", "hostnames", node_list], capture_output=True, text=True, check=True)
    return hosts.stdout.split()[0]


def _silence_warnings_of_ended_processes() -> None:
    """When one process fails, the others are ended; what Python warns of then is no news to the user."""
    option = "ignore:resource_tracker:UserWarning"  # of semaphores, which it cleans up; read when it starts
    if option not in sys.warnoptions:
        sys.warnoptions.append(option)


def _run_in_process_group(
    place: ProcessPlace, device: str, main: Callable[..., Any], args: tuple, timeout: float, stop_grace: float
) -> None:
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(place.local_rank)
    with stop_request.listen(stop_grace):
        dist.init_process_group(
            backend="nccl" if on_gpu else "gloo",
            init_method=place.url,
            world_size=place.world_size,
            rank=place.rank,
            timeout=timedelta(minutes=timeout),
        )
        _create_local_process_group(place)
        comm.synchronize()
        main(*args)
        dist.destroy_process_group()


def _create_local_process_group(place: ProcessPlace) -> None:
    """Tell Detectron2 which processes share this machine."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(place.local_size)
        return
    # Detectron2 v0.6 has no function for it; its own launcher sets this variable.
    for first in range(0, place.world_size, place.local_size):
        group = dist.new_group(list(range(first, first + place.local_size)))
        if first <= place.rank < first + place.local_size:
            comm._LOCAL_PROCESS_GROUP = group
