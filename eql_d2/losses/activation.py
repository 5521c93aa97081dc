"""The activation of one score a class: the sigmoid, or the Gumbel distribution of GOL (ECCV 2022, arXiv 2207.10936)."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from eql_d2.losses.base import at_least_float32, prior_bias
from eql_d2.losses.row_blocks import sum_over_rows
from eql_d2.losses.sigmoid import NegativeWeights, SigmoidLoss, weighted_sigmoid_sum

GUMBEL_RANGE = (-4.0, 10.0)
"""Logits are clamped to it in the loss, as in the first code: e^4 is 55, and at 10 a negative costs 10."""


class ActivatedLoss(SigmoidLoss):
    """A :class:`SigmoidLoss` whose activation is an option.

    "gumbel" is the probability G(z) = exp(-exp(-z)) of Alexandridis et al., "Long-tailed Instance Segmentation using
    Gumbel Optimized Loss", section 3. In the loss logits are clamped to :data:`GUMBEL_RANGE`, in the scores they are
    not. Within the range the gradient is the true one; in the first code that of a positive with a logit below -3.3 is
    far smaller, by a floor of 1e-12 in PyTorch's binary cross-entropy. Beyond the range it is 0.

    Args:
        num_classes: number K of foreground classes.
        activation: a key of :data:`ACTIVATIONS`.
        has_background: False is image classification.
        num_logits: K, or more where a loss has further columns.

    Raises:
        ValueError: there is no such activation.
    """

    def __init__(
        self,
        num_classes: int,
        activation: str = "sigmoid",
        has_background: bool = True,
        num_logits: int | None = None,
    ) -> None:
        super().__init__(num_classes, has_background, num_logits)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; it must be one of {', '.join(ACTIVATIONS)}.")
        self.activation = activation

    def weighted_sum(
        self,
        logits: Tensor,
        gt_classes: Tensor,
        positive_weights: Tensor,
        negative_weights: NegativeWeights,
        *per_row: Tensor,
    ) -> Tensor:
        """:func:`weighted_sigmoid_sum`, or its counterpart for the activation; the same arguments."""
        return ACTIVATIONS[self.activation](logits, gt_classes, positive_weights, negative_weights, *per_row)

    def scores(self, logits: Tensor) -> Tensor:
        if self.activation == "sigmoid":
            return super().scores(logits)
        foreground = gumbel(at_least_float32(logits))
        if not self.has_background:
            return foreground
        return torch.cat([foreground, foreground.new_zeros(len(foreground), 1)], dim=1)

    def initial_bias(self, prior_prob: float = 0.001) -> Tensor:
        if self.activation == "sigmoid":
            return super().initial_bias(prior_prob)
        return torch.full((self.num_logits,), gumbel_prior_bias(prior_prob))


def gumbel(logits: Tensor) -> Tensor:
    """G(z) = exp(-exp(-z)), in (0, 1); 0 for logits far below 0."""
    return torch.exp(-torch.exp(-logits))


def gumbel_prior_bias(prior_prob: float) -> float:
    """The logit whose Gumbel probability is ``prior_prob``: -2, the first code's, of 0.00062.

    Raises:
        ValueError: ``prior_prob`` is outside (0, 1).
    """
    prior_bias(prior_prob)  # checks the range
    return -math.log(-math.log(prior_prob))


def weighted_gumbel_sum(
    logits: Tensor,
    gt_classes: Tensor,
    positive_weights: Tensor,
    negative_weights: NegativeWeights,
    *per_row: Tensor,
) -> Tensor:
    """Sum of the binary cross-entropies of Gumbel probabilities; arguments as of :func:`weighted_sigmoid_sum`.

    With z the clamped logit a positive costs -log G(z) = e^-z, a negative -log(1 - G(z)).
    """
    function = partial(_weighted_gumbel_terms, positive_weights=positive_weights, negative_weights=negative_weights)
    return sum_over_rows(function, logits, gt_classes, *per_row)


def _weighted_gumbel_terms(
    logits: Tensor, gt_classes: Tensor, *per_row: Tensor, positive_weights: Tensor, negative_weights: NegativeWeights
) -> Tensor:
    is_own = gt_classes[:, None] == torch.arange(logits.shape[1], device=logits.device)
    exponentials = torch.exp(-logits.clamp(*GUMBEL_RANGE))
    # 1 - e^-x as expm1, which keeps its digits where G is near 1.
    negatives = -torch.log(-torch.expm1(-exponentials)) * negative_weights(gt_classes, *per_row)
    return torch.where(is_own, exponentials * positive_weights, negatives).sum()


ACTIVATIONS: dict[str, Callable[..., Tensor]] = {"sigmoid": weighted_sigmoid_sum, "gumbel": weighted_gumbel_sum}
"""The weighted sum of binary cross-entropies by the activation's name."""
