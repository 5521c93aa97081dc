"""Seesaw Loss: Wang et al., CVPR 2021, arXiv 2008.10032."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from eql_d2.losses.base import at_least_float32
from eql_d2.losses.distributed import sum_over_processes
from eql_d2.losses.row_blocks import Workspace, softmax_costs, sum_by_formula
from eql_d2.losses.stateful import StatefulLoss


class SeesawLoss(StatefulLoss):
    """Softmax cross-entropy whose negatives are scaled by class counts and by how wrong the prediction is.

    In the denominator of class i's softmax, the term of class j is multiplied by S_ij = M_ij C_ij (paper, section 3):
    mitigation M_ij = (N_j / N_i)^p for a class with fewer samples so far, compensation C_ij = (s_j / s_i)^q for a
    class with a higher score; 1 otherwise. Both are constants to the gradient. They are added to the logits as
    logarithms, which needs no power and cannot overflow. Samples are counted over all processes and
    include the present mini-batch.

    Logits: K classes, then foreground and background. The class term is over foreground RoIs, the objectness
    term over all; both are divided by the number of all RoIs.

    Without the objectness branch (the ablation of the paper's table 8) the logits are K classes and background, in
    one softmax over all RoIs; the factors act between foreground classes, and background suppresses all as usual.

    Image classification (``has_background=False``) is the class term alone, over K logits. The paper's best setting on
    ImageNet-LT is p = 0.8, q = 1 (tables 10 and 11).

    Args:
        num_classes: number K of foreground classes.
        p: strength of the mitigation, at least 0.
        q: strength of the compensation, at least 0.
        eps: smallest score of the true class in the compensation, in (0, 1).
        objectness: False is the ablation without the objectness branch.
        has_background: False is image classification, where there is no objectness branch either.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = SeesawLoss(num_classes=3)
        >>> {name: round(value.item(), 3) for name, value in loss(torch.zeros(2, 5), torch.tensor([0, 3])).items()}
        {'loss_cls': 0.549, 'loss_objectness': 0.693}
        >>> loss.cum_samples.tolist()
        [1.0, 0.0, 0.0]
    """

    cum_samples: Tensor

    def __init__(
        self,
        num_classes: int,
        p: float = 0.8,
        q: float = 2.0,
        eps: float = 1e-2,
        objectness: bool = True,
        has_background: bool = True,
    ) -> None:
        objectness = objectness and has_background
        super().__init__(num_classes, num_classes + has_background + objectness, has_background)
        self.register_state(cum_samples=0.0)
        for name, value in (("p", p), ("q", q)):
            if value < 0:
                raise ValueError(f"{name} is {value}; it must not be negative.")
        if not 0 < eps < 1:
            raise ValueError(f"eps is {eps}; it must lie strictly between 0 and 1.")
        self.p = p
        self.q = q
        self.eps = eps
        self.objectness = objectness

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        if self.training:
            self._count_samples(gt_classes)
        # Taken now: the counts of a later step must not reach this step's backward pass.
        log_counts = self.cum_samples.to(logits.dtype).clamp(min=1).log()
        if torch.compiler.is_compiling():
            function = self._sums if self.objectness else self._sums_without_objectness
            sums = function(logits, gt_classes, log_counts)
        else:
            columns = (self.num_classes, 2) if self.objectness else (logits.shape[1],)
            function = partial(self._sums_by_formula, log_counts=log_counts)
            sums = sum_by_formula(function, logits, gt_classes, columns=columns)
        return dict(zip(("loss_cls", "loss_objectness"), sums / max(len(gt_classes), 1), strict=False))

    def _sums(self, logits: Tensor, gt_classes: Tensor, log_counts: Tensor) -> Tensor:
        class_logits, objectness_logits = logits.split([self.num_classes, 2], dim=1)
        adjusted = class_logits + self._log_seesaw_factors(class_logits, gt_classes, log_counts)
        classes = F.cross_entropy(adjusted, gt_classes, ignore_index=self.num_classes, reduction="sum")
        is_background = (gt_classes == self.num_classes).long()
        return torch.stack([classes, F.cross_entropy(objectness_logits, is_background, reduction="sum")])

    def _sums_without_objectness(self, logits: Tensor, gt_classes: Tensor, log_counts: Tensor) -> Tensor:
        factors = self._log_seesaw_factors(logits[:, : self.num_classes], gt_classes, log_counts)
        factors = factors.masked_fill((gt_classes == self.num_classes)[:, None], 0)
        factors = F.pad(factors, (0, int(self.has_background)))
        return F.cross_entropy(logits + factors, gt_classes, reduction="sum")[None]

    def _sums_by_formula(
        self, shared: Workspace, grad: Tensor | None, logits: Tensor, gt_classes: Tensor, log_counts: Tensor
    ) -> Tensor:
        """Of a block, with the gradient to ``grad``: that of a softmax, the factors being constants."""
        if not self.objectness:
            factors = self._log_seesaw_factors(logits[:, : self.num_classes], gt_classes, log_counts)
            factors.masked_fill_((gt_classes == self.num_classes)[:, None], 0)
            adjusted = logits.clone()
            adjusted[:, : self.num_classes] += factors
            return softmax_costs(grad, adjusted, gt_classes)[None]
        class_logits, objectness_logits = logits.split([self.num_classes, 2], dim=1)
        of_classes, of_objectness = (None, None) if grad is None else grad.split([self.num_classes, 2], dim=1)
        rows = (gt_classes < self.num_classes).nonzero().squeeze(1)  # background RoIs have no class term
        own, chosen = gt_classes[rows], class_logits[rows]
        adjusted = self._log_seesaw_factors(chosen, own, log_counts).add_(chosen)
        classes = softmax_costs(None if grad is None else adjusted, adjusted, own)
        if of_classes is not None:
            of_classes.zero_().index_copy_(0, rows, adjusted)
        is_background = (gt_classes == self.num_classes).long()
        return torch.stack([classes, softmax_costs(of_objectness, objectness_logits, is_background)])

    @torch.no_grad()
    def _count_samples(self, gt_classes: Tensor) -> None:
        counts = self.cum_samples.new_zeros(self.num_classes + 1)
        counts.index_add_(0, gt_classes, counts.new_ones(len(gt_classes)))
        self.cum_samples += sum_over_processes(counts[:-1])

    @torch.no_grad()
    def _log_seesaw_factors(self, class_logits: Tensor, gt_classes: Tensor, log_counts: Tensor) -> Tensor:
        """(R, K) logarithms of S; 0 at the true class. Rows of background RoIs have no meaning."""
        own = gt_classes.clamp(max=self.num_classes - 1)[:, None]
        # In place where it can be: this is the hot path.
        log_scores = class_logits.log_softmax(dim=1)
        factors = log_scores.sub_(log_scores.gather(1, own).clamp_(min=math.log(self.eps))).clamp_(min=0).mul_(self.q)
        return factors.add_((log_counts - log_counts[own]).clamp_(max=0), alpha=self.p)

    def scores(self, logits: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        if not self.objectness:
            return logits.softmax(dim=1)
        class_logits, objectness_logits = logits.split([self.num_classes, 2], dim=1)
        foreground, background = objectness_logits.softmax(dim=1).split(1, dim=1)
        return torch.cat([class_logits.softmax(dim=1) * foreground, background], dim=1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p}, q={self.q}, eps={self.eps}"
