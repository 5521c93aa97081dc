"""A user's own loss, in a file of the user's, through the real tool and on two processes."""

import json
import subprocess
import sys

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
