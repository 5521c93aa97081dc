"""The two baselines: softmax and sigmoid cross-entropy."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from eql_d2.losses.activation import ActivatedLoss
from eql_d2.losses.base import ClassificationLoss, at_least_float32
from eql_d2.losses.row_blocks import sum_over_rows


class SoftmaxCrossEntropy(ClassificationLoss):
    """Softmax cross-entropy over K + 1 logits, background last: Detectron2's default.

    Args:
        num_classes: number K of foreground classes.
        has_background: False is image classification, with K logits.

    Example:
        >>> loss = SoftmaxCrossEntropy(num_classes=3)
        >>> loss(torch.zeros(2, loss.num_logits), torch.tensor([0, 3]))["loss_cls"].item()  # 3 is background; log 4
        1.386...
    """

    def __init__(self, num_classes: int, has_background: bool = True) -> None:
        super().__init__(num_classes, num_classes + has_background, has_background)

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        summed = sum_over_rows(partial(F.cross_entropy, reduction="sum"), logits, gt_classes)
        return {"loss_cls": summed / max(len(gt_classes), 1)}

    def scores(self, logits: Tensor) -> Tensor:
        return at_least_float32(logits).softmax(dim=1)


class SigmoidCrossEntropy(ActivatedLoss):
    """Binary cross-entropy of K sigmoids (or Gumbel activations), summed over classes and averaged over RoIs.

    A background RoI is a negative of every class.

    Args:
        num_classes: number K of foreground classes.
        has_background: False is image classification.
        activation: "sigmoid" or "gumbel", see :class:`~eql_d2.losses.activation.ActivatedLoss`.

    Raises:
        ValueError: there is no such activation.

    Example:
        >>> loss = SigmoidCrossEntropy(num_classes=3)
        >>> loss(torch.zeros(2, loss.num_logits), torch.tensor([0, 3]))["loss_cls"].item()  # three times log 2
        2.079...
    """

    def __init__(self, num_classes: int, has_background: bool = True, activation: str = "sigmoid") -> None:
        super().__init__(num_classes, activation, has_background)

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        one = logits.new_ones(self.num_classes)
        summed = self.weighted_sum(logits, gt_classes, one, lambda classes: one)
        return {"loss_cls": summed / max(len(gt_classes), 1)}
