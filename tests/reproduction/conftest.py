"""A small repository of one's own: configs, tables and the tools, in a folder of its own."""

import importlib.util

import pytest
import yaml

from tests.conftest import ROOT
from tests.reproduction.mini import MINI_TABLE


@pytest.fixture
def mini_root(tiny_set, tmp_path, monkeypatch):
    """The current folder, with ``configs/tiny.yaml`` and the table ``mini``."""
    (tmp_path / "configs" / "tables").mkdir(parents=True)
    custom = [
        {"name": f"tiny_{split}", "annotations": str(tiny_set / f"{split}.json"), "images": str(tiny_set)}
        for split in ("train", "val")
    ]
    config = {"_BASE_": str(ROOT / "tests" / "tiny.yaml"), "DATASETS": {"CUSTOM": custom}, "SOLVER": {"MAX_ITER": 2}}
    (tmp_path / "configs" / "tiny.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "configs" / "tables" / "mini.yaml").write_text(MINI_TABLE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("EQL_D2_CONFIGS", str(tmp_path / "configs"))
    return tmp_path


@pytest.fixture(scope="session")
def reproduce():
    """``main`` of tools/reproduce.py."""
    spec = importlib.util.spec_from_file_location("reproduce", ROOT / "tools" / "reproduce.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool.main
