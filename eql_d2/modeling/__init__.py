"""Detectron2 modules on top of the losses; importing this registers them."""

from eql_d2.modeling.box_predictor import (
    BOX_PREDICTOR_REGISTRY,
    LongTailPredictor,
    build_box_predictor,
)
from eql_d2.modeling.roi_heads import LongTailCascadeROIHeads, LongTailROIHeads

__all__ = [
    "BOX_PREDICTOR_REGISTRY",
    "LongTailCascadeROIHeads",
    "LongTailPredictor",
    "LongTailROIHeads",
    "build_box_predictor",
]
