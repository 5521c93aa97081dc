"""Softmax Equalization Loss (SEQL): Tan et al., CVPR 2020, arXiv 2003.05176, section 5."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from eql_d2.losses.base import ClassificationLoss, at_least_float32, class_statistics
from eql_d2.losses.equalization import step_threshold
from eql_d2.losses.random_choice import RandomChoice
from eql_d2.losses.row_blocks import Workspace, softmax_costs, sum_by_formula


class SoftmaxEqualizationLoss(ClassificationLoss):
    """Softmax cross-entropy for image classification that at random drops tail classes from the denominator.

    The term of class k in the denominator weighs 1 - β T(f_k) (1 - y_k) with β ~ Bernoulli(γ), drawn for each
    sample and class, and T(f) = 1 where f < λ. In evaluation mode nothing is dropped.

    There is no background: K logits, labels in [0, K), scores (R, K).

    Args:
        num_classes: number K of classes.
        class_frequencies: (K,) frequency of each class in training, at least 0: a share or a count.
        lambda_: tail threshold, at least 0, in the unit of ``class_frequencies``.
        gamma: probability in [0, 1] that a tail class is dropped.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = SoftmaxEqualizationLoss(3, class_frequencies=[0.7, 0.299, 0.001], lambda_=0.01, gamma=1.0)
        >>> loss(torch.zeros(1, 3), torch.tensor([0]))["loss_cls"].item()  # the tail class is left out: log 2
        0.693...
    """

    has_background = False

    is_tail: Tensor

    def __init__(self, num_classes: int, class_frequencies: Tensor, lambda_: float, gamma: float = 0.9) -> None:
        super().__init__(num_classes, num_logits=num_classes)
        frequencies = class_statistics("class_frequencies", class_frequencies, num_classes)
        if lambda_ < 0:
            raise ValueError(f"lambda_ is {lambda_}; it must not be negative.")
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma is {gamma}; it must lie between 0 and 1.")
        self.lambda_ = lambda_
        self.gamma = gamma
        self.register_buffer("is_tail", step_threshold(frequencies, lambda_).bool(), persistent=False)

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        if torch.compiler.is_compiling():
            summed = self._compiled_sum(logits, gt_classes)
        else:
            choice = RandomChoice(logits.device) if self.training else None
            function = partial(self._sum_by_formula, choice=choice)
            summed = sum_by_formula(function, logits, gt_classes, torch.arange(len(gt_classes)))
        return {"loss_cls": summed / max(len(gt_classes), 1)}

    def _compiled_sum(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        if self.training:
            drawn = torch.empty(logits.shape, dtype=torch.bool, device=logits.device).bernoulli_(self.gamma)
            dropped = drawn.logical_and_(self.is_tail).scatter_(1, gt_classes[:, None], False)
            logits = logits.masked_fill(dropped, -torch.inf)
        return F.cross_entropy(logits, gt_classes, reduction="sum")

    def _sum_by_formula(
        self,
        shared: Workspace,
        grad: Tensor | None,
        logits: Tensor,
        gt_classes: Tensor,
        rows: Tensor,
        choice: RandomChoice | None,
    ) -> Tensor:
        """Of a block: a softmax whose dropped terms are 0."""
        if choice is None:
            return softmax_costs(grad, logits, gt_classes)
        dropped = choice.draw(rows, self.num_classes, self.gamma * self.is_tail)
        return softmax_costs(grad, logits, gt_classes, dropped.scatter_(1, gt_classes[:, None], 0.0))

    def scores(self, logits: Tensor) -> Tensor:
        """Softmax of (R, K) logits: (R, K) scores, without a column for background."""
        return at_least_float32(logits).softmax(dim=1)

    def extra_repr(self) -> str:
        tail = int(self.is_tail.sum())
        return f"{super().extra_repr()}, lambda_={self.lambda_}, gamma={self.gamma}, tail_classes={tail}"
