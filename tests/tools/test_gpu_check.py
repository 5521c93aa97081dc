"""The GPU check: parts that pass, fail or take too long, and its rehearsal on a CPU."""

import json
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT
from tools.gpu_check import ALL_SECONDS, Part, do, parts_of


def python(code, **options):
    return Part("some part", ("-c", code), options.pop("limit", 60), **options)


def test_what_a_part_found():
    outcome = do(python("print('on the way'); print('{\"speed\": 3}')"))
    assert outcome["passed"] and outcome["found"] == {"speed": 3} and outcome["seconds"] >= 0


def test_a_file_that_a_part_wrote(tmp_path):
    path = tmp_path / "found.json"
    outcome = do(python(f"open({str(path)!r}, 'w').write('[1, 2]')", output=path))
    assert outcome["passed"] and outcome["found"] == [1, 2]


def test_a_part_that_fails_says_why():
    outcome = do(python("raise SystemExit('there is no such thing')"))
    assert not outcome["passed"] and outcome["said"] == ["there is no such thing"]


@pytest.mark.parametrize("may_be_stopped", [False, True])
def test_a_part_that_takes_too_long(may_be_stopped):
    part = python("import time; print('begun', flush=True); time.sleep(60)", limit=1, may_be_stopped=may_be_stopped)
    outcome = do(part)
    assert outcome["passed"] == may_be_stopped
    assert outcome["stopped after seconds"] == 1 and outcome["seconds"] < 30
    assert outcome["said"] == ["begun"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_parts(device, tmp_path):
    """All scripts are there, and on a GPU they end within eight minutes."""
    parts = [part for part in parts_of(device, tmp_path) if part.name != "emoji_full"]
    scripts = [part.command[0] for part in parts if part.command[0] != "-m"]
    assert len(scripts) == 8 and all((ROOT / script).is_file() for script in scripts)
    assert device == "cpu" or sum(part.limit for part in parts) <= ALL_SECONDS == 8 * 60
    assert len({part.name for part in parts}) == len(parts)


def run_tool(*arguments):
    command = [sys.executable, "tools/gpu_check.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu():
    done = run_tool()
    assert done.returncode == 1
    assert done.stderr == "error: PyTorch sees no GPU on this machine; rehearse with DEVICE=cpu (--device cpu).\n"


def test_a_part_that_does_not_exist(tmp_path):
    done = run_tool("--device", "cpu", "--output", str(tmp_path), "--only", "job", "speed")
    assert done.returncode == 1 and done.stderr.startswith(
        "error: There is no part 'speed'; parts are tests, losses 1024"
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_rehearsal(tmp_path):
    done = run_tool("--device", "cpu", "--output", str(tmp_path))
    content = json.loads((tmp_path / "cpu.json").read_text())
    assert done.returncode == 0, (done.stderr, content)
    assert content["machine"]["device"] == "cpu"
    assert all(outcome["passed"] for outcome in content["parts"].values())
    assert content["parts"]["job"]["found"]["facts"]["detections"] == 300
    assert content["parts"]["train-bf16"]["found"]["steps"] == 2
