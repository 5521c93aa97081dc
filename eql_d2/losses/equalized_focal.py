"""Equalized Focal Loss (EFL) and Equalized Quality Focal Loss: Li et al., CVPR 2022, arXiv 2201.02593."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eql_d2.losses.distributed import sum_over_processes
from eql_d2.losses.row_blocks import row_blocks
from eql_d2.losses.sigmoid import SigmoidLoss, own_column, set_own_column, softplus
from eql_d2.losses.stateful import StatefulLoss

PositiveTerm = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of (rows, 1) own logits, qualities and focusing factors: the terms, and their derivatives by the logits."""


class EqualizedFocalLoss(StatefulLoss, SigmoidLoss):
    """Focal loss whose focusing of each class grows with the imbalance of its gradients.

    With r_j in [0, 1] the ratio of class j's positive to its negative gradients over the training, its focusing factor
    is g_j = γ + s (1 - r_j). A term is A (g_j / γ) (1 - p)^g_j (-log p), p the probability that the sigmoid gives to
    the truth, and A = α for positives and 1 - α for negatives. r starts at 1, so the first step is the focal loss.

    The loss is divided by ``normalizer``, in dense heads the number of positive anchors. The gradients collected are
    those of this step's loss, summed over all processes.

    Args:
        num_classes: number K of foreground classes.
        gamma: γ, the focusing of a balanced class, above 0.
        alpha: weight in [0, 1] of positives; below 0 leaves A out.
        scale: s, at least 0; 0 is the focal loss.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = EqualizedFocalLoss(num_classes=2)
        >>> loss.focusing().tolist()  # at first the focal loss of both
        [2.0, 2.0]
        >>> losses = loss(torch.zeros(1, 2), torch.tensor([0]))
        >>> loss.focusing().tolist()  # the second has had negatives alone
        [2.0, 10.0]
    """

    pos_grad: Tensor
    neg_grad: Tensor
    pos_neg_ratio: Tensor

    def __init__(self, num_classes: int, gamma: float = 2.0, alpha: float = 0.25, scale: float = 8.0) -> None:
        super().__init__(num_classes)
        self.register_state(pos_grad=0.0, neg_grad=0.0, pos_neg_ratio=1.0)
        if gamma <= 0:
            raise ValueError(f"gamma is {gamma}; it must be above 0.")
        if alpha > 1:
            raise ValueError(f"alpha is {alpha}; it must be at most 1, or negative for no weights.")
        if scale < 0:
            raise ValueError(f"scale is {scale}; it must not be negative.")
        self.gamma = gamma
        self.alpha = alpha
        self.scale = scale

    def compute(
        self, logits: Tensor, gt_classes: Tensor, normalizer: Tensor | float | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss.

        Args:
            logits: (R, K), R anchors or RoIs; those to ignore are left out beforehand.
            gt_classes: (R,) in [0, K].
            normalizer: what the sum is divided by, the number of positives; None divides the loss by R, and collects
                gradients undivided.

        Returns:
            ``{"loss_cls": scalar}``.
        """
        positive, negative = (1.0, 1.0) if self.alpha < 0 else (self.alpha, 1 - self.alpha)
        quality = logits.new_ones(len(logits))
        return self._loss(logits, gt_classes, quality, _focal_positive, positive, negative, normalizer)

    def focusing(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """(K,) present focusing factors g."""
        return self.gamma + self.scale * (1 - self.pos_neg_ratio.to(dtype))

    def _loss(
        self,
        logits: Tensor,
        gt_classes: Tensor,
        quality: Tensor,
        positive_term: PositiveTerm,
        positive: float,
        negative: float,
        normalizer: Tensor | float | None,
    ) -> dict[str, Tensor]:
        focusing = self.focusing(logits.dtype)
        weights = focusing / self.gamma
        per_class = torch.stack([focusing, positive * weights, negative * weights])
        function = _dense_sum if torch.compiler.is_compiling() else _EqualizedSum.apply
        summed, gradients = function(logits, gt_classes, quality, per_class, positive_term)
        if self.training:
            self._collect(gradients if normalizer is None else gradients / normalizer)
        return {"loss_cls": summed / (max(len(gt_classes), 1) if normalizer is None else normalizer)}

    @torch.no_grad()
    def _collect(self, increments: Tensor) -> None:
        increments = sum_over_processes(increments.to(self.pos_grad.dtype))
        # A step with NaN or infinite logits is left out, on all processes.
        positive, negative = torch.where(increments.isfinite().all(), increments, 0)
        self.pos_grad += positive
        self.neg_grad += negative
        self.pos_neg_ratio = (self.pos_grad / (self.neg_grad + 1e-10)).clamp(max=1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, gamma={self.gamma}, alpha={self.alpha}, scale={self.scale}"


class EqualizedQualityFocalLoss(EqualizedFocalLoss):
    """EFL on top of the quality focal loss (Li et al., NeurIPS 2020): the target of a positive is its quality.

    With u the overlap of the predicted box with its target, the term of a positive is (g_j / γ) BCE(z, u) |u - p|^g_j,
    and of a negative (g_j / γ) BCE(z, 0) p^g_j. The rest is as in :class:`EqualizedFocalLoss`.

    Args:
        num_classes: number K of foreground classes.
        gamma: γ, the focusing of a balanced class, at least 1.
        scale: s, at least 0; 0 is the quality focal loss.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = EqualizedQualityFocalLoss(num_classes=1)
        >>> loss(torch.zeros(1, 1), torch.tensor([0]), quality=torch.tensor([0.5]))["loss_cls"].item()  # met exactly
        0.0
    """

    def __init__(self, num_classes: int, gamma: float = 2.0, scale: float = 4.0) -> None:
        super().__init__(num_classes, gamma, -1.0, scale)
        if gamma < 1:
            raise ValueError(f"gamma is {gamma}; it must be at least 1.")

    def compute(
        self,
        logits: Tensor,
        gt_classes: Tensor,
        normalizer: Tensor | float | None = None,
        quality: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss.

        Args:
            logits: as above.
            gt_classes: as above.
            normalizer: as above.
            quality: (R,) in [0, 1], without meaning for background; None is 1.

        Returns:
            ``{"loss_cls": scalar}``.
        """
        quality = logits.new_ones(len(logits)) if quality is None else quality.detach().to(logits.dtype)
        return self._loss(logits, gt_classes, quality, _quality_positive, 1.0, 1.0, normalizer)


class _EqualizedSum(torch.autograd.Function):
    """The sum, and the sums (2, K) of the gradients of positives and negatives; a block of rows at a time.

    ``per_class`` (3, K) has the focusing factors, and the weights of positives and of negatives.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, gt_classes: Tensor, quality: Tensor, per_class: Tensor, positive_term: PositiveTerm
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, gt_classes, quality, per_class)
        ctx.positive_term = positive_term
        num_classes = logits.shape[1]
        summed, negatives = logits.new_zeros(()), logits.new_zeros(num_classes)
        positives = logits.new_zeros(num_classes + 1)
        for z, y, u in row_blocks(logits, gt_classes, quality):
            costs = softplus(z)
            slopes = _negative_slopes(z, costs, per_class)  # which the costs are multiplied with on the way
            terms, own_slopes = _own_terms(z, y, u, per_class, positive_term)
            summed += set_own_column(costs, y, terms).sum()
            negatives += set_own_column(slopes, y, 0.0).sum(dim=0)
            positives.index_add_(0, y.clamp(max=num_classes), own_slopes.abs().squeeze(1))
        sums = torch.stack([positives[:-1], negatives])
        ctx.mark_non_differentiable(sums)
        return summed, sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_sum: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        logits, gt_classes, quality, per_class = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        for grad, z, y, u in row_blocks(grad_logits, logits, gt_classes, quality):
            grad.copy_(_negative_slopes(z, softplus(z), per_class))
            set_own_column(grad, y, _own_terms(z, y, u, per_class, ctx.positive_term)[1])
            grad.mul_(grad_sum)
        return grad_logits, None, None, None, None


def _negative_slopes(logits: Tensor, costs: Tensor, per_class: Tensor) -> Tensor:
    """The derivatives of the negatives' terms; turns their costs log(1 + e^z), in place, into the terms."""
    focusing, _, weights = per_class
    probability = logits.sigmoid()
    factors = probability.pow(focusing).mul_(weights)
    slopes = (1 - probability).mul_(focusing).mul_(costs).add_(probability).mul_(factors)
    costs.mul_(factors)
    return slopes


def _own_terms(
    logits: Tensor, gt_classes: Tensor, quality: Tensor, per_class: Tensor, positive_term: PositiveTerm
) -> tuple[Tensor, Tensor]:
    """(rows, 1) terms of each row's own class and their derivatives; without meaning for background."""
    own = own_column(gt_classes, logits)
    focusing, weights, _ = per_class
    terms, slopes = positive_term(logits.gather(1, own), quality[:, None], focusing[own])
    return terms * weights[own], slopes * weights[own]


def _focal_positive(logits: Tensor, quality: Tensor, focusing: Tensor) -> tuple[Tensor, Tensor]:
    """(1 - p)^g (-log p), and its derivative."""
    wrong = torch.sigmoid(-logits)
    # The power by its logarithm: its derivative is finite where the probability is 0.
    costs, factors = F.softplus(-logits, threshold=50), torch.exp(focusing * F.logsigmoid(-logits))
    return costs * factors, -factors * (focusing * (1 - wrong) * costs + wrong)


def _quality_positive(logits: Tensor, quality: Tensor, focusing: Tensor) -> tuple[Tensor, Tensor]:
    """BCE(z, u) |u - p|^g, and its derivative."""
    probability = logits.sigmoid()
    costs = F.softplus(logits, threshold=50) - quality * logits
    gap = probability - quality
    factors = gap.abs().pow(focusing)
    inner = focusing * gap.abs().pow(focusing - 1) * gap.sign() * probability * (1 - probability)
    return costs * factors, gap * factors + costs * inner


def _dense_sum(
    logits: Tensor, gt_classes: Tensor, quality: Tensor, per_class: Tensor, positive_term: PositiveTerm
) -> tuple[Tensor, Tensor]:
    """The formula at once, which the compiler fuses."""
    focusing, _, weights = per_class
    is_own = gt_classes[:, None] == torch.arange(logits.shape[1], device=logits.device)
    negatives = torch.exp(focusing * F.logsigmoid(logits)) * F.softplus(logits, threshold=50) * weights
    positives, own_slopes = _own_terms(logits, gt_classes, quality, per_class, positive_term)
    summed = torch.where(is_own, positives, negatives).sum()
    with torch.no_grad():
        z = logits.detach()
        slopes = torch.where(is_own, 0, _negative_slopes(z, F.softplus(z, threshold=50), per_class))
        of_own = torch.where(is_own, own_slopes.detach().abs(), 0)
    return summed, torch.stack([of_own.sum(dim=0), slopes.sum(dim=0)])
