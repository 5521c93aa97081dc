"""Weighted binary cross-entropy of one sigmoid per class: the core of EQL, EQLv2 and their baseline."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from eql_d2.losses.base import ClassificationLoss, at_least_float32, prior_bias
from eql_d2.losses.row_blocks import Workspace, sum_by_formula

NegativeWeights = Callable[..., Tensor]
"""Weights of a block of rows, from its classes and further labels: (rows, columns) or what broadcasts to it."""


_NO_OVERFLOW = 80.0  # e^z is finite below, in float32, too


class SigmoidLoss(ClassificationLoss):
    """K logits, none for background: a background RoI is a negative of every class.

    Args:
        num_classes: number K of foreground classes.
        has_background: False is image classification.
        num_logits: K, or more where a loss has further sigmoids.
    """

    exclusive = False

    def __init__(self, num_classes: int, has_background: bool = True, num_logits: int | None = None) -> None:
        super().__init__(num_classes, num_classes if num_logits is None else num_logits, has_background)

    def scores(self, logits: Tensor) -> Tensor:
        foreground = at_least_float32(logits).sigmoid()
        if not self.has_background:
            return foreground
        return torch.cat([foreground, foreground.new_zeros(len(foreground), 1)], dim=1)

    def initial_bias(self, prior_prob: float = 0.001) -> Tensor:
        return torch.full((self.num_logits,), prior_bias(prior_prob))


def gated_scores(logits: Tensor) -> Tensor:
    """Scores of K + 1 sigmoids whose last, background, damps the classes: σ(z_c) (1 - σ(z_K)), and σ(z_K) last."""
    probabilities = at_least_float32(logits).sigmoid()
    background = probabilities[:, -1:]
    return torch.cat([probabilities[:, :-1] * (1 - background), background], dim=1)


def weighted_sigmoid_sum(
    logits: Tensor,
    gt_classes: Tensor,
    positive_weights: Tensor,
    negative_weights: NegativeWeights,
    *per_row: Tensor,
    negative_gradients: Tensor | None = None,
) -> Tensor:
    """Sum of the binary cross-entropies of all RoIs and columns, each with a weight.

    A positive (an RoI's own column) costs log(1 + e^-z), a negative log(1 + e^z).

    Args:
        logits: (R, columns).
        gt_classes: (R,); a class beyond the columns (background without a logit) is a row of negatives.
        positive_weights: (columns,).
        negative_weights: of a block of ``gt_classes`` and of each of ``per_row``; must not change until the backward
            pass.
        per_row: further tensors with R rows.
        negative_gradients: (columns,), to which each column's gradients of negatives are added, for losses that
            keep account of them; not within torch.compile.

    Returns:
        A scalar.
    """
    if torch.compiler.is_compiling():  # the compiler fuses a dense formula
        is_own = gt_classes[:, None] == torch.arange(logits.shape[1], device=logits.device)
        weights = torch.where(is_own, positive_weights, negative_weights(gt_classes, *per_row))
        return (F.softplus(torch.where(is_own, -logits, logits), threshold=50) * weights).sum()
    function = functools.partial(
        _weighted_terms,
        positive_weights=positive_weights,
        negative_weights=negative_weights,
        negative_gradients=negative_gradients,
    )
    return sum_by_formula(function, logits, gt_classes, *per_row)


def _weighted_terms(
    shared: Workspace,
    grad: Tensor | None,
    logits: Tensor,
    gt_classes: Tensor,
    *per_row: Tensor,
    positive_weights: Tensor,
    negative_weights: NegativeWeights,
    negative_gradients: Tensor | None,
) -> Tensor:
    """Sum of a block's terms; its gradient goes to ``grad``. One exponential and one logarithm a logit."""
    columns = logits.shape[1]
    weights = negative_weights(gt_classes, *per_row)
    probabilities, costs = _sigmoid_and_softplus(
        logits, shared.like("probabilities", logits) if grad is None else grad, shared.like("costs", logits)
    )
    own = own_column(gt_classes, logits)
    own_logits = logits.gather(1, own)
    set_own_column(costs, gt_classes, 0.0)
    if weights.shape in ((columns,), (1, columns)):
        total = torch.mv(costs, weights.reshape(-1)).sum()
    else:
        total = torch.dot(costs.reshape(-1), weights.expand_as(costs).reshape(-1))
    has_own = (gt_classes < columns)[:, None]
    total = total + (softplus(-own_logits) * positive_weights[own]).masked_fill_(~has_own, 0).sum()
    if grad is None and negative_gradients is None:
        return total
    gradients = probabilities.mul_(weights)
    if negative_gradients is not None:
        negative_gradients += set_own_column(gradients, gt_classes, 0.0).sum(dim=0)
    set_own_column(gradients, gt_classes, torch.sigmoid(-own_logits).neg_() * positive_weights[own])
    return total


def _sigmoid_and_softplus(logits: Tensor, probabilities: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    """σ(z) and log(1 + e^z), into the given tensors."""
    if logits.device.type == "cpu" and logits.numel() and logits.amax() < _NO_OVERFLOW:
        torch.exp(logits, out=probabilities)
        torch.add(probabilities, 1, out=costs)
        return probabilities.div_(costs), costs.log_()
    torch.sigmoid(logits, out=probabilities)
    # log(1 + e^z) is max(z, 0) - log σ(|z|), and σ(|z|) is the larger of σ(z) and 1 - σ(z).
    log = torch.maximum(probabilities, 1 - probabilities).log_()
    return probabilities, torch.clamp(logits, min=0, out=costs).sub_(log)


def own_column(gt_classes: Tensor, columns: Tensor) -> Tensor:
    """Each RoI's own column (R, 1); the last one where it has none."""
    return gt_classes.clamp(max=columns.shape[1] - 1)[:, None]


def set_own_column(columns: Tensor, gt_classes: Tensor, values: Tensor | float) -> Tensor:
    """Write (R, 1) values, in place, to each RoI's own column of (R, columns), where it has one."""
    own = own_column(gt_classes, columns)
    has_own = (gt_classes < columns.shape[1])[:, None]
    return columns.scatter_(1, own, torch.where(has_own, values, columns.gather(1, own)))


def softplus(logits: Tensor) -> Tensor:
    """log(1 + e^z) without a gradient; as PyTorch's, whose CPU code is ten times slower."""
    # max(z, 0) + log(1 + e^-|z|), and 1 / (1 + e^-|z|) is the sigmoid of |z|.
    return logits.clamp(min=0).sub_(logits.abs().sigmoid_().log_())
