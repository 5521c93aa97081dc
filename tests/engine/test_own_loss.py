"""A user's own loss, in a file of the user's, through the real tool and on two processes."""

import json
import subprocess
import sys

import pytest

from eql_d2.engine import load_config
from eql_d2.engine.config_files import parse_config
from eql_d2.errors import UserError
from eql_d2.losses import METHODS
from tests.conftest import ROOT

MY_LOSSES = """
from eql_d2.losses import SoftmaxCrossEntropy
from eql_d2.modeling import BOX_PREDICTOR_REGISTRY, LongTailPredictor

class MyLoss(SoftmaxCrossEntropy):
    def compute(self, logits, gt_classes):
        return {"loss_mine": 2 * super().compute(logits, gt_classes)["loss_cls"]}

@BOX_PREDICTOR_REGISTRY.register()
class MyPredictor(LongTailPredictor):
    loss_class = MyLoss
"""


@pytest.mark.slow
def test_own_loss_from_the_command_line(tiny_cfg, tmp_path):
    (tmp_path / "my_losses.py").write_text(MY_LOSSES)
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.MAX_ITER = 2
    tiny_cfg.ENGINE.IMPORT = ("my_losses",)
    tiny_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = "MyPredictor"
    (tmp_path / "mine.yaml").write_text(tiny_cfg.dump())
    command = [sys.executable, ROOT / "tools" / "train_net.py", "--config-file", "mine.yaml", "--num-gpus", "2"]
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    last = json.loads((tmp_path / "run" / "metrics.json").read_text().splitlines()[-1])
    assert last["loss_mine"] > 0


REGISTERED = """
from eql_d2.losses import SoftmaxCrossEntropy, register_method

@register_method("scaled", "Scaled softmax", "ScaledPredictor")
class ScaledLoss(SoftmaxCrossEntropy):
    def __init__(self, num_classes, factor=2.0):
        super().__init__(num_classes)
        self.factor = factor
"""


@pytest.fixture
def scaled_loss(tmp_path, monkeypatch):
    """A module with a registered loss, in the current folder, that no other test sees."""
    (tmp_path / "scaled_loss.py").write_text(REGISTERED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("scaled_loss", None)
    METHODS.pop("scaled", None)


def test_options_of_an_own_loss_are_keys(scaled_loss, tmp_path):
    (tmp_path / "own.yaml").write_text("ENGINE: {IMPORT: scaled_loss}\nMODEL: {LONG_TAIL: {SCALED: {FACTOR: 3.0}}}\n")
    cfg = load_config("own.yaml", ["MODEL.ROI_BOX_HEAD.PREDICTOR", "ScaledPredictor"])
    assert cfg.ENGINE.IMPORT == ("scaled_loss",)
    assert cfg.MODEL.LONG_TAIL.SCALED.FACTOR == 3.0
    assert load_config("own.yaml", ["MODEL.LONG_TAIL.SCALED.FACTOR", "4.0"]).MODEL.LONG_TAIL.SCALED.FACTOR == 4
    with pytest.raises(UserError, match=r"FACTR does not exist; did you mean MODEL.LONG_TAIL.SCALED.FACTOR"):
        load_config("own.yaml", ["MODEL.LONG_TAIL.SCALED.FACTR", "4"])


@pytest.mark.parametrize("value", ["scaled_loss", "('scaled_loss',)", "['scaled_loss']"])
def test_a_module_may_be_named_plainly(scaled_loss, value):
    cfg = load_config("", ["ENGINE.IMPORT", value, "MODEL.LONG_TAIL.SCALED.FACTOR", "4.0"])
    assert cfg.ENGINE.IMPORT == ("scaled_loss",)


def test_a_finished_runs_config_is_read_without_its_module(scaled_loss):
    dumped = load_config("", ["ENGINE.IMPORT", "scaled_loss"]).dump()
    METHODS.pop("scaled")
    sys.modules.pop("scaled_loss")
    cfg = parse_config(dumped, "config.yaml")
    assert cfg.MODEL.LONG_TAIL.SCALED.FACTOR == 2.0
    assert "scaled_loss" not in sys.modules  # reading runs no code
