"""Gumbel Optimized Loss (GOL) in its plain form: Alexandridis et al., ECCV 2022, arXiv 2207.10936."""

import math

from torch import Tensor

from eql_d2.losses.activation import ActivatedLoss, gumbel
from eql_d2.losses.base import at_least_float32


class GumbelCrossEntropy(ActivatedLoss):
    """Binary cross-entropy of K + 1 Gumbel probabilities, background last, averaged over RoIs.

    Background is a class like others: the target of background RoIs, a negative of the rest. The total is clamped to
    ``max_loss``, above which its gradient is 0, as in the first code. The paper's best form is DropLoss with
    ``activation="gumbel"``; the activation itself is :class:`~eql_d2.losses.activation.ActivatedLoss`'s.

    Args:
        num_classes: number K of foreground classes.
        max_loss: largest value of the loss, above 0.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = GumbelCrossEntropy(num_classes=2)
        >>> loss.scores(torch.zeros(1, 3)).tolist()  # 1 / e
        [[0.367..., 0.367..., 0.367...]]
    """

    def __init__(self, num_classes: int, max_loss: float = 20.0) -> None:
        super().__init__(num_classes, "gumbel", num_logits=num_classes + 1)
        if max_loss <= 0:
            raise ValueError(f"max_loss is {max_loss}; it must be above 0.")
        self.max_loss = max_loss

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        one = logits.new_ones(self.num_logits)
        summed = self.weighted_sum(logits, gt_classes, one, lambda classes: one)
        return {"loss_cls": (summed / max(len(gt_classes), 1)).clamp(max=self.max_loss)}

    def scores(self, logits: Tensor) -> Tensor:
        return gumbel(at_least_float32(logits))

    def initial_bias(self, prior_prob: float = math.exp(-math.exp(2))) -> Tensor:
        return super().initial_bias(prior_prob)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, max_loss={self.max_loss}"
