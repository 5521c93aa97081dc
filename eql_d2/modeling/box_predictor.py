"""The box predictor that any classification loss plugs into, and the registry of its methods."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable, instantiate
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from fvcore.common.registry import Registry
from torch import Tensor, nn

from eql_d2.errors import UserError, check_number
from eql_d2.losses import ClassificationLoss
from eql_d2.modeling.calibration import build_calibration, calibration_of_config
from eql_d2.modeling.gradient_sums import GradientSums
from eql_d2.modeling.inference import fast_rcnn_inference
from eql_d2.modeling.loss_config import loss_of_config
from eql_d2.modeling.loss_labels import asks_for, mean_number_of_positives, number_objects, overlap_of_predictions
from eql_d2.modeling.normed_layers import NormedLinear, ScaledLinear

BOX_PREDICTOR_REGISTRY = Registry("BOX_PREDICTOR")
"""Box predictors by the names that ``MODEL.ROI_BOX_HEAD.PREDICTOR`` takes."""


class LongTailPredictor(FastRCNNOutputLayers):
    """Detectron2's box predictor with the classification done by a :class:`ClassificationLoss`.

    A subclass names its loss and the loss's node below ``MODEL.LONG_TAIL``; nothing else differs between
    methods. R is the number of RoIs over all images, Ri of image i, K the number of foreground classes.

    Args:
        input_shape: shape of one RoI's feature.
        loss: the classification loss; says the width of the classifier and turns logits into scores.
        prior_prob: see ``MODEL.LONG_TAIL.PRIOR_PROB``.
        normed_classifier: whether the classifier is a :class:`NormedLinear`.
        temperature: of the normed classifier.
        scaled_classifier: whether the classifier is a :class:`ScaledLinear`.
        scales_bias: of the scaled classifier.
        calibration: arguments of :class:`Calibration`.
        image_level_labels: see ``MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS``.
        kwargs: arguments of :class:`FastRCNNOutputLayers`.

    Raises:
        UserError: there is no loss, it is of another number of classes or has no use for image-level labels, or an
            option is out of its range.
    """

    loss_class: type[ClassificationLoss]
    config_node: str | None = None
    cls_score: nn.Linear

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        loss: ClassificationLoss | None = None,
        prior_prob: float = 0.001,
        normed_classifier: bool = False,
        temperature: float = 20.0,
        scaled_classifier: bool = False,
        scales_bias: bool = True,
        calibration: dict[str, Any] | None = None,
        image_level_labels: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(input_shape, **kwargs)
        if loss is None:
            raise UserError(
                "LongTailPredictor has no loss; give it one, as loss=L(build_loss)(method='eql', num_classes=..., "
                "statistics=L(dataset_counts)(dataset_names=...)) in a lazy config."
            )
        _check_options(loss, prior_prob, normed_classifier, temperature, scaled_classifier, self.test_score_thresh)
        in_features = self.cls_score.in_features
        if normed_classifier:
            self.cls_score = NormedLinear(in_features, loss.num_logits, temperature)
        elif scaled_classifier:
            self.cls_score = ScaledLinear(in_features, loss.num_logits, scales_bias)
        else:
            self.cls_score = nn.Linear(in_features, loss.num_logits)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        with torch.no_grad():
            self.cls_score.bias.copy_(loss.initial_bias(prior_prob))
        self.loss = loss
        if loss.num_classes != self.num_classes:
            raise UserError(
                f"The box predictor's num_classes is {self.num_classes}, but its {type(loss).__name__} is made for "
                f"{loss.num_classes} classes; give both the same number."
            )
        if image_level_labels and not asks_for(loss, "verified_classes"):
            raise UserError(
                f"MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS is True, but {type(loss).__name__} has no use for them; set it to "
                "False, or MODEL.ROI_BOX_HEAD.PREDICTOR to EQLPredictor."
            )
        self.image_level_labels = image_level_labels
        # The values of a lazy config's own dictionary are not instantiated yet.
        self.calibration = build_calibration(loss, {k: instantiate(v) for k, v in (calibration or {}).items()})
        self.gradient_sums: GradientSums | None = None  # see the hook WatchClasses

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        arguments = super().from_config(cfg, input_shape)
        arguments["loss"] = loss_of_config(cls.loss_class, cfg, cls.config_node)
        arguments["prior_prob"] = cfg.MODEL.LONG_TAIL.PRIOR_PROB
        arguments["normed_classifier"] = cfg.MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER
        arguments["temperature"] = cfg.MODEL.ROI_BOX_HEAD.TEMPERATURE
        arguments["scaled_classifier"] = cfg.MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER
        arguments["scales_bias"] = cfg.MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER_BIAS
        arguments["image_level_labels"] = cfg.MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS
        arguments["calibration"] = calibration_of_config(cfg)
        return arguments

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """Classification and box regression losses of sampled proposals.

        Args:
            predictions: logits (R, num_logits) and box deltas (R, 4K) or (R, 4).
            proposals: one per image, with ``proposal_boxes``, ``gt_classes`` and, where there is any ground
                truth, ``gt_boxes``.

        Returns:
            The loss's own losses and ``loss_box_reg``, each a scalar with its weight applied.
        """
        logits, deltas = predictions
        gt_classes = cat([p.gt_classes for p in proposals])
        proposal_boxes = cat([p.proposal_boxes.tensor for p in proposals])
        # An image without ground truth has background proposals only, whose boxes are never regressed.
        gt_boxes = cat([(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals])
        labels: dict[str, Tensor] = {}
        if self.image_level_labels:
            labels["verified_classes"] = self.verified_classes(proposals)
        if asks_for(self.loss, "gt_instances"):
            labels["gt_instances"] = number_objects(proposals, self.num_classes)
        if asks_for(self.loss, "normalizer"):
            labels["normalizer"] = mean_number_of_positives(gt_classes, self.num_classes)
        if asks_for(self.loss, "quality"):
            labels["quality"] = overlap_of_predictions(
                deltas, proposal_boxes, gt_boxes, gt_classes, self.box2box_transform, self.num_classes
            )
        losses = self.loss(logits, gt_classes, **labels)
        self.calibration.collect(logits)
        if self.gradient_sums is not None and logits.requires_grad:
            self.gradient_sums.watch(logits, gt_classes)
        losses["loss_box_reg"] = self.box_reg_loss(proposal_boxes, gt_boxes, deltas, gt_classes)
        self.log_accuracy(logits, gt_classes)
        return {name: value * self.loss_weight.get(name, 1.0) for name, value in losses.items()}

    def verified_classes(self, proposals: list[Instances]) -> Tensor:
        """(R, K) bool: whether the image of a RoI is labelled as holding or not holding a class.

        Args:
            proposals: one per image, :class:`ImageTargets` with ``verified_classes``.

        Raises:
            UserError: the training data came without image-level labels.
        """
        rows = []
        for of_image in proposals:
            classes = getattr(of_image, "verified_classes", None)
            if classes is None:
                raise UserError(
                    "MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS is True, but the training data comes without them; use "
                    "LongTailMapper, with image_level_labels=True, as its mapper, or set the key to False."
                )
            row = torch.zeros(self.num_classes, dtype=torch.bool, device=classes.device)
            rows.append(row.index_fill_(0, classes, True).expand(len(of_image), -1))
        return torch.cat(rows)

    def predict_probs(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> tuple[Tensor, ...]:
        """Scores of each image's proposals: tensors of shape (Ri, K + 1), background last."""
        return self.scores(self.test_logits(predictions)).split([len(p) for p in proposals])

    def test_logits(self, predictions: tuple[Tensor, Tensor]) -> Tensor:
        """The calibrated logits (R, num_logits) of some predictions."""
        return self.calibration.logits(predictions[0], self.cls_score)

    def scores(self, logits: Tensor) -> Tensor:
        """Calibrated scores (R, K + 1), background last, of :meth:`test_logits`."""
        return self.calibration.scores(self.loss.scores(logits))

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Detections of each image, and the proposals that they came from."""
        scores = self.predict_probs(predictions, proposals)
        return self.select(self.predict_boxes(predictions, proposals), scores, proposals)

    def select(
        self, boxes: Sequence[Tensor], scores: Sequence[Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Select detections among each image's boxes (Ri, 4K) or (Ri, 4) by their scores (Ri, K + 1)."""
        return fast_rcnn_inference(
            list(boxes),
            list(scores),
            [p.image_size for p in proposals],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )

    @torch.no_grad()
    def log_accuracy(self, logits: Tensor, gt_classes: Tensor) -> None:
        """Log how many foreground RoIs have their class as the best-scored foreground class."""
        storage = get_event_storage()
        if (storage.iter + 1) % 20:  # when the writers write; the scores are not free
            return
        is_foreground = gt_classes < self.num_classes
        best = self.loss.scores(logits)[:, :-1].argmax(dim=1)
        correct = (best == gt_classes)[is_foreground].float().mean().item() if is_foreground.any() else 0.0
        storage.put_scalar("box_head/foreground_class_accuracy", correct)


def _check_options(
    loss: Any, prior_prob: Any, normed_classifier: Any, temperature: Any, scaled_classifier: Any, least_score: Any
) -> None:
    """Refuse options of :class:`LongTailPredictor` with which nothing can be trained or detected."""
    if not isinstance(loss, ClassificationLoss):
        raise UserError(f"The box predictor's loss is {loss!r}; it must be a loss, as build_loss gives one.")
    check_number("prior_prob (MODEL.LONG_TAIL.PRIOR_PROB)", prior_prob, above=0, below=1)
    check_number("test_score_thresh (MODEL.ROI_HEADS.SCORE_THRESH_TEST)", least_score, below=1)
    if normed_classifier:
        check_number("temperature (MODEL.ROI_BOX_HEAD.TEMPERATURE)", temperature, above=0)
    if normed_classifier and scaled_classifier:
        raise UserError("MODEL.ROI_BOX_HEAD has both NORMED_CLASSIFIER and SCALED_CLASSIFIER; set one to False.")
