"""docs/your_own_loss.md, run as it stands: its files written, its commands executed."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from eql_d2.analysis.final_metrics import read_final_metrics
from tests.conftest import ROOT
from tests.docs_pages import code_blocks

PAGE = ROOT / "docs" / "your_own_loss.md"
TWO_STEPS = ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"]
FEWER_PROPOSALS = ["MODEL.RPN.POST_NMS_TOPK_TEST", "10"]  # an untrained detector sees objects everywhere


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
        "compare.py",
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
    assert "3 passed" in run(folder, tests, "-p", "no:cacheprovider")


@pytest.mark.slow
def test_it_trains_and_compares(folder, commands):
    assert [command[0] for command in commands] == ["python"] * 4
    for command in commands:
        if "tools/make_emoji_lvis.py" in command:
            run(folder, command)
        elif "tools/train_net.py" in command:
            run(folder, command, *TWO_STEPS, *FEWER_PROPOSALS)
    metrics = {name: read_final_metrics(folder / "output" / name) for name in ("softmax", "prior")}
    assert all({"APr", "APc", "APf"} <= set(of_run["segm"]) for of_run in metrics.values())
    first_losses = {name: (folder / "output" / name / "metrics.json").read_text() for name in metrics}
    assert first_losses["softmax"] != first_losses["prior"]
    table = run(folder, ["python", "compare.py"])
    assert [line.split()[:2] for line in table.splitlines()[2:]] == [
        ["box", "softmax"],
        ["box", "prior"],
        ["mask", "softmax"],
        ["mask", "prior"],
    ]
