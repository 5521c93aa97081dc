"""The set-up and the demo, when they are told to stop: nothing that they started stays behind."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.engine.test_stopping import HANG_UP, is_there

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
SET_UP = """
import sys
from child_processes import run, stop_in_order
stop_in_order()
run(["sh", "-c", "sleep 654321 & echo $! > children; echo $$ >> children; wait"], "waiting")
"""
DEMO = """
from pathlib import Path
import demo
Popen = demo.subprocess.Popen
class Told(Popen):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        Path("children").write_text(f"{self.pid}\\n")
demo.subprocess.Popen = Told
demo.train("eql", Path("run"))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, HANG_UP, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("script", [SET_UP, pytest.param(DEMO, marks=pytest.mark.slow)])
def test_nothing_outlives_it(tmp_path, script, number):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tools"), str(ROOT)])}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # also in the background
    )
    wanted = 2 if script == SET_UP else 1
    list_of_children = tmp_path / "children"
    deadline = time.monotonic() + 100
    while not (list_of_children.exists() and list_of_children.read_text().count("\n") == wanted):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    children = [int(line) for line in list_of_children.read_text().split()]
    assert all(map(is_there, children))
    process.send_signal(number)
    # After SIGKILL the system tells its child, and that need not tell its own.
    ending = children[1:] if script == SET_UP and number == signal.SIGKILL else children
    try:
        process.wait(60)
        while any(map(is_there, ending)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [child for child in ending if is_there(child)]
    finally:
        for child in filter(is_there, children):
            os.kill(child, signal.SIGKILL)
