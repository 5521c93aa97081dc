"""The selection of detections in ONNX's own operators, which have no loop over rounds: suppression of all classes."""

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms

UNLIMITED = 2**31 - 1


def select_of_proposals(
    boxes: Tensor,
    scores: Tensor,
    image_size: Tensor,
    score_thresh: float,
    nms_thresh: float,
    topk: int,
    tried: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`eql_d2.modeling.inference.select_of_proposals`, which it stands in for while a model is exported.

    ONNX's NonMaxSuppression does each class by itself, so that no round is needed; ``tried`` is not used.
    """
    finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
    boxes, scores = boxes[finite], scores[finite, :-1]
    sides = torch.cat([image_size.flip(0), image_size.flip(0)]).to(boxes.dtype)
    of_class = boxes.view(-1, boxes.shape[1] // 4, 4)
    of_class = torch.min(of_class.clamp(min=0), sides)
    if boxes.shape[1] == 4:  # one box for all classes: a batch of one, of many classes
        found = _Suppression.apply(of_class.transpose(0, 1), scores.t()[None], topk, nms_thresh, score_thresh)
        classes, rows = found[:, 1], found[:, 2]
        selected = of_class[rows, 0]
    else:  # each class has boxes of its own: a batch of them
        found = _Suppression.apply(of_class.transpose(0, 1), scores.t()[:, None], topk, nms_thresh, score_thresh)
        classes, rows = found[:, 0], found[:, 2]
        selected = of_class[rows, classes]
    # By descending score, ties by row, then class.
    in_order = (rows * scores.shape[1] + classes).sort().indices
    in_order = in_order[scores[rows[in_order], classes[in_order]].sort(dim=0, descending=True, stable=True).indices]
    if topk >= 0:
        in_order = in_order[:topk]
    rows, classes = rows[in_order], classes[in_order]
    return selected[in_order], scores[rows, classes], classes, rows


class _Suppression(torch.autograd.Function):
    """ONNX's NonMaxSuppression: (M, 3) of batch, class, box."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, topk: int, nms_thresh: float, score_thresh: float) -> Tensor:
        found = []
        for batch in range(scores.shape[0]):
            for row in range(scores.shape[1]):
                above = (scores[batch, row] > score_thresh).nonzero().squeeze(1)
                kept = above[nms(boxes[batch][above], scores[batch, row][above], nms_thresh)]
                kept = kept[:topk] if topk >= 0 else kept
                place = torch.tensor([batch, row], device=kept.device).expand(len(kept), 2)
                found.append(torch.cat([place, kept[:, None]], dim=1))
        return torch.cat(found)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, topk: int, nms_thresh: float, score_thresh: float) -> Any:
        most = torch.tensor([topk if topk >= 0 else UNLIMITED])
        limits = [torch.tensor([nms_thresh]), torch.tensor([score_thresh])]
        constants = [g.op("Constant", value_t=value) for value in (most, *limits)]
        return g.op("NonMaxSuppression", boxes, scores, *constants)
