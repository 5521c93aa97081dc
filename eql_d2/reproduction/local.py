"""Carrying out the runs of a plan on this machine, one after the other."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from eql_d2.child_processes import end_with_parent
from eql_d2.engine.metrics_file import METRICS_FILE
from eql_d2.engine.supervision import SECONDS_TO_FOLLOW
from eql_d2.errors import UserError
from eql_d2.reproduction.planned_runs import PlannedRun, command_of, finished_runs, state_of
from eql_d2.reproduction.recipes import FINAL_WEIGHTS

CONSOLE_FILE = "console.log"
SECONDS_BETWEEN_LINES = (15.0, 600.0)  # at first, and of a run that takes days


def default_processes(run: PlannedRun) -> int:
    """GPUs of this machine, up to as many as the source of the row had; without any one process on the CPU."""
    return max(1, min(run.num_gpus, torch.cuda.device_count()))


def weights_of(run: PlannedRun, output: Path) -> Path | None:
    """The final weights that a run starts from; None if it starts from those of its config.

    Raises:
        UserError: the run before has not finished, or its weights are gone.
    """
    if run.before is None:
        return None
    state, folder = state_of(run.before, finished_runs(output))
    if state != "done":
        raise UserError(f"{run.name} starts from {run.before.name}, which has not finished; run that first.")
    weights = folder / FINAL_WEIGHTS
    if not weights.exists():
        raise UserError(f"{run.name} starts from {weights}, which is not there; delete {folder} to train it again.")
    return weights


def dry_run(runs: Sequence[PlannedRun], output: Path, num_gpus: int | None, more: Sequence[str] = ()) -> list[str]:
    """The command of each run that there is something to do for; of the others a comment, as a shell ignores it."""
    finished = finished_runs(output)
    lines = []
    for run in runs:
        state, folder = state_of(run, finished)
        if state == "done":
            lines.append(f"# {run.name}: done, in {folder}")
            continue
        weights = state_of(run.before, finished)[1] / FINAL_WEIGHTS if run.before else None
        processes = num_gpus or default_processes(run)
        lines.append(f"# {run.name}")
        lines.append(shown(command_of(run, state, num_gpus=processes, weights=weights, more=more)))
    return lines


def carry_out(
    runs: Sequence[PlannedRun],
    output: Path,
    num_gpus: int | None = None,
    more: Sequence[str] = (),
    tell: Callable[[str], None] = print,
) -> list[str]:
    """Train all runs that are not done, resuming broken ones; a run that fails does not keep the others from theirs.

    Args:
        runs: of a plan, in its order.
        output: folder of all runs.
        num_gpus: processes of a run; None takes :func:`default_processes`.
        more: KEY VALUE pairs for all of them.
        tell: prints a line of progress.

    Returns:
        One sentence for each run that failed.
    """
    failures: list[str] = []
    taken: list[float] = []
    for place, run in enumerate(runs):
        try:
            state, folder = state_of(run, finished_runs(output))
            if state == "done":
                tell(f"{run.name}: done already, in {folder}")
                continue
            processes = num_gpus or default_processes(run)
            weights = weights_of(run, output)
            command = command_of(run, state, num_gpus=processes, weights=weights, python=(sys.executable,), more=more)
            tell(f"{run.name} ({place + 1} of {len(runs)}): {'resuming' if state == 'resume' else 'starting'}")
            taken.append(_train(run, command, len(runs) - place - 1, taken, tell))
        except UserError as error:
            failures.append(str(error))
            tell(f"{run.name}: {error}")
    return failures


def _train(
    run: PlannedRun, command: list[str], remaining: int, taken: list[float], tell: Callable[[str], None]
) -> float:
    """Train one run and tell of its progress; gives the seconds it took."""
    run.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    wait, longest = SECONDS_BETWEEN_LINES
    with open(run.folder / CONSOLE_FILE, "a") as console:
        # In a session of its own, so that all its processes can be stopped together.
        process = subprocess.Popen(
            command, stdout=console, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=end_with_parent
        )
        try:
            while process.poll() is None:
                try:
                    process.wait(wait)
                except subprocess.TimeoutExpired:
                    wait = min(1.5 * wait, longest)
                    tell(_progress(run, time.monotonic() - began, remaining, taken))
        except BaseException:  # Ctrl-C, or a scheduler's SIGTERM: the run can be resumed
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(run.recipe.cfg.ENGINE.STOP_GRACE + 3 * SECONDS_TO_FOLLOW)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            raise
    seconds = time.monotonic() - began
    if process.returncode:
        raise UserError(f"{run.name} failed: {_last_line(run.folder / CONSOLE_FILE)}")
    state_of(run, {})  # what it left is what was wanted
    tell(f"{run.name}: done in {_clock(seconds)}")
    return seconds


def _progress(run: PlannedRun, elapsed: float, remaining: int, taken: list[float]) -> str:
    iterations = run.recipe.cfg.SOLVER.MAX_ITER
    record = last_record(run.folder / METRICS_FILE)
    if record is None:
        return f"{run.name}: {_clock(elapsed)}, no iteration logged yet"
    left = record.get("eta_seconds", 0.0)
    line = f"{run.name}: iteration {record['iteration'] + 1} of {iterations}, {_clock(left)} left"
    if not remaining:
        return line
    each = sum(taken) / len(taken) if taken else elapsed + left
    return f"{line}; all in about {_clock(left + remaining * each)}"


def last_record(metrics_file: Path) -> dict | None:
    """The last whole line of a run's ``metrics.json``; None without one."""
    try:
        lines = metrics_file.read_text().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # being written
            continue
        return record if isinstance(record, dict) and isinstance(record.get("iteration"), int) else None
    return None


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines[-50:] if line.startswith("error: ")]
    return f"{(told or lines or ['nothing was printed'])[-1].removeprefix('error: ')} (see {path})"


def shown(command: Sequence[str]) -> str:
    """A command as one types it in a shell."""
    return shlex.join(command)


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
