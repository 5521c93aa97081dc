"""What the tools say of themselves: an example, in 80 columns, and nothing besides."""

import ast
import os
import re
import runpy
import subprocess
import sys

import pytest

from eql_d2.__main__ import VERBS, main
from eql_d2.errors import UserError
from tests.conftest import ROOT

PARTS_OF_TOOLS = {"child_processes", "detectron2_edits", "python_and_uv"}
TOOLS = sorted({path.stem for path in (ROOT / "tools").glob("*.py")} - PARTS_OF_TOOLS)


@pytest.mark.parametrize("name", TOOLS)
def test_help_has_an_example_and_fits_80_columns(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.syspath_prepend(ROOT / "tools")
    path = ROOT / "tools" / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [f"tools/{name}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr()
    assert (end.value.code, printed.err) == (0, "")
    assert [line for line in printed.out.splitlines() if len(line) > 80] == []
    assert re.search(rf"tools/{name}\.py (?!\[)|^ +make ", printed.out, re.MULTILINE)


def test_the_help_of_the_set_up_sets_nothing_up(tmp_path):
    environment = os.environ | {"VENV": str(tmp_path / "venv")}
    command = [sys.executable, str(ROOT / "tools" / "set_up.py"), "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout
    assert not (tmp_path / "venv").exists()


def test_the_first_lines_are_short_enough_for_the_list_of_verbs():
    for name in VERBS.values():
        text = ast.get_docstring(ast.parse((ROOT / "tools" / f"{name}.py").read_text())) or ""
        assert 10 < len(text.splitlines()[0]) <= 80, name


@pytest.mark.parametrize("verb", VERBS)
def test_the_command_names_no_tools_of_a_clone(verb, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(sys, "argv", ["eql-d2", verb, "--help"])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr().out
    assert end.value.code == 0
    assert re.search(rf"eql-d2 {verb} (?!\[)", printed)
    assert not re.search(r"tools/\w+\.py", printed)


def test_the_command_names_no_tools_of_a_clone_in_errors(monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(sys, "argv", ["eql-d2", "evaluate", "--annotations", "none.json", "--results", "none.json"])
    monkeypatch.setattr("eql_d2.evaluation.evaluate_files.read_ground_truth", _refuse)
    with pytest.raises(SystemExit, match=r"^error: eql-d2 check lists them; tools/set_up\.py stays$"):
        main()


def _refuse(*_, **__):
    raise UserError("tools/check_dataset.py lists them; tools/set_up.py stays")
