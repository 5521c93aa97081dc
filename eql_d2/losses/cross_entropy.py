"""The two baselines: softmax and sigmoid cross-entropy."""

import torch
import torch.nn.functional as F
from torch import Tensor

from eql_d2.losses.base import ClassificationLoss, at_least_float32, foreground_one_hot, prior_bias


class SoftmaxCrossEntropy(ClassificationLoss):
    """Softmax cross-entropy over K + 1 logits, background last: Detectron2's default.

    Args:
        num_classes: number K of foreground classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, num_logits=num_classes + 1)

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        summed = F.cross_entropy(logits, gt_classes, reduction="sum")
        return {"loss_cls": summed / max(len(gt_classes), 1)}

    def scores(self, logits: Tensor) -> Tensor:
        return at_least_float32(logits).softmax(dim=1)


class SigmoidLoss(ClassificationLoss):
    """What all losses with one independent sigmoid a class share: K logits, no logit for background."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, num_logits=num_classes)

    def scores(self, logits: Tensor) -> Tensor:
        foreground = at_least_float32(logits).sigmoid()
        return torch.cat([foreground, foreground.new_zeros(len(foreground), 1)], dim=1)

    def initial_bias(self, prior_prob: float = 0.001) -> Tensor:
        return torch.full((self.num_logits,), prior_bias(prior_prob))


class SigmoidCrossEntropy(SigmoidLoss):
    """Binary cross-entropy of K sigmoids, summed over classes and averaged over RoIs.

    A background RoI is a negative of every class.

    Args:
        num_classes: number K of foreground classes.
    """

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        targets = foreground_one_hot(gt_classes, self.num_classes).to(logits.dtype)
        summed = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        return {"loss_cls": summed / max(len(gt_classes), 1)}
