"""What the ROI heads train on: sampled RoIs with the labels of their image, masks only where there are some."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Instances
from torch import Tensor

from eql_d2.data.training.image_targets import with_image_labels
from eql_d2.modeling.own_class_masks import own_class_name
from eql_d2.modeling.rpn import IGNORED, checked_overlap, in_ignore_regions


class TargetedROIHeads(StandardROIHeads):
    """Detectron2's ROI heads for images with :class:`ImageTargets` and instances with ``gt_has_mask``.

    Args:
        ignore_overlap: see ``MODEL.ROI_HEADS.IGNORE_OVERLAP``.
        kwargs: arguments of :class:`StandardROIHeads`.
    """

    @configurable
    def __init__(self, *, ignore_overlap: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ignore_overlap = checked_overlap(ignore_overlap, "MODEL.ROI_HEADS.IGNORE_OVERLAP")

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return {**super().from_config(cfg, input_shape), "ignore_overlap": cfg.MODEL.ROI_HEADS.IGNORE_OVERLAP}

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        cfg = cfg.clone()
        cfg.defrost()
        head = cfg.MODEL.ROI_MASK_HEAD
        head.NAME = own_class_name(head.NAME, head.OWN_CLASS_ONLY)
        return super()._init_mask_head(cfg, input_shape)

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Detectron2's samples, without background in ignore regions, and with the labels of their image."""
        # Detectron2 samples image by image, in this order.
        self._ignored = [
            in_ignore_regions(p.proposal_boxes, t, self.ignore_overlap) for p, t in zip(proposals, targets, strict=True)
        ]
        sampled = super().label_and_sample_proposals(proposals, targets)
        return [with_image_labels(s, t) for s, t in zip(sampled, targets, strict=True)]

    def _sample_proposals(
        self, matched_idxs: Tensor, matched_labels: Tensor, gt_classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        ignored = self._ignored.pop(0)
        if ignored is not None:
            labels = matched_labels[: len(ignored)]  # the ground truth's own boxes follow
            labels[ignored & (labels == 0)] = IGNORED
            if not len(gt_classes):  # without ground truth Detectron2 does not look at the labels
                gt_classes = gt_classes.new_full((1,), self.num_classes)
        return super()._sample_proposals(matched_idxs, matched_labels, gt_classes)

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        if self.training and self.mask_on:
            instances = [p[p.gt_has_mask] if p.has("gt_has_mask") else p for p in instances]
        return super()._forward_mask(features, instances)
