"""Detectron2 modules on top of the losses; importing this registers them."""

from eql_d2.modeling.box_predictor import (
    BOX_PREDICTOR_REGISTRY,
    LongTailPredictor,
    build_box_predictor,
)
from eql_d2.modeling.comparison_predictors import (
    ClassBalancedPredictor,
    DropLossPredictor,
    FederatedPredictor,
    FocalPredictor,
    InverseFrequencyPredictor,
)
from eql_d2.modeling.mask_head import NormedMaskRCNNConvUpsampleHead
from eql_d2.modeling.methods import (
    BAGSPredictor,
    EQLPredictor,
    EQLv2Predictor,
    SeesawPredictor,
    SigmoidPredictor,
    SoftmaxPredictor,
)
from eql_d2.modeling.normed_layers import NormedConv2d, NormedLinear, ScaledLinear
from eql_d2.modeling.roi_heads import LongTailCascadeROIHeads, LongTailROIHeads
from eql_d2.modeling.rpn import LongTailRPN
from eql_d2.modeling.test_time_augmentation import LongTailRCNNWithTTA

__all__ = [
    "BOX_PREDICTOR_REGISTRY",
    "BAGSPredictor",
    "ClassBalancedPredictor",
    "DropLossPredictor",
    "EQLPredictor",
    "EQLv2Predictor",
    "FederatedPredictor",
    "FocalPredictor",
    "InverseFrequencyPredictor",
    "LongTailCascadeROIHeads",
    "LongTailPredictor",
    "LongTailRCNNWithTTA",
    "LongTailROIHeads",
    "LongTailRPN",
    "NormedConv2d",
    "NormedLinear",
    "NormedMaskRCNNConvUpsampleHead",
    "ScaledLinear",
    "SeesawPredictor",
    "SigmoidPredictor",
    "SoftmaxPredictor",
    "build_box_predictor",
]
