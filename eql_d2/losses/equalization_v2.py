"""Equalization Loss v2 (EQLv2): Tan et al., CVPR 2021, arXiv 2012.08548."""

import torch
import torch.nn.functional as F
from torch import Tensor

from eql_d2.losses.base import at_least_float32, foreground_one_hot, prior_bias
from eql_d2.losses.distributed import sum_over_processes
from eql_d2.losses.stateful import StatefulLoss


class EqualizationLossV2(StatefulLoss):
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

    Raises:
        ValueError: an argument is out of its range; the sentence names it.
    """

    pos_grad: Tensor
    neg_grad: Tensor
    pos_neg_ratio: Tensor

    def __init__(self, num_classes: int, alpha: float = 4.0, gamma: float = 12.0, mu: float = 0.8) -> None:
        initial_state = {"pos_grad": 0.0, "neg_grad": 0.0, "pos_neg_ratio": 100.0}
        super().__init__(num_classes, num_classes + 1, initial_state)
        if alpha < 0:
            raise ValueError(f"alpha is {alpha}; it must not be negative.")
        if gamma <= 0:
            raise ValueError(f"gamma is {gamma}; it must be above 0.")
        self.alpha = alpha
        self.gamma = gamma
        self.mu = mu

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        targets = foreground_one_hot(gt_classes, self.num_logits)  # background is a class like the others here
        positive, negative = self.class_weights(logits.dtype)
        weight = torch.where(targets, positive, negative)
        summed = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), weight, reduction="sum")
        if self.training:
            sums = self._sum_gradients(logits.detach(), gt_classes, targets)
            self._collect(sums * torch.stack([positive, negative]))
        return {"loss_cls": summed / max(len(gt_classes), 1)}

    def class_weights(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Weights of positives and of negatives by the present gradient ratios, (K + 1,) each; the last is 1."""
        mapped = torch.sigmoid(self.gamma * (self.pos_neg_ratio.to(dtype) - self.mu))
        negative = F.pad(mapped, (0, 1), value=1.0)
        return 1 + self.alpha * (1 - negative), negative

    @staticmethod
    def _sum_gradients(logits: Tensor, gt_classes: Tensor, targets: Tensor) -> Tensor:
        """(2, K + 1) sums over RoIs of |σ(z) - y| over positives and over negatives."""
        # σ(-z) is 1 - σ(z) with all its digits.
        of_positives = torch.sigmoid(-logits.gather(1, gt_classes[:, None]))
        of_negatives = torch.sigmoid(logits).masked_fill_(targets, 0)
        return torch.stack([(targets * of_positives).sum(dim=0), of_negatives.sum(dim=0)])

    @torch.no_grad()
    def _collect(self, increments: Tensor) -> None:
        positive, negative = sum_over_processes(increments[:, :-1].float().contiguous())
        self.pos_grad += positive
        self.neg_grad += negative
        self.pos_neg_ratio.copy_(self.pos_grad / (self.neg_grad + 1e-10))

    def scores(self, logits: Tensor) -> Tensor:
        probabilities = at_least_float32(logits).sigmoid()
        background = probabilities[:, -1:]
        return torch.cat([probabilities[:, :-1] * (1 - background), background], dim=1)

    def initial_bias(self, prior_prob: float = 0.001) -> Tensor:
        return torch.full((self.num_logits,), prior_bias(prior_prob))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha={self.alpha}, gamma={self.gamma}, mu={self.mu}"
