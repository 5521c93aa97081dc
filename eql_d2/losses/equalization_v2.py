"""Equalization Loss v2 (EQLv2): Tan et al., CVPR 2021, arXiv 2012.08548."""

import torch
import torch.nn.functional as F
from torch import Tensor

from eql_d2.losses.distributed import sum_over_processes
from eql_d2.losses.sigmoid import SigmoidLoss, gated_scores, own_column, set_own_column, weighted_sigmoid_sum
from eql_d2.losses.stateful import StatefulLoss


class EqualizationLossV2(StatefulLoss, SigmoidLoss):
    """Sigmoid cross-entropy that balances each class's positive and negative gradients over the training.

    With g the ratio of a class's accumulated positive to negative gradients and f(g) = σ(γ (g - μ)), its
    negatives weigh r = f(g) and its positives q = 1 + α (1 - f(g)): the paper's gradient-guided reweighing. g starts
    at 100, so the first step is plain cross-entropy. The gradients are those of this step's loss, weights
    included, summed over the RoIs of all processes; background RoIs count as negatives of every class.

    The last of the K + 1 logits is the category-agnostic task: its positives are the background RoIs (as in the
    first code; the paper says foreground), its weight is 1, and its sigmoid damps all class scores.

    Args:
        num_classes: number K of foreground classes.
        alpha: positives weigh up to 1 + alpha; at least 0.
        gamma: steepness of f; above 0.
        mu: gradient ratio at which f is 1/2.
        objectness: False leaves the category-agnostic task out: K logits, and a background score of 0.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = EqualizationLossV2(num_classes=3)
        >>> loss(torch.zeros(2, loss.num_logits), torch.tensor([0, 3]))["loss_cls"].item()  # at first plain: 4 log 2
        2.772...
        >>> loss.pos_neg_ratio.round(decimals=2).tolist()  # one positive and one negative of the first class so far
        [1.0, 0.0, 0.0]
    """

    pos_grad: Tensor
    neg_grad: Tensor
    pos_neg_ratio: Tensor

    def __init__(
        self, num_classes: int, alpha: float = 4.0, gamma: float = 12.0, mu: float = 0.8, objectness: bool = True
    ) -> None:
        super().__init__(num_classes, num_logits=num_classes + objectness)
        self.register_state(pos_grad=0.0, neg_grad=0.0, pos_neg_ratio=100.0)
        if alpha < 0:
            raise ValueError(f"alpha is {alpha}; it must not be negative.")
        if gamma <= 0:
            raise ValueError(f"gamma is {gamma}; it must be above 0.")
        self.alpha = alpha
        self.gamma = gamma
        self.mu = mu
        self.objectness = objectness

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        positive, negative = self.class_weights(logits.dtype)
        size = max(len(gt_classes), 1)
        collected = None
        if self.training and not torch.compiler.is_compiling():
            collected = torch.zeros_like(negative)  # where the loss passes by each gradient anyway
        summed = weighted_sigmoid_sum(
            logits, gt_classes, positive / size, lambda classes: negative / size, negative_gradients=collected
        )
        if self.training:
            of_positives = self._sum_positives(logits.detach(), gt_classes) * positive
            of_negatives = (
                self._sum_negatives(logits.detach(), gt_classes) * negative if collected is None else collected * size
            )
            self._collect(torch.stack([of_positives, of_negatives]))
        return {"loss_cls": summed}

    def class_weights(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Weights of positives and of negatives by the present gradient ratios, (num_logits,) each; 1 of objectness."""
        mapped = torch.sigmoid(self.gamma * (self.pos_neg_ratio.to(dtype) - self.mu))
        negative = F.pad(mapped, (0, self.num_logits - self.num_classes), value=1.0)
        return 1 + self.alpha * (1 - negative), negative

    @staticmethod
    def _sum_positives(logits: Tensor, gt_classes: Tensor) -> Tensor:
        """(num_logits,) sums over RoIs of |σ(z) - y| over positives."""
        own = own_column(gt_classes, logits)
        # σ(-z) is 1 - σ(z) with all its digits.
        of_own = torch.sigmoid(-logits.gather(1, own)).masked_fill_((gt_classes >= logits.shape[1])[:, None], 0)
        return logits.new_zeros(logits.shape[1]).index_add_(0, own.squeeze(1), of_own.squeeze(1))

    @staticmethod
    def _sum_negatives(logits: Tensor, gt_classes: Tensor) -> Tensor:
        """(num_logits,) sums over RoIs of |σ(z) - y| over negatives."""
        return set_own_column(logits.sigmoid(), gt_classes, 0.0).sum(dim=0)

    @torch.no_grad()
    def _collect(self, increments: Tensor) -> None:
        increments = sum_over_processes(increments[:, : self.num_classes].contiguous())
        # A step with NaN or infinite logits is left out, on all processes: its sums would never get well again.
        positive, negative = torch.where(increments.isfinite().all(), increments, 0)
        self.pos_grad += positive
        self.neg_grad += negative
        # A new tensor: of one changed in place, torch.compile's backward pass may read the later values
        # (pytorch/pytorch#197039).
        self.pos_neg_ratio = self.pos_grad / (self.neg_grad + 1e-10)

    def scores(self, logits: Tensor) -> Tensor:
        if not self.objectness:
            return super().scores(logits)
        return gated_scores(logits)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha={self.alpha}, gamma={self.gamma}, mu={self.mu}"
