"""Normalized mask prediction."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import nn

from eql_d2.modeling.normed_layers import NormedConv2d


@ROI_MASK_HEAD_REGISTRY.register()
class NormedMaskRCNNConvUpsampleHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head with cosine similarity in its last layer, as in Seesaw Loss's paper.

    Args:
        input_shape: shape of one RoI's feature.
        temperature: see ``MODEL.ROI_MASK_HEAD.TEMPERATURE``.
        kwargs: arguments of :class:`MaskRCNNConvUpsampleHead`.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, temperature: float = 20.0, **kwargs: Any) -> None:
        super().__init__(input_shape, **kwargs)
        plain = self.predictor
        self.predictor = NormedConv2d(plain.in_channels, plain.out_channels, temperature=temperature)
        # A normalized weight takes steps in proportion to 1 / ‖w‖, too long for the plain layer's tiny weights.
        nn.init.kaiming_normal_(self.predictor.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        return {**super().from_config(cfg, input_shape), "temperature": cfg.MODEL.ROI_MASK_HEAD.TEMPERATURE}
