"""What a loss may ask to know of the sampled RoIs beyond their classes, by the names of its ``compute``'s arguments."""

import inspect

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from detectron2.utils import comm
from torch import Tensor

from eql_d2.losses import ClassificationLoss


def asks_for(loss: ClassificationLoss, label: str) -> bool:
    """Whether a loss's ``compute`` has an argument of this name."""
    return label in inspect.signature(loss.compute).parameters


def number_objects(proposals: list[Instances], num_classes: int) -> Tensor:
    """Number the ground-truth objects that RoIs belong to.

    RoIs of one image with the same ground-truth box and class are of one object; a Cascade's later stages keep no
    other trace of it.

    Args:
        proposals: one a image, with ``gt_classes`` and, where there is any ground truth, ``gt_boxes``.
        num_classes: K.

    Returns:
        (R,) int64 numbers over the whole mini-batch, -1 for background.
    """
    keys = []
    for image, of_image in enumerate(proposals):
        boxes = (of_image.gt_boxes if of_image.has("gt_boxes") else of_image.proposal_boxes).tensor
        place = torch.stack([of_image.gt_classes, torch.full_like(of_image.gt_classes, image)], dim=1)
        keys.append(torch.cat([boxes, place.to(boxes.dtype)], dim=1))
    numbers = torch.cat(keys).unique(dim=0, return_inverse=True)[1]
    return numbers.masked_fill(torch.cat([p.gt_classes for p in proposals]) == num_classes, -1)


def mean_number_of_positives(gt_classes: Tensor, num_classes: int) -> Tensor:
    """Number of positives, at least 1, in the mean over all processes; every process has to call it.

    Args:
        gt_classes: (R,) in [0, K].
        num_classes: K.

    Returns:
        A float32 scalar on the device of ``gt_classes``.
    """
    number = (gt_classes < num_classes).sum().float()
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(number)
        number = number / comm.get_world_size()
    return number.clamp(min=1)


@torch.no_grad()
def overlap_of_predictions(
    deltas: Tensor,
    boxes: Tensor,
    gt_boxes: Tensor,
    gt_classes: Tensor,
    transform: Box2BoxTransform,
    num_classes: int,
) -> Tensor:
    """Intersection over union of each foreground RoI's predicted box with its target.

    Args:
        deltas: (R, 4K) or (R, 4) predicted.
        boxes: (R, 4) that the deltas start from.
        gt_boxes: (R, 4), without meaning for background.
        gt_classes: (R,) in [0, K].
        transform: of deltas and boxes.
        num_classes: K.

    Returns:
        (R,) float32 in [0, 1]; 0 of background, and where a predicted box is not finite.
    """
    quality = torch.zeros(len(boxes), device=boxes.device)
    rows = (gt_classes < num_classes).nonzero().squeeze(1)
    own = deltas.view(len(deltas), deltas.shape[1] // 4, 4)[rows, gt_classes[rows] if deltas.shape[1] > 4 else 0]
    predicted = transform.apply_deltas(own.float(), boxes[rows])
    quality[rows] = matched_pairwise_iou(Boxes(predicted), Boxes(gt_boxes[rows].float())).nan_to_num(nan=0.0)
    return quality.clamp(0, 1)
