"""RetinaNet with the losses of this project."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, RetinaNet
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import Tensor

from eql_d2.errors import UserError
from eql_d2.losses import ClassificationLoss
from eql_d2.modeling.atss import atss_matches
from eql_d2.modeling.dense_detectors import LongTailDense, dense_arguments, group_norm
from eql_d2.modeling.dense_rows import gather_rows
from eql_d2.modeling.loss_labels import mean_number_of_positives
from eql_d2.modeling.rpn import IGNORED


@META_ARCH_REGISTRY.register()
class LongTailRetinaNet(LongTailDense, RetinaNet):
    """RetinaNet whose classification loss and scores are those of ``MODEL.RETINANET.LOSS``.

    Every loss, and the boxes' as well, is divided by the number of positive anchors, in the mean over all processes;
    Detectron2 divides by a moving average of it that no checkpoint holds. In a test detections are selected exactly
    among all anchors and classes, by their scores (``MODEL.RETINANET.TOPK_CANDIDATES_TEST`` is not used); boxes are
    clipped to the image first, as in R-CNNs.

    Args:
        loss: the classification loss, with one logit a class and none for background.
        prior_prob: see ``MODEL.LONG_TAIL.PRIOR_PROB``.
        calibration: arguments of :class:`Calibration`.
        ignore_overlap: see ``MODEL.RPN.IGNORE_OVERLAP``.
        assignment: see ``MODEL.RETINANET.ASSIGNMENT``.
        atss_candidates: see ``MODEL.RETINANET.ATSS_CANDIDATES``.
        kwargs: arguments of :class:`RetinaNet`.

    Raises:
        UserError: the loss or a calibration does not fit a dense head; the sentence says why.
    """

    @configurable
    def __init__(
        self,
        *,
        loss: ClassificationLoss,
        prior_prob: float = 0.001,
        calibration: dict[str, Any] | None = None,
        ignore_overlap: float = 0.5,
        assignment: str = "overlap",
        atss_candidates: int = 9,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if assignment not in ("overlap", "atss"):
            raise UserError(f"MODEL.RETINANET.ASSIGNMENT is {assignment!r}; it must be overlap or atss.")
        if atss_candidates < 1:
            raise UserError(f"MODEL.RETINANET.ATSS_CANDIDATES is {atss_candidates}; it must be at least 1.")
        self.assignment, self.atss_candidates = assignment, atss_candidates
        if self.box_reg_loss_type not in ("smooth_l1", "giou"):
            raise UserError(
                f"MODEL.RETINANET.BBOX_REG_LOSS_TYPE is {self.box_reg_loss_type!r}; of LongTailRetinaNet it must be "
                "smooth_l1 or giou."
            )
        self.set_up(loss, prior_prob, calibration, ignore_overlap)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        own = {
            **dense_arguments(cfg),
            "assignment": cfg.MODEL.RETINANET.ASSIGNMENT,
            "atss_candidates": cfg.MODEL.RETINANET.ATSS_CANDIDATES,
        }
        if cfg.MODEL.RETINANET.NORM != "GN":
            return {**super().from_config(cfg), **own}
        plain = cfg.clone()
        plain.defrost()
        plain.MODEL.RETINANET.NORM = ""
        arguments = super().from_config(plain)
        shapes = arguments["backbone"].output_shape()
        features = [shapes[name] for name in cfg.MODEL.RETINANET.IN_FEATURES]
        arguments["head"] = RetinaNetHead(plain, features, norm=group_norm)
        return {**arguments, **own}

    def _match(self, anchors: list[Boxes], gt_instances: list[Instances]) -> tuple[list[Tensor], list[Tensor]]:
        if self.assignment == "overlap":
            return super()._match(anchors, gt_instances)
        gt_labels, gt_boxes = [], []
        for targets in gt_instances:
            matches = atss_matches(anchors, targets.gt_boxes, self.atss_candidates)
            positive = matches >= 0
            labels = torch.full_like(matches, self.num_classes)
            boxes = torch.zeros(len(matches), 4, device=matches.device)
            labels[positive] = targets.gt_classes[matches[positive]]
            boxes[positive] = targets.gt_boxes.tensor[matches[positive]]
            gt_labels.append(labels)
            gt_boxes.append(boxes)
        return gt_labels, gt_boxes

    def forward_training(
        self, images: ImageList, features: list[Tensor], predictions: list[list[Tensor]], gt_instances: list[Instances]
    ) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_box_reg`` of the head's predictions (N, A x K, Hi, Wi) and (N, A x 4, Hi, Wi)."""
        logits, deltas = predictions
        anchors = self.anchor_generator(features)
        gt_labels, gt_boxes = self.label_anchors(anchors, gt_instances)
        labels = torch.stack(gt_labels)
        valid = labels != IGNORED
        gt_classes = labels[valid]
        positive = valid & (labels != self.num_classes)
        get_event_storage().put_scalar("num_pos_anchors", positive.sum().item() / len(labels))
        normalizer = mean_number_of_positives(gt_classes, self.num_classes)
        boxes = Boxes.cat(anchors).tensor.expand(len(labels), -1, -1)
        targets = torch.stack(gt_boxes)
        of_positives = gather_rows(deltas, positive, 4)
        losses = self._classify(
            gather_rows(logits, valid, self.num_classes),
            gt_classes,
            normalizer,
            (of_positives, boxes[positive], targets[positive]),
        )
        losses["loss_box_reg"] = self._box_loss(of_positives, boxes[positive], targets[positive]) / normalizer
        return losses

    def _box_loss(self, deltas: Tensor, anchors: Tensor, targets: Tensor) -> Tensor:
        """Sum over the positive anchors of the loss of their boxes, (P, 4) each."""
        if self.box_reg_loss_type == "giou":
            return giou_loss(self.box2box_transform.apply_deltas(deltas, anchors), targets, reduction="sum")
        wanted = self.box2box_transform.get_deltas(anchors, targets)
        return smooth_l1_loss(deltas, wanted, beta=self.smooth_l1_beta, reduction="sum")

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: list[list[Tensor]]
    ) -> list[Instances]:
        """Detections of each image, selected among all anchors and classes without all their scores at once."""
        return self._detect(images.image_sizes, features, *predictions)
