"""The processes that a run starts on its machine: all of them work, or none is left."""

import atexit
import contextlib
import errno
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from eql_d2.child_processes import end_with_parent
from eql_d2.engine.stopping import RunStopped, stop_request
from eql_d2.errors import UserError

SECONDS_TO_FOLLOW = 15.0  # that processes get to end by themselves when one of them has failed
MEMORY_HINT = (
    "perhaps as memory ran out; use fewer processes or a smaller SOLVER.IMS_PER_BATCH, and go on with --resume"
)


def run_processes(work: Callable[..., None], arguments: Sequence[tuple], grace: float) -> None:
    """Run ``work(*arguments[i])`` in a process for each i, and end with all of them ended.

    Args:
        work: what each does; can be pickled.
        arguments: of each process.
        grace: seconds that the processes have to end in when this one is told to stop.

    Raises:
        UserError: a process raised one, or was killed.
        RunStopped: this process or one of the others was told to stop.
        RuntimeError: a process failed otherwise; its traceback is the text.
    """
    context = multiprocessing.get_context("spawn")
    crew: dict[Any, Any] = {}  # process: what it tells this one
    told: list[tuple] = []
    try:
        # A signal from here on is noted, and passed on below.
        stop_request.has_step = True
        for own in arguments:
            ear, mouth = context.Pipe(duplex=False)
            process = context.Process(target=_guarded, args=(work, own, mouth, os.getpid()))
            process.start()
            mouth.close()
            crew[process] = ear
        _watch(crew, told, grace)
    finally:
        stop_request.has_step = False
        for process in crew:
            if process.is_alive():
                process.kill()
        for process in crew:
            process.join()
    _tell(list(crew), told)


def _watch(crew: dict[Any, Any], told: list[tuple], grace: float) -> None:
    """Wait until all processes have ended; when one fails or this one is told to stop, see to it that they do."""
    deadline = None
    running = list(crew)
    while running:
        multiprocessing.connection.wait([process.sentinel for process in running], timeout=0.2)
        # Asked once: one that ends in between must not be in neither list, and its word lost.
        statuses = {process: process.exitcode for process in running}
        ended = [process for process, status in statuses.items() if status is not None]
        running = [process for process, status in statuses.items() if status is None]
        for process in ended:
            with contextlib.suppress(EOFError, OSError):  # it ended without a word
                if crew[process].poll():
                    told.append(crew[process].recv())
            if process.exitcode < 0:
                told.append((time.time(), "killed", process.exitcode))
        if deadline is None and stop_request.signal_number is not None:
            _signal_all(running, signal.SIGTERM)
            deadline = time.monotonic() + grace + SECONDS_TO_FOLLOW
        if deadline is None and any(process.exitcode for process in ended):
            deadline = time.monotonic() + SECONDS_TO_FOLLOW
        if deadline is not None and time.monotonic() > deadline:
            return


def _signal_all(processes: Sequence[Any], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _tell(processes: Sequence[Any], told: Sequence[tuple]) -> None:
    """Raise what ended the run: what was told first, as processes also fail because another one is gone."""
    stops = [what for _, kind, what in told if kind == "stopped"]
    if stop_request.signal_number is not None:
        stops.append((stop_request.signal_number, ""))
    if stops:
        raise RunStopped(*max(stops, key=lambda stop: stop[1]))
    for _, kind, what in sorted(told, key=lambda entry: (_is_consequence(*entry[1:]), entry[0])):
        if kind == "mistake":
            raise UserError(what)
        if kind == "killed":
            raise UserError(f"A process of the run was killed by {signal.Signals(-what).name}, {MEMORY_HINT}.")
        raise RuntimeError(f"A process of the run failed:\n{what}")
    codes = [process.exitcode for process in processes]
    if any(codes):
        raise RuntimeError(f"Processes of the run ended with the statuses {codes}.")


def _is_consequence(kind: str, what: Any) -> bool:
    """Whether a process failed because another was gone, which may be told before that one has cleaned up."""
    return kind == "failed" and is_lost_connection(what)


def is_lost_connection(text: str) -> bool:
    """Whether what a process failed by says that another one was gone."""
    return any(sign in text for sign in ("Connection closed by peer", "Connection reset by peer"))


def _guarded(work: Callable[..., None], arguments: tuple, mouth: Any, parent: int) -> None:
    """One process: what ends it badly goes to the parent, with the time."""
    end_with_parent(signal.SIGTERM, parent)
    try:
        work(*arguments)
    except RunStopped as stop:
        mouth.send((time.time(), "stopped", (stop.signal_number, stop.checkpoint)))
        leave(stop.code)
    except UserError as error:
        mouth.send((time.time(), "mistake", str(error)))
        leave(1)
    except Exception:
        mouth.send((time.time(), "failed", traceback.format_exc()))
        leave(1)
    leave()


def leave(status: int = 0) -> None:
    """End a process that has done its work, without taking the interpreter apart.

    In one of some thirty runs PyTorch 2.14 aborts there ("terminate called without an active exception"), once it has
    communicated, and a run that went well would end as one that failed. A script that torchrun or srun starts calls
    this as its last line.

    Args:
        status: exit status.
    """
    for child in multiprocessing.active_children():  # loaders' workers, which have nothing to lose
        child.kill()
    sys.unraisablehook = _tell_but_a_full_disk
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _tell_but_a_full_disk(unraisable: Any) -> None:
    """What files that are closed now cannot take has been told before."""
    if getattr(unraisable.exc_value, "errno", None) not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        sys.__unraisablehook__(unraisable)
