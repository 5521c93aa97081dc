"""The config files, and what their paths say: configs/{LVISv0.5,LVISv1}/RECIPE/MODEL/METHOD[_rfs|_cas].yaml."""

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from detectron2.config import CfgNode

from eql_d2.engine import load_config
from tests.conftest import ROOT

CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "tables")
LEAVES = [path for path in CONFIGS if not path.name.startswith("Base")]
LVIS = [path for path in LEAVES if path.parts[-4] in ("LVISv1", "LVISv0.5") and "_rcnn_" in path.parts[-2]]
ONE_STAGE = [path for path in LEAVES if path.parts[-4] == "LVISv1" and "retinanet" in path.parts[-2]]
TRAIN_IMAGES = {"LVISv1": 99_388, "LVISv0.5": 56_740}  # those with annotations


class Leaf(NamedTuple):
    """What the path of an LVIS config says."""

    version: str
    recipe: str
    architecture: str
    backbone: str
    method: str
    sampler: str

    @property
    def rfs(self) -> bool:
        """Whether it samples by repeat factors."""
        return self.sampler == "rfs"

    @property
    def cascade(self) -> bool:
        """Whether the model is a Cascade."""
        return self.architecture.startswith("cascade")

    @property
    def second_stage(self) -> bool:
        """Whether it trains the classifier of a finished detector; Seesaw Loss's paper trains BAGS end to end."""
        return self.method in ("crt", "lws") or (self.method == "bags" and self.recipe != "seesaw_2x")


@cache
def config_of(path: Path) -> CfgNode:
    """The frozen config of a file."""
    cfg = load_config(str(path))
    cfg.freeze()
    return cfg


def leaf_of(path: Path) -> Leaf:
    """Take the path of an LVIS config apart."""
    version, recipe, model, name = path.with_suffix("").parts[-4:]
    architecture, backbone = re.fullmatch(r"(\w+_rcnn)_(R50|R101|X101_64x4d)_FPN", model).groups()
    method, sampler = re.fullmatch(r"(\w+?)(?:_(rfs|cas))?", name).groups()
    return Leaf(version, recipe, architecture, backbone, method, sampler or "")


def of_recipes(*recipes: str) -> list[Path]:
    """The LVIS configs of some recipes."""
    return [path for path in LVIS if leaf_of(path).recipe in recipes]


def by_path(paths: list[Path]) -> pytest.MarkDecorator:
    """Run a test for each of some configs."""
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT / "configs")))
