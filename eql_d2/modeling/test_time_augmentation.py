"""Test-time augmentation: detection at several sizes and mirrored, merged; for boxes and masks."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.structures import Instances
from fvcore.transforms.transform import TransformList
from torch import Tensor, nn

from eql_d2.errors import UserError
from eql_d2.modeling.inference import select_detections
from eql_d2.modeling.roi_masks import UnpastedMasks, as_roi_masks

MERGE_SCORE_THRESH = 1e-8
"""Detectron2's threshold; what is merged has passed ``MODEL.ROI_HEADS.SCORE_THRESH_TEST`` before."""


class LongTailRCNNWithTTA(GeneralizedRCNNWithTTA):
    """Detectron2's test-time augmentation by the keys ``TEST.AUG``, whose cost does not grow with the classes.

    Boxes of all sizes and of mirrored images are merged by non-maximum suppression; then the masks of the merged
    boxes are predicted in every augmented image, and their probabilities averaged. Results are Detectron2's to the
    last bit. Detectron2 puts the N detections into a score matrix (N, K + 1), one by one; here they stay N scores.

    The model sees each size made from the image that it is given: give it the image as it is on disk, not one
    resized for testing (:meth:`LongTailTrainer.test_with_TTA` does).

    Args:
        cfg: full config; ``TEST.AUG`` says the sizes.
        model: a :class:`GeneralizedRCNN`, also inside PyTorch's wrapper for several processes.
        roi_masks: leave ``pred_masks`` as the mean of the heads' masks, :class:`ROIMasks`, instead of bitmaps.
        kwargs: arguments of :class:`GeneralizedRCNNWithTTA`.

    Raises:
        UserError: the config does not go with augmentation.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module, *, roi_masks: bool = False, **kwargs: Any) -> None:
        check_augmentation(cfg)
        super().__init__(cfg, model, **kwargs)
        self.training = self.model.training  # what Detectron2's evaluation puts back when it is done
        self._keeps_roi_masks = roi_masks and cfg.MODEL.MASK_ON

    def _inference_one_image(self, input: dict[str, Any]) -> dict[str, Instances]:
        output = super()._inference_one_image(input)
        return {"instances": as_roi_masks(output["instances"])} if self._keeps_roi_masks else output

    def _reduce_pred_masks(self, outputs: list[Instances], tfms: list[TransformList]) -> Any:
        masks = super()._reduce_pred_masks(outputs, tfms)
        return UnpastedMasks(masks[:, 0]) if self._keeps_roi_masks else masks

    def _get_augmented_boxes(
        self, augmented_inputs: list[dict[str, Any]], tfms: list[TransformList]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, 4) in the original image, scores (N,) and classes (N,) of all augmentations."""
        outputs = self._batch_inference(augmented_inputs)
        boxes = []
        for output, transform in zip(outputs, tfms, strict=True):
            found = output.pred_boxes.tensor
            boxes.append(torch.from_numpy(transform.inverse().apply_box(found.cpu().numpy())).to(found.device))
        scores = torch.cat([output.scores for output in outputs])
        return torch.cat(boxes), scores.float(), torch.cat([output.pred_classes for output in outputs])

    def _merge_detections(
        self, all_boxes: Tensor, all_scores: Tensor, all_classes: Tensor, shape_hw: tuple[int, int]
    ) -> Instances:
        """The best ``TEST.DETECTIONS_PER_IMAGE`` detections that survive non-maximum suppression."""
        return select_detections(
            all_boxes,
            all_scores,
            all_classes,
            shape_hw,
            MERGE_SCORE_THRESH,
            self.cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            self.cfg.TEST.DETECTIONS_PER_IMAGE,
        )[0]


def check_augmentation(cfg: CfgNode) -> None:
    """Make sure that a config's model can be tested with augmentation.

    Raises:
        UserError: it cannot; the sentence names the key.
    """
    if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
        raise UserError(
            f"TEST.AUG.ENABLED needs MODEL.META_ARCHITECTURE GeneralizedRCNN, not {cfg.MODEL.META_ARCHITECTURE}; "
            "set it to False."
        )
    for key, value in (("KEYPOINT_ON", cfg.MODEL.KEYPOINT_ON), ("LOAD_PROPOSALS", cfg.MODEL.LOAD_PROPOSALS)):
        if value:
            raise UserError(f"TEST.AUG.ENABLED does not go with MODEL.{key}; set one of them to False.")
    sizes = cfg.TEST.AUG.MIN_SIZES
    if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise UserError(f"TEST.AUG.MIN_SIZES is {tuple(sizes)}; it must be sizes in pixels, e.g. (400, 600, 800).")
