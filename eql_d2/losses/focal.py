"""Focal loss: Lin et al., ICCV 2017, arXiv 1708.02002."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eql_d2.losses.base import at_least_float32
from eql_d2.losses.row_blocks import row_blocks
from eql_d2.losses.sigmoid import SigmoidLoss, own_column, set_own_column, softplus


class FocalLoss(SigmoidLoss):
    """Sigmoid cross-entropy whose easy terms are turned down.

    With p the probability that a sigmoid gives to the truth of its class, a term is ``-α (1 - p)^γ log p`` for a
    positive and ``-(1 - α) (1 - p)^γ log p`` for a negative (paper, equation 5). As in the box heads of the
    long-tail papers' comparisons there is one sigmoid per class, and a background RoI is a negative of every class.

    The sum is divided by the number of RoIs, as every other loss here, so that learning rates carry over. Other
    conventions are constant factors of it: the paper divides by the number of positive anchors, the
    Balanced Group Softmax code's comparison by RoIs times logits, see ``as_in_bags``.

    Args:
        num_classes: number K of foreground classes.
        gamma: focusing, at least 0; 0 is weighted cross-entropy.
        alpha: weight in [0, 1] of positives; negatives weigh 1 - alpha.
        has_background: False is image classification.
        as_in_bags: True is the loss of that comparison (Balanced Group Softmax's code, mmdet/models/losses/
            focal_loss.py and bbox_heads/bbox_head.py): K + 1 sigmoids, the last for background; the mean over RoIs
            and logits, which is K + 1 times smaller; biases start at 0; scores are a softmax over the logits.

    Raises:
        ValueError: an argument is out of its range, or ``as_in_bags`` is True without background; the sentence names
            it.

    Example:
        >>> loss = FocalLoss(num_classes=3, gamma=0.0, alpha=0.5)
        >>> loss(torch.zeros(1, 3), torch.tensor([0]))["loss_cls"].item()  # half of three times log 2
        1.039...
    """

    def __init__(
        self,
        num_classes: int,
        gamma: float = 2.0,
        alpha: float = 0.25,
        has_background: bool = True,
        as_in_bags: bool = False,
    ) -> None:
        if as_in_bags and not has_background:
            raise ValueError("as_in_bags is True, but its last sigmoid is background's, of which there is none here.")
        super().__init__(num_classes, has_background, num_classes + as_in_bags)
        if gamma < 0:
            raise ValueError(f"gamma is {gamma}; it must not be negative.")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}; it must lie between 0 and 1.")
        self.gamma = gamma
        self.alpha = alpha
        self.as_in_bags = as_in_bags
        self.exclusive = as_in_bags

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        if torch.compiler.is_compiling():
            summed = self._dense_sum(logits, gt_classes)
        else:
            summed = _FocalSum.apply(logits, gt_classes, self.gamma, self.alpha)
        terms_in_mean = self.num_logits if self.as_in_bags else 1
        return {"loss_cls": summed / (max(len(gt_classes), 1) * terms_in_mean)}

    def scores(self, logits: Tensor) -> Tensor:
        return at_least_float32(logits).softmax(dim=1) if self.as_in_bags else super().scores(logits)

    def initial_bias(self, prior_prob: float = 0.001) -> Tensor:
        return torch.zeros(self.num_logits) if self.as_in_bags else super().initial_bias(prior_prob)

    def _dense_sum(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """The formula at once, which the compiler fuses."""
        is_own = gt_classes[:, None] == torch.arange(logits.shape[1], device=logits.device)
        wrong = torch.where(is_own, -logits, logits)
        # The power by its logarithm: its derivative is finite where the probability is 0.
        terms = torch.exp(self.gamma * F.logsigmoid(wrong)) * -F.logsigmoid(-wrong)
        return (terms * torch.where(is_own, self.alpha, 1 - self.alpha)).sum()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, gamma={self.gamma}, alpha={self.alpha}, as_in_bags={self.as_in_bags}"


class _FocalSum(torch.autograd.Function):
    """A block of rows at a time, with the backward pass by formula: only the gradient is of full size."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, gt_classes: Tensor, gamma: float, alpha: float) -> Tensor:
        ctx.gamma, ctx.alpha = gamma, alpha
        ctx.save_for_backward(logits, gt_classes)
        of_blocks = (_focal_terms(z, y, gamma, alpha).sum() for z, y in row_blocks(logits, gt_classes))
        return functools.reduce(torch.add, of_blocks, logits.new_zeros(()))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_sum: Tensor) -> tuple[Tensor | None, ...]:
        logits, gt_classes = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        for grad, z, y in row_blocks(grad_logits, logits, gt_classes):
            grad.copy_(_slope(z, ctx.gamma)).mul_((1 - ctx.alpha) * grad_sum)
            of_own = _slope(-z.gather(1, own_column(y, z)), ctx.gamma)
            set_own_column(grad, y, -ctx.alpha * grad_sum * of_own)
        return grad_logits, None, None, None


def _focal_terms(logits: Tensor, gt_classes: Tensor, gamma: float, alpha: float) -> Tensor:
    terms = _term(logits, gamma).mul_(1 - alpha)
    return set_own_column(terms, gt_classes, alpha * _term(-logits.gather(1, own_column(gt_classes, logits)), gamma))


def _term(logits: Tensor, gamma: float) -> Tensor:
    """σ(z)^γ log(1 + e^z): a negative without its weight; of -z, a positive."""
    return softplus(logits).mul_(logits.sigmoid().pow_(gamma))


def _slope(logits: Tensor, gamma: float) -> Tensor:
    """The derivative of :func:`_term`: σ(z)^γ (γ (1 - σ(z)) log(1 + e^z) + σ(z))."""
    probability = logits.sigmoid()
    slope = softplus(logits).mul_(gamma).mul_(1 - probability).add_(probability)
    return slope.mul_(probability.pow_(gamma))
