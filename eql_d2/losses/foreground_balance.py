"""Foreground classification balance loss (FCBL) of BACL: Qi et al., TMM 2023, arXiv 2308.02213."""

import torch
import torch.nn.functional as F
from torch import Tensor

from eql_d2.losses.distributed import sum_over_processes
from eql_d2.losses.row_blocks import row_blocks, sum_over_rows
from eql_d2.losses.sigmoid import SigmoidLoss, gated_scores, weighted_sigmoid_sum
from eql_d2.losses.stateful import StatefulLoss

SMALLEST = 1e-3


class ForegroundBalanceLoss(StatefulLoss, SigmoidLoss):
    """Sigmoid cross-entropy with a margin between each pair of classes, by how often they are confused.

    With M_ij the mean probability that RoIs of class i have given to class j, a softmax over the K classes, the logit
    of class j on a RoI of class i is shifted by d_ij = α log(M_ij / M_ji), each M at least 0.001; background's column
    and background RoIs have no shift. The loss is Σ_j w_ij BCE(z_ij + d_ij, y_ij) over K + 1 columns, averaged over
    RoIs. With ``reweight`` the weight w of a foreground RoI's negative is 1 only if the class scores at least as much
    as the RoI's own, or at least ``threshold``.

    M is collected over all steps before the present one and over all processes; it is never forgotten. BACL's other
    half, features drawn for rare classes, is not here: it needs more than logits.

    Args:
        num_classes: number K of foreground classes. The state has K x K numbers.
        alpha: α, strength of the margins, at least 0; 0.85 in the authors' configs.
        threshold: score in (0, 1) from which on every negative counts.
        reweight: False gives all terms the weight 1.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = ForegroundBalanceLoss(num_classes=2)
        >>> loss(torch.zeros(1, 3), torch.tensor([0]))["loss_cls"].item()  # at first plain: 3 log 2
        2.079...
        >>> loss.confusion.tolist()
        [[0.5, 0.5], [0.0, 0.0]]
    """

    confusion: Tensor
    class_rows: Tensor

    def __init__(self, num_classes: int, alpha: float = 0.85, threshold: float = 0.7, reweight: bool = True) -> None:
        super().__init__(num_classes, num_logits=num_classes + 1)
        self.register_state((num_classes, num_classes), confusion=0.0)
        self.register_state(class_rows=0.0)
        if alpha < 0:
            raise ValueError(f"alpha is {alpha}; it must not be negative.")
        if not 0 < threshold < 1:
            raise ValueError(f"threshold is {threshold}; it must lie strictly between 0 and 1.")
        self.alpha = alpha
        self.threshold = threshold
        self.reweight = reweight

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        margins, one = F.pad(self.margins(logits.dtype), (0, 1, 0, 1)), logits.new_ones(self.num_logits)

        def function(z: Tensor, y: Tensor) -> Tensor:
            shifted = z + margins[y]
            weights = self._negative_weights(z.detach(), y) if self.reweight else torch.ones_like(z)
            return weighted_sigmoid_sum(shifted, y, one, lambda classes, weights: weights, weights)

        summed = sum_over_rows(function, logits, gt_classes)
        if self.training:
            self._collect(logits.detach(), gt_classes)
        return {"loss_cls": summed / max(len(gt_classes), 1)}

    def margins(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """(K, K) present margins d_ij, of a RoI of class i (row) for the logit of class j."""
        means = self.confusion.to(dtype) / self.class_rows.to(dtype)[:, None].clamp(min=1)
        logs = means.clamp_(min=SMALLEST).log_()
        return self.alpha * (logs - logs.T)

    def _negative_weights(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """(rows, K + 1) weights, 1 or 0."""
        scores = gated_scores(logits)
        counts = (scores >= scores.gather(1, gt_classes[:, None])) | (scores >= self.threshold)
        counts |= (gt_classes == self.num_classes)[:, None]
        counts[:, -1] = True
        return counts.to(logits.dtype)

    @torch.no_grad()
    def _collect(self, logits: Tensor, gt_classes: Tensor) -> None:
        # The last column counts the RoIs, the last row is background's; one collective for both.
        increments = self.confusion.new_zeros(self.num_classes + 1, self.num_classes + 1)
        for z, y in row_blocks(logits, gt_classes):
            probabilities = F.pad(z[:, :-1].softmax(dim=1), (0, 1), value=1.0)
            increments.index_add_(0, y, probabilities.to(increments.dtype))
        increments = sum_over_processes(increments[:-1].contiguous())
        # A step with NaN logits is left out, on all processes.
        increments = torch.where(increments.isfinite().all(), increments, 0)
        self.confusion += increments[:, :-1]
        self.class_rows += increments[:, -1]

    def scores(self, logits: Tensor) -> Tensor:
        return gated_scores(logits)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha={self.alpha}, threshold={self.threshold}, reweight={self.reweight}"
