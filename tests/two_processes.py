"""Two processes of one run that many tests share: starting them takes longer than what the tests do in them."""

import contextlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm

from eql_d2.engine import launch

ROOT = Path(__file__).resolve().parents[1]


class TwoProcesses:
    """Runs functions of test modules in both processes; they start with the first one."""

    def __init__(self) -> None:
        self._starter: subprocess.Popen | None = None
        self._connections: list[Connection] = []

    def __call__(self, function: Callable[..., Any], *args: Any) -> None:
        """Run ``function(*args)`` in both, in this process's folder and with its environment.

        Raises:
            AssertionError: it failed in one of them; the text is that of its error. The next call starts new ones.
        """
        if self._starter is None:
            self._start()
        try:
            self._work(function, args)
        except BaseException:  # a test that takes too long, too: what they still do is not of the next one
            self.close()
            raise

    def _work(self, function: Callable[..., Any], args: tuple) -> None:
        for connection in self._connections:
            connection.send((function, args, os.getcwd(), dict(os.environ)))
        missing = list(self._connections)
        while missing:
            for connection in wait(missing):
                try:
                    error = connection.recv()
                except EOFError:
                    error = "A process ended."
                if error:
                    raise AssertionError(error)
                missing.remove(connection)

    def _start(self) -> None:
        with Listener(family="AF_UNIX") as listener:
            command = [sys.executable, "-m", "tests.two_processes", listener.address]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self._starter = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
            self._connections = [listener.accept() for _ in range(2)]

    def close(self) -> None:
        """End both."""
        for connection in self._connections:
            connection.close()
        if self._starter is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._starter.pid, signal.SIGKILL)
            self._starter.wait()
        self._starter, self._connections = None, []


def serve(address: str) -> None:
    """Run what comes until nobody is there who asks."""
    torch.set_num_threads(1)
    with Client(address) as connection:
        while True:
            try:
                function, args, folder, environment = connection.recv()
            except EOFError:
                return
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            error = ""
            try:
                function(*args)
            except BaseException:
                error = f"In process {comm.get_rank()}: {traceback.format_exc()}"
            connection.send(error)


if __name__ == "__main__":
    from tests.two_processes import serve as serve_by_name  # not __main__'s, which the processes do not have

    launch(serve_by_name, device="cpu", num_processes_per_machine=2, args=(sys.argv[1],))
