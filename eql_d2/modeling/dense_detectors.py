"""What one-stage detectors with the losses of this project have in common: the loss, selection, what fits.

N is the number of images, R of anchors of an image over all levels, K of classes.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from eql_d2.errors import UserError
from eql_d2.losses import METHODS, ClassificationLoss
from eql_d2.losses.row_blocks import BLOCK_ELEMENTS, OTHER_BLOCK_ELEMENTS
from eql_d2.modeling.calibration import Calibration, calibration_of_config
from eql_d2.modeling.dense_rows import as_anchors
from eql_d2.modeling.inference import FIRST_CANDIDATES, select_detections
from eql_d2.modeling.loss_config import loss_of_config
from eql_d2.modeling.loss_labels import asks_for, overlap_of_predictions
from eql_d2.modeling.rpn import IGNORED, checked_overlap, in_ignore_regions


class LongTailDense(nn.Module):
    """A mixin before a dense detector of Detectron2: a loss and a selection of this project."""

    head: Any
    anchor_generator: Any
    box2box_transform: Any
    num_classes: int
    test_score_thresh: float
    test_nms_thresh: float
    max_detections_per_image: int

    def set_up(
        self,
        loss: ClassificationLoss,
        prior_prob: float,
        calibration: dict[str, Any] | None,
        ignore_overlap: float,
    ) -> None:
        """Take the loss, after the detector's own constructor.

        Args:
            loss: with one logit a class and none for background.
            prior_prob: see ``MODEL.LONG_TAIL.PRIOR_PROB``.
            calibration: arguments of :class:`Calibration`.
            ignore_overlap: see ``MODEL.RPN.IGNORE_OVERLAP``.

        Raises:
            UserError: the loss or a calibration does not fit a dense head; the sentence says why.
        """
        check_dense_loss(loss, self.num_classes)
        calibration = calibration or {}
        if calibration.get("tau_norm") or "logn" in calibration:
            raise UserError(
                f"TEST.TAU_NORM and TEST.LOGN are for classifiers of RoIs, not for {type(self).__name__}; switch them "
                "off."
            )
        self.loss = loss
        self.calibration = Calibration(loss, **calibration)
        self.ignore_overlap = checked_overlap(ignore_overlap, "MODEL.RPN.IGNORE_OVERLAP")
        bias = self.head.cls_score.bias
        with torch.no_grad():
            bias.copy_(loss.initial_bias(prior_prob).repeat(len(bias) // loss.num_logits))

    @torch.no_grad()
    def label_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]) -> tuple[list[Tensor], list[Tensor]]:
        """Detectron2's labels, without background in ignore regions."""
        gt_labels, gt_boxes = self._match(anchors, gt_instances)
        boxes = Boxes.cat(anchors)
        for labels, targets in zip(gt_labels, gt_instances, strict=True):
            ignored = in_ignore_regions(boxes, targets, self.ignore_overlap)
            if ignored is not None:
                labels[ignored & (labels == self.num_classes)] = IGNORED
        return gt_labels, gt_boxes

    def _match(self, anchors: list[Boxes], gt_instances: list[Instances]) -> tuple[list[Tensor], list[Tensor]]:
        """Each image's labels (R,) and boxes of the anchors' objects (R, 4), by Detectron2's rule."""
        labelled: tuple[list[Tensor], list[Tensor]] = super().label_anchors(anchors, gt_instances)  # type: ignore[misc]
        return labelled

    def _classify(
        self, logits: Tensor, gt_classes: Tensor, normalizer: Tensor, of_positives: tuple[Tensor, Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """The loss of all anchors' logits (V, K); ``of_positives`` are deltas, anchors and targets of the positives."""
        labels: dict[str, Tensor] = {}
        if asks_for(self.loss, "quality"):
            is_positive = gt_classes < self.num_classes
            quality = torch.zeros(len(gt_classes), device=gt_classes.device)
            deltas, boxes, targets = of_positives
            quality[is_positive] = overlap_of_predictions(
                deltas.detach(), boxes, targets, gt_classes[is_positive], self.box2box_transform, self.num_classes
            )
            labels["quality"] = quality
        if asks_for(self.loss, "normalizer"):
            return self.loss(logits, gt_classes, normalizer=normalizer, **labels)
        # The other losses are means over rows.
        losses = self.loss(logits, gt_classes, **labels)
        return {name: value * (len(logits) / normalizer) for name, value in losses.items()}

    def _detect(
        self,
        image_sizes: list[tuple[int, int]],
        features: list[Tensor],
        logits: list[Tensor],
        deltas: list[Tensor],
        centerness: list[Tensor] | None = None,
    ) -> list[Instances]:
        """Each image's detections, selected among all anchors and classes without all their scores at once.

        Args:
            image_sizes: height and width of the N images.
            features: that the anchors are of.
            logits: (N, A x K, Hi, Wi) of each level.
            deltas: (N, A x 4, Hi, Wi) of each level.
            centerness: (N, A, Hi, Wi) logits of each level; a score is the root of its product with that of the class.
        """
        anchors = Boxes.cat(self.anchor_generator(features)).tensor
        results = []
        for image, size in enumerate(image_sizes):
            of_levels = [as_anchors(level, self.num_classes)[image] for level in logits]
            of_anchors = _of_image(deltas, 4, image)
            of_centers = None
            if centerness is not None:
                of_centers = _of_image(centerness, 1, image).squeeze(1).float().sigmoid()
            results.append(self._select(of_levels, of_anchors, anchors, size, of_centers))
        return results

    def _select(
        self,
        levels: list[Tensor],
        deltas: Tensor,
        anchors: Tensor,
        image_size: tuple[int, int],
        centerness: Tensor | None,
    ) -> Instances:
        tried = max(FIRST_CANDIDATES, 4 * self.max_detections_per_image)
        while True:
            scores, indices, all_of_them = self._best_candidates(levels, tried, centerness)
            rows, classes = indices // self.num_classes, indices % self.num_classes
            boxes = self.box2box_transform.apply_deltas(deltas[rows].float(), anchors[rows])
            selected, _ = select_detections(
                boxes,
                scores,
                classes,
                image_size,
                self.test_score_thresh,
                self.test_nms_thresh,
                self.max_detections_per_image,
            )
            # A box can be suppressed only by a better one of its class: with enough of them no other can come in.
            if all_of_them or len(selected) >= self.max_detections_per_image >= 0:
                return selected
            tried *= 4

    def _best_candidates(
        self, levels: list[Tensor], number: int, centerness: Tensor | None
    ) -> tuple[Tensor, Tensor, bool]:
        """The best-scored candidates of an image, in ascending order of (anchor, class).

        Args:
            levels: logits (Hi, Wi, A, K) of each level.
            number: how many, and all that tie with the last.
            centerness: (R,) in [0, 1], or None.

        Returns:
            Scores and indices (anchor times K plus class), and whether these are all candidates.
        """
        kept_scores: list[Tensor] = []
        kept_indices: list[Tensor] = []
        threshold, held, complete = self.test_score_thresh, 0, True
        for start, block in _blocks(levels):
            scores = self.calibration.scores(self.loss.scores(block))[:, :-1]
            if centerness is not None:
                scores = (scores * centerness[start : start + len(block), None]).sqrt()
            scores = scores.flatten()
            indices = (scores > threshold).nonzero().squeeze(1)
            kept_scores.append(scores[indices])
            kept_indices.append(indices + start * self.num_classes)
            held += len(indices)
            if held > 2 * number:
                values, places = torch.cat(kept_scores), torch.cat(kept_indices)
                least = values.topk(number, sorted=False).values.min()
                best = values >= least
                kept_scores, kept_indices = [values[best]], [places[best]]
                held, complete = len(kept_scores[0]), False
                # Those that tie stay in.
                threshold = max(threshold, torch.nextafter(least, least.new_zeros(())).item())
        values, places = torch.cat(kept_scores), torch.cat(kept_indices)
        if len(values) > number:
            best = values >= values.topk(number, sorted=False).values.min()
            complete = complete and bool(best.all())
            values, places = values[best], places[best]
        return values, places, complete


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of 32 groups, or as many as divide the channels.

    Detectron2's heads try their normalization on a single channel, which PyTorch refuses for its own "GN".
    """
    return nn.GroupNorm(math.gcd(32, channels), channels)


def dense_arguments(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of :meth:`LongTailDense.set_up` by a config.

    Raises:
        UserError: there is no such loss, or a value is out of its range.
    """
    name = cfg.MODEL.RETINANET.LOSS
    if name not in METHODS:
        raise UserError(f"MODEL.RETINANET.LOSS is {name!r}; it must be one of {', '.join(METHODS)}.")
    return {
        "loss": loss_of_config(METHODS[name].loss_class, cfg, METHODS[name].node),
        "prior_prob": cfg.MODEL.LONG_TAIL.PRIOR_PROB,
        "calibration": calibration_of_config(cfg),
        "ignore_overlap": cfg.MODEL.RPN.IGNORE_OVERLAP,
    }


def _of_image(levels: list[Tensor], columns: int, image: int) -> Tensor:
    """(R, columns) of an image, from (N, A x columns, Hi, Wi) of each level."""
    return torch.cat([as_anchors(level, columns)[image].flatten(0, 2) for level in levels])


def _blocks(levels: list[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Blocks of anchors (rows, K) of all levels (Hi, Wi, A, K) of an image, each with the number of anchors before."""
    start = 0
    for level in levels:
        elements = BLOCK_ELEMENTS.get(level.device.type, OTHER_BLOCK_ELEMENTS)
        for lines in level.split(max(elements // max(level[:1].numel(), 1), 1)):
            yield start, lines.flatten(0, 2)
            start += lines.shape[:3].numel()


def check_dense_loss(loss: ClassificationLoss, num_classes: int) -> None:
    """Make sure that a loss fits a dense head.

    Raises:
        UserError: it needs other columns than one a class, or is of another number of classes.
    """
    name = type(loss).__name__
    if loss.num_classes != num_classes:
        raise UserError(
            f"MODEL.RETINANET.NUM_CLASSES is {num_classes}, but its {name} is for {loss.num_classes} classes."
        )
    if loss.num_logits != num_classes or not loss.has_background or loss.needs_cosines:
        raise UserError(
            f"MODEL.RETINANET.LOSS: {name} needs {loss.num_logits} logits for {num_classes} classes, but a dense head "
            "has one for each class and none for background; take a loss of sigmoids, such as focal, efl or eql."
        )
