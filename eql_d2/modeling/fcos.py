"""FCOS, the one-stage detector without anchor boxes, with the losses of this project."""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from fvcore.nn import giou_loss
from torch import Tensor

from eql_d2.data.training.image_targets import with_image_labels
from eql_d2.losses import ClassificationLoss
from eql_d2.modeling.dense_detectors import LongTailDense, dense_arguments, group_norm
from eql_d2.modeling.dense_rows import gather_rows
from eql_d2.modeling.loss_labels import mean_number_of_positives
from eql_d2.modeling.rpn import IGNORED


@META_ARCH_REGISTRY.register()
class LongTailFCOS(LongTailDense, FCOS):
    """Detectron2's FCOS whose classification loss and scores are those of ``MODEL.RETINANET.LOSS``.

    It takes the keys of ``MODEL.RETINANET``, but for those of anchors and of the box loss, which is GIoU. Losses are
    normalized and detections selected as in :class:`LongTailRetinaNet`; a score is the root of that of the class times
    the centerness.

    Args:
        loss: see :class:`LongTailRetinaNet`; so the next three.
        prior_prob: see there.
        calibration: see there.
        ignore_overlap: see there.
        kwargs: arguments of :class:`FCOS`.
    """

    compute_ctrness_targets: Any

    @configurable
    def __init__(
        self,
        *,
        loss: ClassificationLoss,
        prior_prob: float = 0.001,
        calibration: dict[str, Any] | None = None,
        ignore_overlap: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.set_up(loss, prior_prob, calibration, ignore_overlap)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.RETINANET
        backbone = build_backbone(cfg)
        shapes = [backbone.output_shape()[name] for name in node.IN_FEATURES]
        head = FCOSHead(
            input_shape=shapes,
            num_classes=node.NUM_CLASSES,
            conv_dims=[shapes[0].channels] * node.NUM_CONVS,
            norm=group_norm if node.NORM == "GN" else node.NORM,
        )
        return {
            "backbone": backbone,
            "head": head,
            "head_in_features": node.IN_FEATURES,
            "num_classes": node.NUM_CLASSES,
            "test_score_thresh": node.SCORE_THRESH_TEST,
            "test_nms_thresh": node.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            **dense_arguments(cfg),
        }

    def forward_training(
        self, images: ImageList, features: list[Tensor], predictions: list[list[Tensor]], gt_instances: list[Instances]
    ) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_box_reg`` and ``loss_centerness`` of logits, deltas and centerness of each level."""
        logits, deltas, centerness = predictions
        anchors = self.anchor_generator(features)
        gt_labels, gt_boxes = self.label_anchors(anchors, gt_instances)
        labels = torch.stack(gt_labels)
        targets = torch.stack([boxes.tensor if isinstance(boxes, Boxes) else boxes for boxes in gt_boxes])
        valid = labels != IGNORED
        positive = valid & (labels != self.num_classes)
        get_event_storage().put_scalar("num_pos_anchors", positive.sum().item() / len(labels))
        normalizer = mean_number_of_positives(labels[valid], self.num_classes)
        boxes = Boxes.cat(anchors).tensor.expand(len(labels), -1, -1)[positive]
        of_positives = gather_rows(deltas, positive, 4).float()
        losses = self._classify(
            gather_rows(logits, valid, self.num_classes),
            labels[valid],
            normalizer,
            (of_positives, boxes, targets[positive]),
        )
        predicted = self.box2box_transform.apply_deltas(of_positives, boxes)
        losses["loss_box_reg"] = giou_loss(predicted, targets[positive], reduction="sum") / normalizer
        wanted = self.compute_ctrness_targets(anchors, gt_boxes)[positive]
        of_centers = gather_rows(centerness, positive, 1).squeeze(1)
        summed = F.binary_cross_entropy_with_logits(of_centers.float(), wanted.float(), reduction="sum")
        losses["loss_centerness"] = summed / normalizer
        return losses

    @torch.no_grad()
    def label_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]) -> tuple[list[Tensor], list[Any]]:
        """Detectron2's labels and boxes (of v0.6 Boxes, of its main branch tensors), without background where ignored.

        v0.6 fails on an image without objects; one without extent, which matches no anchor, stands in.
        """
        matched = [targets if len(targets) else _without_extent(targets, anchors[0].device) for targets in gt_instances]
        return super().label_anchors(anchors, matched)

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: list[list[Tensor]]
    ) -> list[Instances]:
        """Detections of each image, as of :class:`LongTailRetinaNet`."""
        return self._detect(images.image_sizes, features, *predictions)


def _without_extent(targets: Instances, device: torch.device) -> Instances:
    """One object of no extent, with what else the targets say of their image."""
    nothing = Instances(targets.image_size)
    nothing.gt_boxes = Boxes(torch.zeros(1, 4, device=device))
    nothing.gt_classes = torch.zeros(1, dtype=torch.int64, device=device)
    return with_image_labels(nothing, targets)
