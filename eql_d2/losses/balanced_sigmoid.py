"""Balanced Softmax's sigmoid form for detection: Ren et al., NeurIPS 2020, arXiv 2007.10740."""

import torch
from torch import Tensor

from eql_d2.losses.base import class_statistics
from eql_d2.losses.row_blocks import sum_over_rows
from eql_d2.losses.sigmoid import SigmoidLoss, weighted_sigmoid_sum

LARGEST_FREQUENCY = 0.999


class BalancedSigmoidLoss(SigmoidLoss):
    """Sigmoid cross-entropy of logits that foreground RoIs shift by the log odds of each class.

    On foreground RoIs x_ic = z_ic - log((1 - f_c) / f_c) for all classes, with f_c the share of the training images
    that hold the class; on background RoIs x = z. The loss is Σ_c BCE(x_ic, y_ic), averaged over RoIs; the scores
    are σ(z). This is the detection form of the authors' code ("BALMS" is this with weights of RoIs that are learnt by
    second-order steps on a class-balanced batch, which are not here).

    A class without images counts as rare as the rarest that has some, and one in more than 99.9 % of the images as in
    99.9 %. The shifts follow from the data set, so they are not stored in checkpoints.

    Args:
        num_classes: number K of foreground classes.
        image_frequencies: (K,) share in [0, 1] of the training images that hold each class.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = BalancedSigmoidLoss(num_classes=2, image_frequencies=[0.5, 0.1])
        >>> loss.shifts.tolist()  # log odds: 1 to 1, and 1 to 9
        [0.0, -2.197...]
    """

    shifts: Tensor

    def __init__(self, num_classes: int, image_frequencies: Tensor) -> None:
        super().__init__(num_classes)
        frequencies = class_statistics("image_frequencies", image_frequencies, num_classes)
        if bool((frequencies > 1).any()):
            raise ValueError("image_frequencies must lie between 0 and 1; divide image counts by the number of images.")
        occurring = frequencies[frequencies > 0]
        if not len(occurring):
            raise ValueError("image_frequencies are 0 for all classes; at least one class must occur.")
        self.register_buffer(
            "shifts", frequencies.clamp(float(occurring.min()), LARGEST_FREQUENCY).logit(), persistent=False
        )

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        shifts, one = self.shifts.to(logits.dtype), logits.new_ones(self.num_classes)

        def function(z: Tensor, y: Tensor) -> Tensor:
            shifted = torch.where((y < self.num_classes)[:, None], z + shifts, z)
            return weighted_sigmoid_sum(shifted, y, one, lambda classes: one)

        return {"loss_cls": sum_over_rows(function, logits, gt_classes) / max(len(gt_classes), 1)}
