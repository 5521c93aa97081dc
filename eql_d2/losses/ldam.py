"""Label-distribution-aware margins (LDAM) with deferred re-weighting: Cao et al., NeurIPS 2019, arXiv 1906.07413."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from eql_d2.losses.base import at_least_float32, class_statistics
from eql_d2.losses.reweighting import checked_beta, inverse_effective_numbers
from eql_d2.losses.row_blocks import sum_over_rows
from eql_d2.losses.stateful import StatefulLoss


class LDAMLoss(StatefulLoss):
    """Softmax cross-entropy of scaled cosines in which each class must win by a margin, the rarer the larger.

    With cosines z of a normalized classifier, the loss is the cross-entropy of s (z_j - Δ_y [j = y]), where
    Δ_j = C / n_j^(1/4) for n_j training instances (paper, section 3.2), and C makes the largest margin
    ``max_margin``. The scores are the softmax of s z. There is no background.

    Deferred re-weighting (DRW; algorithm 1): the last part of a training weighs each image by the inverse effective
    number of its class, and divides by the sum of the weights instead of the number of images. The loss does not
    count iterations; what trains it calls :meth:`set_reweighting`. The switch is a buffer that checkpoints keep. A
    checkpoint without it leaves it as it is.

    Args:
        num_classes: number K of classes.
        instance_counts: (K,) number of training instances of each class, at least 0; 0 counts as 1.
        max_margin: margin of the rarest class, at least 0.
        scale: s, above 0.
        beta: of the effective number of samples in the deferred weights, in [0, 1).

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = LDAMLoss(num_classes=2, instance_counts=[1, 16])
        >>> loss.margins.tolist()  # the fourth root of 16 is 2
        [0.5, 0.25]
    """

    has_background = False
    needs_cosines = True
    reweighting: Tensor
    margins: Tensor
    deferred_weights: Tensor

    def __init__(
        self,
        num_classes: int,
        instance_counts: Tensor,
        max_margin: float = 0.5,
        scale: float = 30.0,
        beta: float = 0.9999,
    ) -> None:
        super().__init__(num_classes, num_logits=num_classes)
        if max_margin < 0:
            raise ValueError(f"max_margin is {max_margin}; it must not be negative.")
        if scale <= 0:
            raise ValueError(f"scale is {scale}; it must be above 0.")
        self.max_margin = max_margin
        self.scale = scale
        self.beta = checked_beta(beta)
        counts = class_statistics("instance_counts", instance_counts, num_classes).clamp(min=1)
        margins = max_margin * (counts.min() / counts) ** 0.25
        weights = inverse_effective_numbers(counts, beta)
        self.register_buffer("margins", margins.float(), persistent=False)
        self.register_buffer("deferred_weights", (weights / weights.mean()).float(), persistent=False)
        self.register_state(shape=(), reweighting=False)

    def set_reweighting(self, on: bool) -> None:
        """Switch the deferred weights on or off, from the next step on."""
        self.reweighting.fill_(on)

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        # Chosen on the device: a GPU need not be waited for.
        weights = torch.where(self.reweighting, self.deferred_weights, 1.0).to(logits.dtype)
        summed = sum_over_rows(partial(self._sum, weights=weights), logits, gt_classes)
        total = weights[gt_classes].sum().clamp(min=torch.finfo(weights.dtype).tiny)
        return {"loss_cls": summed / total}

    def _sum(self, logits: Tensor, gt_classes: Tensor, weights: Tensor) -> Tensor:
        own = gt_classes[:, None]
        with_margin = logits.scatter_add(1, own, -self.margins.to(logits.dtype)[own])
        return F.cross_entropy(self.scale * with_margin, gt_classes, weight=weights, reduction="sum")

    def scores(self, logits: Tensor) -> Tensor:
        return (self.scale * at_least_float32(logits)).softmax(dim=1)

    def start_afresh(self, absent: Sequence[str]) -> None:
        """Leave the switch as it is: the checkpoint is of another loss, as the first stage of a decoupled training."""

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, max_margin={self.max_margin}, scale={self.scale}, beta={self.beta}"
