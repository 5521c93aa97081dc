"""Detectron2's ROI heads with the box predictor that the config names."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import Instances
from torch import Tensor

from eql_d2.data.training.image_targets import with_image_labels
from eql_d2.errors import UserError
from eql_d2.modeling.predictors import build_box_predictor
from eql_d2.modeling.roi_training import TargetedROIHeads
from eql_d2.modeling.rpn import in_ignore_regions


@ROI_HEADS_REGISTRY.register()
class LongTailROIHeads(TargetedROIHeads):
    """Faster and Mask R-CNN heads whose classification loss is ``MODEL.ROI_BOX_HEAD.PREDICTOR``."""

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts = super()._init_box_head(cfg, input_shape)
        parts["box_predictor"] = build_box_predictor(cfg, parts["box_head"].output_shape)
        return parts


@ROI_HEADS_REGISTRY.register()
class LongTailCascadeROIHeads(TargetedROIHeads, CascadeROIHeads):
    """Cascade heads; each stage has its own predictor with its own loss and loss state.

    Args:
        score_average: "probability" averages the stages' scores, as Detectron2; "logit" their logits, which the last
            stage's loss turns into scores, as Seesaw Loss's code.
        stage_weights: of each stage's box losses, at least 0; empty is 1 for all.
        feature_gradient: "mean" gives the features that all stages pool from the mean of the stages' gradients, as
            Detectron2; "sum" their sum, as mmdetection.
        kwargs: arguments of :class:`TargetedROIHeads` and :class:`CascadeROIHeads`.

    Raises:
        UserError: an argument is none of these, or there are not as many weights as stages.
    """

    @configurable
    def __init__(
        self,
        *,
        score_average: str = "probability",
        stage_weights: Sequence[float] = (),
        feature_gradient: str = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if score_average not in ("probability", "logit"):
            raise UserError(
                f"MODEL.ROI_BOX_CASCADE_HEAD.SCORE_AVERAGE is {score_average!r}; it must be probability or logit."
            )
        if len(stage_weights) not in (0, self.num_cascade_stages) or not all(weight >= 0 for weight in stage_weights):
            raise UserError(
                f"MODEL.ROI_BOX_CASCADE_HEAD.STAGE_WEIGHTS is {tuple(stage_weights)}; give each of the "
                f"{self.num_cascade_stages} stages a weight of at least 0, or none."
            )
        if feature_gradient not in ("mean", "sum"):
            raise UserError(
                f"MODEL.ROI_BOX_CASCADE_HEAD.FEATURE_GRADIENT is {feature_gradient!r}; it must be mean or sum."
            )
        self.score_average = score_average
        self.stage_weights = tuple(stage_weights) or (1.0,) * self.num_cascade_stages
        self.feature_gradient = feature_gradient

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return {
            **super().from_config(cfg, input_shape),
            "score_average": cfg.MODEL.ROI_BOX_CASCADE_HEAD.SCORE_AVERAGE,
            "stage_weights": cfg.MODEL.ROI_BOX_CASCADE_HEAD.STAGE_WEIGHTS,
            "feature_gradient": cfg.MODEL.ROI_BOX_CASCADE_HEAD.FEATURE_GRADIENT,
        }

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts = super()._init_box_head(cfg, input_shape)
        parts["box_predictors"] = [
            build_box_predictor(cfg, head.output_shape, box2box_transform=predictor.box2box_transform)
            for head, predictor in zip(parts["box_heads"], parts["box_predictors"], strict=True)
        ]
        return parts

    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        """A later stage's RoIs; background in ignore regions leaves the cascade, since a stage trains all it gets."""
        labelled = super()._match_and_label_boxes(proposals, stage, targets)
        kept = []
        for rois, of_image in zip(labelled, targets, strict=True):
            ignored = in_ignore_regions(rois.proposal_boxes, of_image, self.ignore_overlap)
            if ignored is not None:
                rois = rois[~ignored | (rois.gt_classes < self.num_classes)]
            kept.append(with_image_labels(rois, of_image))
        return kept

    def _forward_box(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances] | None = None
    ) -> Any:
        """Detectron2's stages in training; in testing they end with this project's selection of detections."""
        if self.training:
            losses = super()._forward_box(features, proposals, targets)
            stage_of = {name: int(name.rpartition("_stage")[2]) for name in losses}
            return {name: value * self.stage_weights[stage_of[name]] for name, value in losses.items()}
        levels = [features[name] for name in self.box_in_features]
        image_sizes = [p.image_size for p in proposals]
        boxes: list[Tensor] = []
        stage_values = []
        for stage, predictor in enumerate(self.box_predictor):
            if stage > 0:
                proposals = self._create_proposals_from_boxes(boxes, image_sizes)
            predictions = self._run_stage(levels, proposals, stage)
            boxes = predictor.predict_boxes(predictions, proposals)
            logits = predictor.test_logits(predictions)
            stage_values.append(logits if self.score_average == "logit" else predictor.scores(logits))
        mean = sum(stage_values) / self.num_cascade_stages
        scores = predictor.scores(mean) if self.score_average == "logit" else mean
        return predictor.select(boxes, scores.split([len(p) for p in proposals]), proposals)[0]

    def _run_stage(self, features: list[Tensor], proposals: list[Instances], stage: int) -> Any:
        """Detectron2's, which divides a stage's gradient to the features by the number of stages; "sum" undoes that."""
        if self.training and self.feature_gradient == "sum":
            features = [_with_gradient_times(level, self.num_cascade_stages) for level in features]
        return super()._run_stage(features, proposals, stage)


def _with_gradient_times(tensor: Tensor, factor: float) -> Tensor:
    """The tensor, with a gradient that is multiplied on its way back."""
    if not tensor.requires_grad:
        return tensor
    alias = tensor.view_as(tensor)
    alias.register_hook(lambda gradient: gradient * factor)
    return alias
