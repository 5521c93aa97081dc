"""One run a folder: the second is refused, and neither a crash nor another host leaves the folder locked."""

import fcntl
import json
import os
import signal
import subprocess
import sys

import pytest

from eql_d2.engine import run_lock
from eql_d2.engine.run_lock import RunLock, record_in
from eql_d2.errors import UserError
from tests.conftest import ROOT

HOLDER = """
import importlib.util, sys, time
# Without the rest of the package, which takes seconds to import.
spec = importlib.util.spec_from_file_location("run_lock", "eql_d2/engine/run_lock.py")
run_lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run_lock)
run_lock.hold_run_folder(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_is_told_of_the_first_and_a_kill_frees_the_folder(holder, tmp_path):
    record = record_in(tmp_path)
    assert record["process"] == holder.pid
    with pytest.raises(UserError, match=f"process {holder.pid} on {record['host']}, since {record['started'][:10]}"):
        RunLock(tmp_path).acquire()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not record_in(tmp_path)["ended"]
    lock = RunLock(tmp_path)
    lock.acquire()
    assert record_in(tmp_path)["process"] == os.getpid()
    lock.release()
    assert record_in(tmp_path)["ended"]


@pytest.fixture
def no_locks(monkeypatch):
    """A file system without locks."""
    monkeypatch.setattr(fcntl, "lockf", lambda *_: (_ for _ in ()).throw(OSError(37, "No locks available")))


def test_without_locks_the_process_itself_tells(holder, tmp_path, no_locks):
    with pytest.raises(UserError, match=f"process {holder.pid}"):
        RunLock(tmp_path).acquire()
    holder.kill()
    holder.wait()
    RunLock(tmp_path).acquire()


def test_a_process_id_that_came_up_again_is_not_the_holder(holder, tmp_path, no_locks):
    record = {**record_in(tmp_path), "process_start": "1"}
    holder.kill()
    holder.wait()
    (tmp_path / "run.lock").write_text(json.dumps({**record, "process": os.getpid()}))
    RunLock(tmp_path).acquire()


def of_another_host(folder, **more):
    record = {"host": "node7", "process": 4, "started": "2026-01-01", "place": "node7 x", "token": "t", "beat": 3}
    (folder / "run.lock").write_text(json.dumps({**record, "ended": False, **more}))


def test_another_host_that_is_gone_is_waited_for_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_lock, "WATCH_SECONDS", 0.3)
    of_another_host(tmp_path)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert "process 4 on node7, which did not end in order" in capsys.readouterr().err
    lock.release()


def test_another_host_that_trains_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "WATCH_SECONDS", 2.0)
    of_another_host(tmp_path)
    code = f"""
import time
from pathlib import Path
path = Path({str(tmp_path / "run.lock")!r})
for beat in range(100):
    time.sleep(0.2)
    path.write_text(path.read_text().replace('"beat": 3', '"beat": 4'))
"""
    with subprocess.Popen([sys.executable, "-c", code]) as beating:
        with pytest.raises(UserError, match=r"Another run trains in .* \(process 4 on node7, since 2026-01-01"):
            RunLock(tmp_path).acquire()
        beating.kill()


def test_another_host_that_ended_in_order_is_not_waited_for(tmp_path):
    of_another_host(tmp_path, ended=True)
    RunLock(tmp_path).acquire()


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '{"ended": 5, "place": []}', "[" * 5000])
def test_a_broken_lock_file_locks_nobody_out(tmp_path, content, monkeypatch):
    monkeypatch.setattr(run_lock, "WATCH_SECONDS", 0.2)
    (tmp_path / "run.lock").write_text(content)
    RunLock(tmp_path).acquire()
    assert record_in(tmp_path)["process"] == os.getpid()
