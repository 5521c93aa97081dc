"""Exact top-k selection of detections: Detectron2's results without non-maximum suppression of everything."""

from collections.abc import Callable

from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor

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
    return _grow(scores, candidates, lambda chosen: (boxes[chosen], classes[chosen]), image_shape, nms_thresh, topk)


def _select(
    boxes: Tensor, scores: Tensor, image_shape: tuple[int, int], score_thresh: float, nms_thresh: float, topk: int
) -> tuple[Instances, Tensor]:
    finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
    if not finite.all():
        boxes, scores = boxes[finite], scores[finite]
    scores = scores[:, :-1]
    num_classes = scores.shape[1]
    boxes_of_class = boxes.view(len(boxes), boxes.shape[1] // 4, 4)
    flat = scores.flatten()

    def look_up(chosen: Tensor) -> tuple[Tensor, Tensor]:
        rows, classes = chosen // num_classes, chosen % num_classes
        # Class-agnostic boxes are never copied once a class.
        return boxes_of_class[rows, classes if boxes.shape[1] > 4 else 0], classes

    candidates = (flat > score_thresh).nonzero().squeeze(1)
    instances, kept = _grow(flat, candidates, look_up, image_shape, nms_thresh, topk)
    return instances, kept // num_classes


def _grow(
    scores: Tensor,
    candidates: Tensor,
    look_up: Callable[[Tensor], tuple[Tensor, Tensor]],
    image_shape: tuple[int, int],
    nms_thresh: float,
    topk: int,
) -> tuple[Instances, Tensor]:
    """Suppress among the best candidates, and take in more until ``topk`` survive.

    Args:
        scores: (N,).
        candidates: (C,) indices into ``scores``, ascending.
        look_up: gives the boxes (M, 4) and classes (M,) of some indices.
        image_shape: (height, width).
        nms_thresh: see :func:`select_detections`.
        topk: see :func:`select_detections`.

    Returns:
        The detections and their indices into ``scores``.
    """
    tried = max(FIRST_CANDIDATES, 4 * topk) if topk >= 0 else len(candidates)
    while True:
        chosen = _best(scores, candidates, tried)
        chosen_boxes, classes = look_up(chosen)
        chosen_boxes = Boxes(chosen_boxes)
        chosen_boxes.clip(image_shape)
        keep = batched_nms(chosen_boxes.tensor, scores[chosen], classes, nms_thresh)
        if len(chosen) == len(candidates) or len(keep) >= topk:
            break
        tried *= 4
    keep = keep.sort().values
    keep = keep[scores[chosen[keep]].sort(descending=True, stable=True).indices]
    if topk >= 0:
        keep = keep[:topk]
    instances = Instances(image_shape)
    instances.pred_boxes = chosen_boxes[keep]
    instances.scores = scores[chosen[keep]]
    instances.pred_classes = classes[keep]
    return instances, chosen[keep]


def _best(flat: Tensor, candidates: Tensor, count: int) -> Tensor:
    """The ``count`` best candidates and all that tie with the last of them, in ascending order of their index."""
    if len(candidates) <= count:
        return candidates
    values = flat[candidates]
    return candidates[values >= values.topk(count, sorted=False).values.min()]
