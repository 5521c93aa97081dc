"""docs/first_run.ipynb, executed cell by cell as a notebook program does, and free of outputs."""

import ast
import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

NOTEBOOK = json.loads((ROOT / "docs" / "first_run.ipynb").read_text())
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_it_holds_code_without_outputs():
    assert len(CELLS) > 5
    for cell, text in zip((c for c in NOTEBOOK["cells"] if c["cell_type"] == "code"), CELLS, strict=True):
        assert cell["outputs"] == [] and cell["execution_count"] is None
        ast.parse(text)


@pytest.mark.slow
def test_its_cells_run_in_order(tmp_path):
    program = tmp_path / "cells.py"
    program.write_text("\n\n".join(CELLS))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "small_val: 24 images by LVIS's rules" in done.stdout
    assert (tmp_path / "first_run" / "report.html").read_text().count("<h2>") > 3
