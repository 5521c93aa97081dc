"""Exact top-k selection of detections: Detectron2's results without non-maximum suppression of everything.

What branches or repeats by the data are functions of tensors, which a trace takes over as they are
(``script_if_tracing``), so that an exported detector selects on every image as this one does.
"""

from collections.abc import Sequence

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import nms

FIRST_CANDIDATES = 6000
"""How many of the best candidates are tried first.

torchvision suppresses by another method (with other rounding) up to 5000 boxes; more of them than that keeps to the
method that it takes for all candidates, so that results are equal to the last bit.
"""


def fast_rcnn_inference(
    boxes: list[Tensor],
    scores: list[Tensor],
    image_shapes: list[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[Tensor]]:
    """Select the detections of each image, as Detectron2's function of the same name does.

    With a thousand classes and a threshold near zero there are a million candidates in an image, nearly all of
    which are far below the best ``topk_per_image``. A box can be suppressed only by a better one of its class, so
    it is exact to suppress among the best candidates alone, and to take in more of them until enough survive.

    Args:
        boxes: of each image (Ri, 4K) or, class-agnostic, (Ri, 4), in absolute x0, y0, x1, y1.
        scores: of each image (Ri, K + 1), background last.
        image_shapes: of each image (height, width).
        score_thresh: only scores above it are candidates.
        nms_thresh: intersection over union above which the worse of two boxes of a class is dropped.
        topk_per_image: how many detections to keep; below 0 keeps all.

    Returns:
        Of each image its detections by descending score (ties: by row, then class), and the rows of ``boxes``, among
        those without NaN or infinity, that they came from.
    """
    selected = [
        _select(image_boxes, image_scores, shape, score_thresh, nms_thresh, topk_per_image)
        for image_boxes, image_scores, shape in zip(boxes, scores, image_shapes, strict=True)
    ]
    return [instances for instances, _ in selected], [rows for _, rows in selected]


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk: int,
) -> tuple[Instances, Tensor]:
    """Select among detections that have one class each, as :func:`fast_rcnn_inference` does among proposals.

    Args:
        boxes: (N, 4), in absolute x0, y0, x1, y1.
        scores: (N,).
        classes: (N,), int64.
        image_shape: (height, width).
        score_thresh: only scores above it are candidates.
        nms_thresh: intersection over union above which the worse of two boxes of a class is dropped.
        topk: how many detections to keep; below 0 keeps all.

    Returns:
        The detections by descending score (ties: in their order), and their indices among those given.
    """
    finite = boxes.isfinite().all(dim=1) & scores.isfinite()
    candidates = (finite & (scores > score_thresh)).nonzero().squeeze(1)
    size = _size_tensor(image_shape)
    kept = _grow(boxes[:, None], scores, candidates, classes, size, nms_thresh, topk, FIRST_CANDIDATES)
    return _instances(image_shape, *kept[:3]), kept[3]


def _select(
    boxes: Tensor,
    scores: Tensor,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk: int,
) -> tuple[Instances, Tensor]:
    size = _size_tensor(image_shape)
    kept = select_of_proposals(boxes, scores, size, score_thresh, nms_thresh, topk, FIRST_CANDIDATES)
    return _instances(image_shape, *kept[:3]), kept[3]


def _size_tensor(image_shape: Sequence[int | Tensor]) -> Tensor:
    """Height and width (2,); in a trace they are tensors."""
    return torch.stack([torch.as_tensor(side) for side in image_shape])


def _instances(image_shape: tuple[int, int], boxes: Tensor, scores: Tensor, classes: Tensor) -> Instances:
    instances = Instances(image_shape)
    instances.pred_boxes = Boxes(boxes)
    instances.scores = scores
    instances.pred_classes = classes
    return instances


