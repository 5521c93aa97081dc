"""Assignment of anchors to objects by ATSS (Zhang et al., CVPR 2020, arXiv 1912.02424, algorithm 1)."""

import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor

LEAST_INSIDE = 0.01
"""Pixels that an anchor's center has to lie inside of its object, as in the first codes."""


@torch.no_grad()
def atss_matches(anchors: list[Boxes], gt_boxes: Boxes, candidates: int = 9) -> Tensor:
    """Which object each anchor belongs to.

    Of each level the anchors whose centers are nearest to an object's are its candidates. Those are positive whose
    overlap is at least the mean plus the standard deviation of all its candidates', if their centers are inside of it.
    An anchor of several objects belongs to the one that it overlaps most.

    Args:
        anchors: of each level, R in all.
        gt_boxes: G objects.
        candidates: how many of each level.

    Returns:
        (R,) int64 numbers of objects, -1 for background.
    """
    boxes = Boxes.cat(anchors)
    if not len(gt_boxes):
        return torch.full((len(boxes),), -1, device=boxes.device)
    centers = boxes.get_centers()
    distances = torch.cdist(gt_boxes.get_centers(), centers, compute_mode="donot_use_mm_for_euclid_dist")
    starts = [0, *torch.tensor([len(level) for level in anchors]).cumsum(0).tolist()]
    near = [
        of_level.topk(min(candidates, of_level.shape[1]), largest=False).indices + start
        for start, of_level in zip(starts[:-1], distances.split([len(level) for level in anchors], dim=1), strict=True)
    ]
    picked = torch.cat(near, dim=1)  # (G, candidates of all levels)
    overlaps = pairwise_iou(gt_boxes, boxes)
    of_picked = overlaps.gather(1, picked)
    least = of_picked.mean(dim=1) + of_picked.std(dim=1, correction=min(1, picked.shape[1] - 1))
    corners = gt_boxes.tensor[:, None]
    margins = torch.cat([centers[picked] - corners[..., :2], corners[..., 2:] - centers[picked]], dim=2)
    positive = (of_picked >= least[:, None]) & (margins.min(dim=2).values > LEAST_INSIDE)
    quality = torch.full_like(overlaps, -1.0).scatter_(1, picked, of_picked.masked_fill(~positive, -1.0))
    best, objects = quality.max(dim=0)
    return objects.masked_fill(best < 0, -1)
