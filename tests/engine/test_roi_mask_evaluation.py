"""Which form of masks evaluators get: RoI masks where all know them, the bitmaps of Detectron2 elsewhere."""

import pytest
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances, ROIMasks

from eql_d2.engine import LongTailTrainer
from eql_d2.errors import UserError
from eql_d2.evaluation.detection_evaluator import DetectionEvaluator, check_finite


class Theirs(DatasetEvaluator):
    """A user's own evaluator."""

    def __init__(self):
        self.kinds = set()

    def process(self, inputs, outputs):
        self.kinds |= {type(output["instances"].pred_masks) for output in outputs}


class Ours(DetectionEvaluator):
    def __init__(self):
        self.kinds = set()

    def _process_image(self, image_id, instances):
        self.kinds.add(type(instances.pred_masks))
        assert instances.pred_masks.device.type == "cpu"

    def evaluate(self):
        return {}


class Trainer(LongTailTrainer):
    """Two test sets, each with an evaluator of the next class."""

    kinds = ()

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        cls.evaluators.append(cls.kinds[len(cls.evaluators)]())
        return cls.evaluators[-1]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [((Ours, Ours), ROIMasks), ((Ours, Theirs), torch.Tensor), ((Theirs, Theirs), torch.Tensor)],
)
def test_the_form_of_masks(tiny_cfg, kinds, expected):
    tiny_cfg.DATASETS.TEST = ("tiny_val", "tiny_val")
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    torch.manual_seed(0)
    Trainer.kinds, Trainer.evaluators = kinds, []
    model = Trainer.build_model(tiny_cfg)
    model.train()
    Trainer.test(tiny_cfg, model)
    assert [type(evaluator) for evaluator in Trainer.evaluators] == list(kinds)
    assert [evaluator.kinds for evaluator in Trainer.evaluators] == [{expected}] * 2


def test_a_mask_that_is_not_finite():
    instances = Instances((9, 9), pred_boxes=Boxes(torch.ones(1, 4)), scores=torch.ones(1))
    instances.pred_masks = ROIMasks(torch.full((1, 4, 4), float("nan")))
    with pytest.raises(UserError, match="predictions for image id 12 hold a mask that is not finite"):
        check_finite(12, instances)
