"""Softmax over logits shifted by log priors: logit adjustment (arXiv 2007.07314), Balanced Softmax (2007.10740)."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from eql_d2.losses.base import at_least_float32, class_statistics
from eql_d2.losses.cross_entropy import SoftmaxCrossEntropy
from eql_d2.losses.row_blocks import sum_over_rows


class LogitAdjustmentLoss(SoftmaxCrossEntropy):
    """Softmax cross-entropy whose logits are shifted by τ times the log prior of their class.

    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021. In training the loss is the cross-entropy of
    z + τ log π, and the scores are the softmax of z (equation 10); or post hoc, the loss is plain cross-entropy and
    the scores are the softmax of z - τ log π (equation 9), which also serves a classifier trained with plain softmax.

    The priors π are the shares of the training instances; a class without any counts as one with a single instance.
    They follow from the data set, so they are not stored in checkpoints. A common shift of all logits changes
    nothing in a softmax, but with background it matters where the classes' log priors lie against background's: as
    neither paper has a background, they are centred at 0, and background is not shifted.

    Args:
        num_classes: number K of foreground classes.
        instance_counts: (K,) number of training instances of each class, at least 0.
        tau: τ, at least 0; 0 is plain softmax cross-entropy.
        post_hoc: adjust the scores instead of the loss.
        has_background: False is image classification, with K logits.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = LogitAdjustmentLoss(num_classes=2, instance_counts=[1, 4])
        >>> loss.log_priors.exp().round(decimals=3).tolist()  # centred at 1, which is background's
        [0.5, 2.0, 1.0]
    """

    log_priors: Tensor

    def __init__(
        self,
        num_classes: int,
        instance_counts: Tensor,
        tau: float = 1.0,
        post_hoc: bool = False,
        has_background: bool = True,
    ) -> None:
        super().__init__(num_classes, has_background)
        if tau < 0:
            raise ValueError(f"tau is {tau}; it must not be negative.")
        self.tau = tau
        self.post_hoc = post_hoc
        log_counts = class_statistics("instance_counts", instance_counts, num_classes).clamp(min=1).log()
        log_priors = F.pad(log_counts - log_counts.mean(), (0, int(has_background)))
        self.register_buffer("log_priors", log_priors.float(), persistent=False)

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        if self.post_hoc:
            return super().compute(logits, gt_classes)
        summed = sum_over_rows(partial(_shifted_sum, shift=self._shift(logits)), logits, gt_classes)
        return {"loss_cls": summed / max(len(gt_classes), 1)}

    def scores(self, logits: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        return super().scores(logits - self._shift(logits) if self.post_hoc else logits)

    def _shift(self, logits: Tensor) -> Tensor:
        return self.tau * self.log_priors.to(logits.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, tau={self.tau}, post_hoc={self.post_hoc}"


def _shifted_sum(logits: Tensor, gt_classes: Tensor, shift: Tensor) -> Tensor:
    return F.cross_entropy(logits + shift, gt_classes, reduction="sum")


class BalancedSoftmaxLoss(LogitAdjustmentLoss):
    """Balanced Softmax: Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020.

    The term of class j in the softmax is multiplied by its number of training instances (theorem 1), which is logit
    adjustment with τ = 1; the scores are the plain softmax.

    Args:
        num_classes: number K of foreground classes.
        instance_counts: (K,) number of training instances of each class, at least 0.
        has_background: False is image classification, with K logits.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = BalancedSoftmaxLoss(num_classes=2, instance_counts=[1, 4])
        >>> loss(torch.zeros(1, 3), torch.tensor([0]))["loss_cls"].exp().item()  # (1/2 + 2 + 1) / (1/2)
        7.0...
    """

    def __init__(self, num_classes: int, instance_counts: Tensor, has_background: bool = True) -> None:
        super().__init__(num_classes, instance_counts, tau=1.0, has_background=has_background)
