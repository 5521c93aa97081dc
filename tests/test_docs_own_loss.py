"""docs/your_own_loss.md, run as it stands: its files written, its commands executed."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from eql_d2.analysis.final_metrics import read_final_metrics
from tests.conftest import ROOT
from tests.docs_pages import code_blocks

PAGE = ROOT / "docs" / "your_own_loss.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder as a user's, with the page's files in it and those of the repository beside them."""
    folder = tmp_path_factory.mktemp("own_loss")
    for name in ("tools", "configs"):
        (folder / name).symlink_to(ROOT / name)
    for _, text in code_blocks(PAGE):
        if named := re.match(r"# (\w+\.(?:py|yaml))\n", text):
            (folder / named[1]).write_text(text)
    assert {path.name for path in folder.glob("*.*")} == {
        "prior_softmax.py",
        "prior_softmax.yaml",
        "prior_table.yaml",
        "test_prior_softmax.py",
    }
    return folder


@pytest.fixture(scope="module")
def commands():
    """The page's commands, in its order, with their line continuations joined."""
    blocks = [text for language, text in code_blocks(PAGE) if language == "bash"]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def run(folder, command, *more):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DETECTRON2_DATASETS": str(folder / "datasets")}
    finished = subprocess.run(
        [sys.executable, *command[1:], *more], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_its_unit_test_passes(folder, commands):
    (tests,) = (command for command in commands if "pytest" in command)
    assert "2 passed" in run(folder, tests, "-p", "no:cacheprovider")


def test_its_table_is_planned(folder, commands):
    ((_, _, *arguments),) = (command for command in commands if "run" in command)
    lines = run(folder, ["python", "tools/reproduce.py", *arguments, "--dry-run"]).splitlines()
    names = [line.removeprefix("# ") for line in lines[::2]]
    rows = ("softmax", "prior_0.5", "prior_1.0")
    assert names == [f"prior_table/{row}/seed_{seed}" for row in rows for seed in range(3)]
    assert "MODEL.LONG_TAIL.PRIOR_SOFTMAX.STRENGTH 0.5" in lines[7]


@pytest.mark.slow
def test_it_trains_and_compares(folder, commands):
    assert [command[0] for command in commands] == ["python"] * 7
    short = yaml.safe_load((folder / "prior_softmax.yaml").read_text())
    short["SOLVER"] = {"MAX_ITER": 2, "STEPS": []}
    short["MODEL"] |= {"DEVICE": "cpu", "RPN": {"POST_NMS_TOPK_TEST": 10}}
    short["DATALOADER"] = {"NUM_WORKERS": 0}
    (folder / "prior_softmax.yaml").write_text(yaml.safe_dump(short))  # an untrained detector sees objects everywhere
    table = (folder / "prior_table.yaml").read_text()
    (folder / "prior_table.yaml").write_text(table.replace("[0, 1, 2]", "[0, 1]").replace("[0.5, 1.0]", "[0.5]"))
    printed = {command[1]: run(folder, command) for command in commands if "pytest" not in command}
    metrics = {name: read_final_metrics(folder / "output" / name) for name in ("softmax", "prior")}
    assert all({"APr", "APc", "APf"} <= set(of_run["segm"]) for of_run in metrics.values())
    first_losses = {name: (folder / "output" / name / "metrics.json").read_text() for name in metrics}
    assert first_losses["softmax"] != first_losses["prior"]
    assert "±" in printed["tools/reproduce.py"]
    assert "Prior softmax (STRENGTH 0.5)" in printed["tools/reproduce.py"]
    assert "prior_0.5" in (folder / "prior.html").read_text()
