"""A keyword's default, which lazy configs use, is the default of the config key that stands for it."""

import inspect
from operator import attrgetter

import detectron2.engine
import pytest

from eql_d2.config import get_eql_d2_config
from eql_d2.engine.launch import launch
from eql_d2.modeling.box_predictor import LongTailPredictor
from eql_d2.modeling.calibration import Calibration, LogitStatistics
from eql_d2.modeling.fcos import LongTailFCOS
from eql_d2.modeling.mask_head import (
    AveragedMaskHeads,
    NormedMaskRCNNConvUpsampleHead,
    OwnClassMaskRCNNConvUpsampleHead,
)
from eql_d2.modeling.retinanet import LongTailRetinaNet
from eql_d2.modeling.roi_heads import LongTailCascadeROIHeads
from eql_d2.modeling.roi_training import TargetedROIHeads
from eql_d2.modeling.rpn import LongTailRPN

MASK_HEADS = (OwnClassMaskRCNNConvUpsampleHead, AveragedMaskHeads)
DENSE = (LongTailRetinaNet, LongTailFCOS)
KEYS = {
    (LongTailPredictor, "prior_prob"): "MODEL.LONG_TAIL.PRIOR_PROB",
    (LongTailPredictor, "normed_classifier"): "MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER",
    (LongTailPredictor, "temperature"): "MODEL.ROI_BOX_HEAD.TEMPERATURE",
    (LongTailPredictor, "scaled_classifier"): "MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER",
    (LongTailPredictor, "scales_bias"): "MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER_BIAS",
    (LongTailPredictor, "image_level_labels"): "MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS",
    **{(head, "own_class_only"): "MODEL.ROI_MASK_HEAD.OWN_CLASS_ONLY" for head in MASK_HEADS},
    (NormedMaskRCNNConvUpsampleHead, "temperature"): "MODEL.ROI_MASK_HEAD.TEMPERATURE",
    **{(detector, "prior_prob"): "MODEL.LONG_TAIL.PRIOR_PROB" for detector in DENSE},
    **{(detector, "ignore_overlap"): "MODEL.RPN.IGNORE_OVERLAP" for detector in DENSE},
    (LongTailRetinaNet, "assignment"): "MODEL.RETINANET.ASSIGNMENT",
    (LongTailRetinaNet, "atss_candidates"): "MODEL.RETINANET.ATSS_CANDIDATES",
    (LongTailCascadeROIHeads, "score_average"): "MODEL.ROI_BOX_CASCADE_HEAD.SCORE_AVERAGE",
    (LongTailCascadeROIHeads, "stage_weights"): "MODEL.ROI_BOX_CASCADE_HEAD.STAGE_WEIGHTS",
    (LongTailCascadeROIHeads, "feature_gradient"): "MODEL.ROI_BOX_CASCADE_HEAD.FEATURE_GRADIENT",
    (TargetedROIHeads, "ignore_overlap"): "MODEL.ROI_HEADS.IGNORE_OVERLAP",
    (LongTailRPN, "ignore_overlap"): "MODEL.RPN.IGNORE_OVERLAP",
    (LogitStatistics, "momentum"): "TEST.LOGN.MOMENTUM",
    (Calibration, "tau_norm"): "TEST.TAU_NORM",
    (Calibration, "tau_norm_keep_scale"): "TEST.TAU_NORM_KEEP_SCALE",
    (Calibration, "norcal_gamma"): "TEST.NORCAL_GAMMA",
    (Calibration, "fracal_lambda"): "TEST.FRACAL.LAMBDA",
    (Calibration, "logn_momentum"): "TEST.LOGN.MOMENTUM",
    (launch, "stop_grace"): "ENGINE.STOP_GRACE",
    (launch, "timeout"): "ENGINE.COLLECTIVE_TIMEOUT",
}


@pytest.mark.parametrize(("owner", "keyword"), KEYS)
def test_the_key_says_the_same(owner, keyword):
    default = inspect.signature(owner).parameters[keyword].default
    assert default is not inspect.Parameter.empty
    assert default == attrgetter(KEYS[owner, keyword])(get_eql_d2_config())


def test_launch_starts_one_machine_as_detectron2_does():
    ours, theirs = (inspect.signature(function).parameters for function in (launch, detectron2.engine.launch))
    for keyword in ("num_machines", "machine_rank", "args"):
        assert ours[keyword].default == theirs[keyword].default
