"""Mask heads: each RoI's own class alone, normalized prediction, and masks averaged over the heads of a Cascade."""

import functools
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import (
    BaseMaskRCNNHead,
    MaskRCNNConvUpsampleHead,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import Instances
from torch import Tensor, nn

from eql_d2.losses.base import at_least_float32
from eql_d2.modeling.normed_layers import NormedConv2d
from eql_d2.modeling.own_class_masks import checked_classes, own_class_logits


@ROI_MASK_HEAD_REGISTRY.register()
class OwnClassMaskRCNNConvUpsampleHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head, of which only each RoI's own class is computed: ground truth, or prediction in testing.

    Detectron2 computes the masks of all K classes and then looks at that one. Parameters and their names, loss,
    gradients and masks are the same (but for rounding); the logits are a K-th.

    Args:
        input_shape: shape of one RoI's feature.
        own_class_only: see ``MODEL.ROI_MASK_HEAD.OWN_CLASS_ONLY``.
        kwargs: arguments of :class:`MaskRCNNConvUpsampleHead`.
    """

    predictor: nn.Conv2d

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, own_class_only: bool = True, **kwargs: Any) -> None:
        super().__init__(input_shape, **kwargs)
        self.own_class_only = own_class_only

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        return {**super().from_config(cfg, input_shape), "own_class_only": cfg.MODEL.ROI_MASK_HEAD.OWN_CLASS_ONLY}

    def forward(self, x: Tensor, instances: list[Instances]) -> Any:
        """Detectron2's loss in training; else the instances with ``pred_masks``.

        Args:
            x: pooled features (R, C, H, W) of all images.
            instances: one a image, R in all, with ``gt_classes`` in training, else ``pred_classes``.

        Raises:
            UserError: a class is outside the last layer.
        """
        num_classes = self.predictor.out_channels
        if not self.own_class_only or num_classes == 1:
            return super().forward(x, instances)
        logits = own_class_logits(self, x, checked_classes(instances, self.training, num_classes))
        if self.training:
            return {"loss_mask": mask_rcnn_loss(logits, instances, self.vis_period) * self.loss_weight}
        mask_rcnn_inference(logits, instances)
        return instances


@ROI_MASK_HEAD_REGISTRY.register()
class NormedMaskRCNNConvUpsampleHead(OwnClassMaskRCNNConvUpsampleHead):
    """Detectron2's mask head with cosine similarity in its last layer, as in Seesaw Loss's paper.

    Args:
        input_shape: shape of one RoI's feature.
        temperature: see ``MODEL.ROI_MASK_HEAD.TEMPERATURE``.
        kwargs: arguments of :class:`OwnClassMaskRCNNConvUpsampleHead`.
    """

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
        own_class_only: see ``MODEL.ROI_MASK_HEAD.OWN_CLASS_ONLY``.
        kwargs: arguments of :class:`BaseMaskRCNNHead`.
    """

    @configurable
    def __init__(self, *, heads: list[MaskRCNNConvUpsampleHead], own_class_only: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = nn.ModuleList(heads)
        self._num_classes = heads[0].predictor.out_channels
        self.own_class_only = own_class_only

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        build = ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.ROI_MASK_HEAD.AVERAGED)
        return {
            **super().from_config(cfg, input_shape),
            "heads": [build(cfg, input_shape) for _ in cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS],
            "own_class_only": cfg.MODEL.ROI_MASK_HEAD.OWN_CLASS_ONLY,
        }

    def forward(self, x: Tensor, instances: list[Instances]) -> Any:
        """The mean of the heads' losses in training; else the instances with ``pred_masks``.

        Args:
            x: pooled features (R, C, H, W) of all images.
            instances: see :meth:`OwnClassMaskRCNNConvUpsampleHead.forward`.

        Raises:
            UserError: a class is outside the last layer.
        """
        heads: list[MaskRCNNConvUpsampleHead] = [*self.heads]
        if not self.own_class_only or self._num_classes == 1:
            logits = [head.layers(x) for head in heads]
        else:
            classes = checked_classes(instances, self.training, self._num_classes)
            logits = [own_class_logits(head, x, classes) for head in heads]
        if self.training:
            losses = [
                mask_rcnn_loss(of_head, instances, head.vis_period) * head.loss_weight
                for head, of_head in zip(heads, logits, strict=True)
            ]
            return {"loss_mask": sum(losses) / len(losses)}
        mask_rcnn_inference(_logits_of_mean(logits), instances)
        return instances

    def layers(self, x: Tensor) -> Tensor:
        """Logits (R, K, H', W') of the mean probability."""
        heads: list[MaskRCNNConvUpsampleHead] = [*self.heads]
        return _logits_of_mean([head.layers(x) for head in heads])


def _logits_of_mean(logits: list[Tensor]) -> Tensor:
    total = functools.reduce(torch.add, (at_least_float32(of_head).sigmoid() for of_head in logits))
    probabilities = total / len(logits)
    return probabilities.logit(eps=torch.finfo(probabilities.dtype).eps)
