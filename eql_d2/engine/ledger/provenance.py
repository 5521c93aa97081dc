"""Where a run comes from: command, sources, versions, machine, memory."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm

from eql_d2.package_files import PACKAGE, VERSION


def peak_memory_mb() -> dict[str, float | None]:
    """The most memory that this process has held: resident on the host, and allocated on its GPU (None without)."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, else kilobytes
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    gpu = round(torch.cuda.max_memory_allocated() / 2**20, 1) if torch.cuda.is_initialized() else None
    return {"host": host, "gpu": gpu}


def config_file() -> str:
    """The config file that the command of this process names; empty if it names none."""
    for argument, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        if argument == "--config-file":
            return following
        if argument.startswith("--config-file="):
            return argument.split("=", 1)[1]
    return ""


def git_revision() -> dict[str, Any] | None:
    """The revision of this project's sources; None where they are installed without their repository."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str | None]:
    """Versions of Python, this project and what it trains with; None of what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "eql_d2": VERSION}
    for name in ("torch", "torchvision", "detectron2"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def hardware() -> dict[str, Any]:
    """The machine, its processor, GPUs, and the number of processes that train."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "gpus": gpus,
        "processes": comm.get_world_size(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