@torch.jit.script_if_tracing
def select_of_proposals(
    boxes: Tensor,
    scores: Tensor,
    image_size: Tensor,
    score_thresh: float,
    nms_thresh: float,
    topk: int,
    tried: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Select the detections of an image among the boxes and scores of its proposals.

    Args:
        boxes: (R, 4K) or, class-agnostic, (R, 4).
        scores: (R, K + 1), background last.
        image_size: (2,) height and width.
        score_thresh: see :func:`select_detections`.
        nms_thresh: see :func:`select_detections`.
        topk: see :func:`select_detections`.
        tried: candidates of the first round.

    Returns:
        Boxes (N, 4), scores (N,), classes (N,) and rows (N,) of the detections.
    """
    finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
    if not bool(finite.all()):
        boxes, scores = boxes[finite], scores[finite]
    num_classes = scores.shape[1] - 1
    flat = scores[:, :-1].flatten()
    candidates = (flat > score_thresh).nonzero().squeeze(1)
    of_class = boxes.view(boxes.shape[0], boxes.shape[1] // 4, 4)
    chosen_boxes, chosen_scores, classes, chosen = _grow(
        of_class, flat, candidates, None, image_size, nms_thresh, topk, tried
    )
    return chosen_boxes, chosen_scores, classes, chosen // num_classes


@torch.jit.script_if_tracing
def _grow(
    boxes: Tensor,
    scores: Tensor,
    candidates: Tensor,
    known_classes: Tensor | None,
    image_size: Tensor,
    nms_thresh: float,
    topk: int,
    tried: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Suppress among the best candidates, and take in more until ``topk`` survive.

    Args:
        boxes: (R, K, 4) or, one for all classes, (R, 1, 4).
        scores: (R * K,), each row's classes one after the other.
        candidates: (C,) indices into ``scores``, ascending.
        known_classes: (R,) of rows that have one class each, where K is 1; else None.
        image_size: (2,) height and width.
        nms_thresh: see :func:`select_detections`.
        topk: see :func:`select_detections`.
        tried: candidates of the first round.

    Returns:
        Boxes, scores and classes of the detections, and their indices into ``scores``.
    """
    tried = max(tried, 4 * topk) if topk >= 0 else len(candidates)
    chosen, keep, clipped = _suppress(boxes, scores, candidates, known_classes, image_size, nms_thresh, tried)
    while len(chosen) < len(candidates) and len(keep) < topk:
        tried *= 4
        chosen, keep, clipped = _suppress(boxes, scores, candidates, known_classes, image_size, nms_thresh, tried)
    keep = keep.sort().values
    chosen_scores = scores[chosen]
    keep = keep[chosen_scores[keep].sort(dim=0, descending=True, stable=True).indices]
    if topk >= 0:
        keep = keep[:topk]
    detected = chosen[keep]
    return clipped[keep], chosen_scores[keep], _classes_of(detected, scores, boxes, known_classes), detected


def _suppress(
    boxes: Tensor,
    scores: Tensor,
    candidates: Tensor,
    known_classes: Tensor | None,
    image_size: Tensor,
    nms_thresh: float,
    tried: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """One round: the candidates that are tried, which of them survive, and the boxes (M, 4) of all of them."""
    chosen = _best(scores, candidates, tried)
    classes = _classes_of(chosen, scores, boxes, known_classes)
    rows = chosen // (len(scores) // max(len(boxes), 1))
    # Class-agnostic boxes are never copied once a class.
    of_rows = boxes[rows, classes] if boxes.shape[1] > 1 else boxes[rows, 0]
    height, width = int(image_size[0]), int(image_size[1])
    x0, x1 = of_rows[:, 0].clamp(min=0, max=width), of_rows[:, 2].clamp(min=0, max=width)
    y0, y1 = of_rows[:, 1].clamp(min=0, max=height), of_rows[:, 3].clamp(min=0, max=height)
    clipped = torch.stack((x0, y0, x1, y1), dim=-1)
    if torch.jit.is_scripting():
        keep = traceable_batched_nms(clipped, scores[chosen], classes, nms_thresh)
    else:
        keep = batched_nms(clipped, scores[chosen], classes, nms_thresh)
    return chosen, keep, clipped


def _classes_of(chosen: Tensor, scores: Tensor, boxes: Tensor, known_classes: Tensor | None) -> Tensor:
    if known_classes is not None:
        return known_classes[chosen]
    return chosen % (len(scores) // max(len(boxes), 1))


def _best(flat: Tensor, candidates: Tensor, count: int) -> Tensor:
    """The ``count`` best candidates and all that tie with the last of them, in ascending order of their index."""
    if len(candidates) <= count:
        return candidates
    values = flat[candidates]
    return candidates[values >= values.topk(count, sorted=False).values.min()]


@torch.jit.script_if_tracing
def traceable_batched_nms(boxes: Tensor, scores: Tensor, classes: Tensor, nms_thresh: float) -> Tensor:
    """``detectron2.layers.batched_nms``, by the number of boxes as there, which torchvision leaves out of a trace.

    Many boxes are suppressed class by class; few all at once, each class moved to a place of its own (which rounds
    differently).

    Args:
        boxes: (N, 4).
        scores: (N,).
        classes: (N,), int64.
        nms_thresh: see :func:`select_detections`.

    Returns:
        Indices of the boxes to keep, by descending score.
    """
    boxes = boxes.float()
    if len(boxes) == 0:
        return torch.empty((0,), dtype=torch.int64, device=boxes.device)
    if boxes.numel() <= (4_000 if boxes.device.type == "cpu" else 100_000):
        offsets = classes.to(boxes) * (boxes.max() + torch.tensor(1).to(boxes))
        return nms(boxes + offsets[:, None], scores, nms_thresh)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for of_class in torch.unique(classes):
        members = torch.where(classes == of_class)[0]
        kept[members[nms(boxes[members], scores[members], nms_thresh)]] = True
    keep = torch.where(kept)[0]
    return keep[scores[keep].sort(descending=True)[1]]
