"""Normalized mask prediction, and masks averaged over the heads of a Cascade."""

import functools
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead, MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from torch import Tensor, nn

from eql_d2.losses.base import at_least_float32
from eql_d2.modeling.normed_layers import NormedConv2d


@ROI_MASK_HEAD_REGISTRY.register()
class NormedMaskRCNNConvUpsampleHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head with cosine similarity in its last layer, as in Seesaw Loss's paper.

    Args:
        input_shape: shape of one RoI's feature.
        temperature: see ``MODEL.ROI_MASK_HEAD.TEMPERATURE``.
        kwargs: arguments of :class:`MaskRCNNConvUpsampleHead`.
    """

    predictor: nn.Conv2d

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, temperature: float = 20.0, **kwargs: Any) -> None:
        super().__init__(input_shape, **kwargs)
        plain = self.predictor
        normed = NormedConv2d(plain.in_channels, plain.out_channels, temperature=temperature)
        # A normalized weight takes steps in proportion to 1 / ‖w‖, too long for the plain layer's tiny weights.
        nn.init.kaiming_normal_(normed.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(normed.bias)
        self.predictor = normed

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        return {**super().from_config(cfg, input_shape), "temperature": cfg.MODEL.ROI_MASK_HEAD.TEMPERATURE}


@ROI_MASK_HEAD_REGISTRY.register()
class AveragedMaskHeads(BaseMaskRCNNHead):
    """Several mask heads whose probabilities are averaged, one for each stage of a Cascade, as in mmdetection.

    Training gives every head the same RoIs, where mmdetection gives each its own stage's.

    Args:
        heads: the mask heads.
        kwargs: arguments of :class:`BaseMaskRCNNHead`.
    """

    @configurable
    def __init__(self, *, heads: list[BaseMaskRCNNHead], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = nn.ModuleList(heads)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        build = ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.ROI_MASK_HEAD.AVERAGED)
        heads = [build(cfg, input_shape) for _ in cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS]
        return {**super().from_config(cfg, input_shape), "heads": heads}

    def forward(self, x: Tensor, instances: list[Instances]) -> Any:
        """The mean of the heads' losses in training; else the instances with ``pred_masks``."""
        if not self.training:
            return super().forward(x, instances)
        losses = [head(x, instances)["loss_mask"] for head in self.heads]
        return {"loss_mask": sum(losses) / len(losses)}

    def layers(self, x: Tensor) -> Tensor:
        """Logits (N, K, H, W) of the mean probability."""
        heads: list[BaseMaskRCNNHead] = [*self.heads]
        probabilities = functools.reduce(torch.add, (at_least_float32(head.layers(x)).sigmoid() for head in heads))
        probabilities = probabilities / len(heads)
        return probabilities.logit(eps=torch.finfo(probabilities.dtype).eps)
