"""One training at a time in a folder: a lock that names its holder and that no crash leaves stuck.

``run.lock`` says which process trains, and since when. While it trains it holds a POSIX lock on the file, which the
system releases when a process ends however it ends, and rewrites the file every few seconds. On a file system that does
not pass locks on between hosts, as some network drives, the second trusts what it sees: a file that is rewritten has a
holder, one that is not has none. No clocks are compared.
"""

import atexit
import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from eql_d2.errors import UserError

FILE_NAME = "run.lock"
BEAT_SECONDS = 10.0
WATCH_SECONDS = 25.0
_held: dict[str, "RunLock"] = {}


def hold_run_folder(folder: str, environment: Mapping[str, str] = os.environ) -> None:
    """Keep a folder for the training of this process until that ends.

    Args:
        folder: ``OUTPUT_DIR``; made if need be.
        environment: environment variables, which say what started the process.

    Raises:
        UserError: another process trains there.
        OSError: the folder cannot be written.
    """
    key = os.path.realpath(folder)
    if key not in _held:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lock = RunLock(Path(folder), launch_of(environment))
        lock.acquire()
        _held[key] = lock


def launch_of(environment: Mapping[str, str]) -> str:
    """What identifies the job that a process belongs to over its restarts; empty outside of torchrun and Slurm."""
    name = environment.get("TORCHELASTIC_RUN_ID")
    if name:
        # Without --rdzv-id all runs have the same; the process that starts and restarts the workers stays.
        return f"torchrun {name if name != 'none' else f'{socket.gethostname()} {os.getppid()}'}"
    return f"slurm {environment['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in environment else ""


def record_in(folder: str | Path) -> dict[str, Any]:
    """What the lock of a folder says of its last holder; empty without one."""
    try:
        record = json.loads(Path(folder, FILE_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


class RunLock:
    """The lock of one folder.

    Args:
        folder: exists.
        launch: of :func:`launch_of`.
    """

    def __init__(self, folder: Path, launch: str = "") -> None:
        self._path = folder / FILE_NAME
        self._record: dict[str, Any] = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "launch": launch,
            "place": _place_of_process_ids(),
            "process_start": _start_of_process(os.getpid()),
            "token": uuid.uuid4().hex,
            "ended": False,
            "beat": 0,
        }
        self._file = self._reader = -1
        self._opened: list[int] = []
        self._released = threading.Event()

    def acquire(self) -> None:
        """Take the lock and keep it.

        Raises:
            UserError: another process has it.
            OSError: the folder cannot be written.
        """
        self._file = self._reader = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        self._opened = [self._file]
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            has_locks = True
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                self._refuse()
            has_locks = False  # the file system has none
        other = self._read()
        if other and not other.get("ended") and self._is_alive(other, has_locks):
            self._refuse()
        self._write()
        if not has_locks:  # two may have come to the same conclusion
            time.sleep(1)
            if self._read().get("token") != self._record["token"]:
                self._refuse()
        atexit.register(self.release)
        threading.Thread(target=self._beat, daemon=True).start()

    def release(self) -> None:
        """Give the folder free; the record stays, as that of a training that has ended."""
        if self._released.is_set():
            return
        self._released.set()
        atexit.unregister(self.release)
        with contextlib.suppress(OSError):
            if self._read().get("token") == self._record["token"]:
                self._record["ended"] = True
                self._write()
        self._close()
        _held.pop(os.path.realpath(self._path.parent), None)

    def _close(self) -> None:
        for descriptor in self._opened:
            os.close(descriptor)
        self._opened = []

    def _refuse(self) -> None:
        other = self._read()
        self._close()
        holder = f"process {other.get('process')} on {other.get('host')}, since {other.get('started')}"
        raise UserError(
            f"Another run trains in {self._path.parent} ({holder if other else 'which has just begun'}); wait for its "
            "end, stop it, or set another OUTPUT_DIR."
        )

    def _is_alive(self, other: dict[str, Any], has_locks: bool) -> bool:
        if other.get("place") == self._record["place"]:
            # Its lock would have been there; without locks the process itself tells.
            started = other.get("process_start")
            return not has_locks and started is not None and _start_of_process(other.get("process")) == started
        print(
            f"{self._path} is that of process {other.get('process')} on {other.get('host')}, which did not end in "
            f"order; looking for {WATCH_SECONDS:g} seconds whether it is still there.",
            file=sys.stderr,
        )
        before, deadline = other.get("beat"), time.monotonic() + WATCH_SECONDS
        while time.monotonic() < deadline:
            time.sleep(WATCH_SECONDS / 10)
            # A network drive shows what others wrote to those who open a file. Closing one would release the lock.
            self._reader = os.open(self._path, os.O_RDONLY)
            self._opened.append(self._reader)
            now = self._read()
            if now.get("beat") != before or now.get("token") != other.get("token"):
                return True
        return False

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                other = self._read()
                if other and other.get("token") != self._record["token"]:
                    # This process was suspended, or cut off from the drive, for long.
                    message = f"error: process {other.get('process')} on {other.get('host')} trains in {self._path}"
                    os.write(2, f"{message.removesuffix(FILE_NAME)} now; this run has ended.\n".encode())
                    os._exit(1)
                self._record["beat"] += 1
                self._write()

    def _read(self) -> dict[str, Any]:
        # By the descriptor that holds the lock: closing any other of this process would release it.
        try:
            record = json.loads(os.pread(self._reader, 1 << 16, 0))
        except (OSError, ValueError, RecursionError):
            return {}
        return record if isinstance(record, dict) else {}

    def _write(self) -> None:
        text = (json.dumps(self._record) + "\n").encode()
        os.pwrite(self._file, text, 0)
        os.ftruncate(self._file, len(text))
        os.fsync(self._file)


def _place_of_process_ids() -> str:
    """Where process ids mean the same: the boot of this host, and the container; its name alone elsewhere."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _start_of_process(process: Any) -> str | None:
    """When a process started, as the kernel counts; None if there is none of this id, or where this is not known."""
    try:
        return Path(f"/proc/{int(process)}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, ValueError, TypeError, IndexError):
        return None
