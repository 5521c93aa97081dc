"""What the evaluators of detections have in common: they take predictions image by image."""

from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances, ROIMasks

from eql_d2.errors import UserError


class DetectionEvaluator(DatasetEvaluator):
    """A Detectron2 evaluator that takes each image's predictions in :meth:`_process_image`."""

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take the predictions of some images.

        Args:
            inputs: dataset dicts with ``image_id``.
            outputs: dicts with ``instances``, in the size of the original images; ``pred_masks`` may be bitmaps
                (N, H, W), as models give them, or :class:`ROIMasks` (:mod:`eql_d2.modeling.roi_masks`).

        Raises:
            UserError: an image is not in the annotation file or comes twice, a score, box or mask is not finite,
                or the results cannot be written.
        """
        for image, output in zip(inputs, outputs, strict=True):
            self._process_image(image["image_id"], output["instances"].to("cpu"))

    def _process_image(self, image_id: int, instances: Instances) -> None:
        """Take one image's predictions, on the CPU."""
        raise NotImplementedError


def check_finite(image_id: int, instances: Instances) -> None:
    """Make sure that no NaN goes into the metrics.

    Args:
        image_id: for the message.
        instances: with ``scores``, ``pred_boxes`` and, perhaps, ``pred_masks``.

    Raises:
        UserError: a score, a box or a RoI mask is not finite.
    """
    if not (torch.isfinite(instances.scores).all() and torch.isfinite(instances.pred_boxes.tensor).all()):
        raise UserError(f"The model's predictions for image id {image_id} hold a score or box that is not finite.")
    masks = instances.pred_masks if instances.has("pred_masks") else None
    if isinstance(masks, ROIMasks) and not torch.isfinite(masks.tensor).all():
        raise UserError(f"The model's predictions for image id {image_id} hold a mask that is not finite.")
