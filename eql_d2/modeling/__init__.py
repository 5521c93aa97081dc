"""Detectron2 modules on top of the losses; importing this registers them.

Each method's box predictor is here by its name, as ``EQLPredictor``.
"""

from eql_d2.modeling.box_predictor import BOX_PREDICTOR_REGISTRY, LongTailPredictor
from eql_d2.modeling.fcos import LongTailFCOS
from eql_d2.modeling.mask_head import (
    AveragedMaskHeads,
    NormedMaskRCNNConvUpsampleHead,
    OwnClassMaskRCNNConvUpsampleHead,
)
from eql_d2.modeling.normed_layers import NormedConv2d, NormedLinear, ScaledLinear
from eql_d2.modeling.predictors import build_box_predictor, predictor_class
from eql_d2.modeling.retinanet import LongTailRetinaNet
from eql_d2.modeling.roi_heads import LongTailCascadeROIHeads, LongTailROIHeads
from eql_d2.modeling.rpn import LongTailRPN
from eql_d2.modeling.test_time_augmentation import LongTailRCNNWithTTA
from eql_d2.modeling.timm_backbone import TimmBackbone, build_timm_fpn_backbone

__all__ = [
    "BOX_PREDICTOR_REGISTRY",
    "AveragedMaskHeads",
    "LongTailCascadeROIHeads",
    "LongTailFCOS",
    "LongTailPredictor",
    "LongTailRCNNWithTTA",
    "LongTailROIHeads",
    "LongTailRPN",
    "LongTailRetinaNet",
    "NormedConv2d",
    "NormedLinear",
    "NormedMaskRCNNConvUpsampleHead",
    "OwnClassMaskRCNNConvUpsampleHead",
    "ScaledLinear",
    "TimmBackbone",
    "build_box_predictor",
    "build_timm_fpn_backbone",
]


def __getattr__(name: str) -> type[LongTailPredictor]:
    predictor = predictor_class(name)
    if predictor is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return predictor
