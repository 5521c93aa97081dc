"""Boxes in which nothing is trained as background: RoIs and anchors there are neither sampled nor classified."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances, pairwise_ioa
from torch import Tensor

from eql_d2.errors import UserError

IGNORED = -1
"""Detectron2's label for what is not sampled."""


def in_ignore_regions(boxes: Boxes, targets: Instances, overlap: float) -> Tensor | None:
    """Which boxes of an image lie in one of its ignore regions.

    Args:
        boxes: R boxes.
        targets: of the image; :class:`ImageTargets` have regions.
        overlap: share of a box's own area in [0, 1] that has to be inside of one region, and more; 1 switches it off.

    Returns:
        (R,) bool, or None if the image has no region.
    """
    regions = getattr(targets, "ignore_regions", None)
    if regions is None or overlap >= 1:
        return None
    return (pairwise_ioa(regions, boxes) > overlap).any(dim=0)


def checked_overlap(overlap: float, key: str) -> float:
    """The value of a config key, checked.

    Raises:
        UserError: it is no share of an area.
    """
    if not 0 <= overlap <= 1:
        raise UserError(f"{key} is {overlap}; it must lie between 0 and 1 (which switches ignore regions off).")
    return overlap


@PROPOSAL_GENERATOR_REGISTRY.register()
class LongTailRPN(RPN):
    """Detectron2's RPN, whose objectness does not learn ignore regions as background.

    Args:
        ignore_overlap: see ``MODEL.RPN.IGNORE_OVERLAP``.
        kwargs: arguments of :class:`RPN`.
    """

    @configurable
    def __init__(self, *, ignore_overlap: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ignore_overlap = checked_overlap(ignore_overlap, "MODEL.RPN.IGNORE_OVERLAP")

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return {**super().from_config(cfg, input_shape), "ignore_overlap": cfg.MODEL.RPN.IGNORE_OVERLAP}

    @torch.jit.unused
    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Detectron2's labels, without background in ignore regions."""
        boxes = Boxes.cat(anchors)
        # Detectron2 samples image by image, in this order.
        self._ignored = [in_ignore_regions(boxes, targets, self.ignore_overlap) for targets in gt_instances]
        return super().label_and_sample_anchors(anchors, gt_instances)

    def _subsample_labels(self, label: Tensor) -> Tensor:
        ignored = self._ignored.pop(0)
        if ignored is not None:
            label[ignored & (label == 0)] = IGNORED
        return super()._subsample_labels(label)
