"""Equilibrium loss (EBL) of LOCE: Feng et al., ICCV 2021, arXiv 2108.07507."""

import torch
import torch.nn.functional as F
from torch import Tensor

from eql_d2.losses.cross_entropy import SoftmaxCrossEntropy
from eql_d2.losses.distributed import sum_over_processes
from eql_d2.losses.row_blocks import row_blocks, sum_over_rows
from eql_d2.losses.stateful import StatefulLoss


class EquilibriumLoss(StatefulLoss, SoftmaxCrossEntropy):
    """Softmax cross-entropy whose terms are multiplied by each class's mean score.

    The mean score m_c is what the model gives to class c on its own instances, a moving average over the training. The
    loss is the cross-entropy of z + log m (m a constant to the gradient), averaged over RoIs: a class with low scores
    is pushed less by others, and one with high scores more.

    Before the loss, in training mode, the scores of this step enter m: the RoIs of one object are averaged first, then
    the e_c objects of class c of all processes, and m_c = α^e_c m_c + (1 - α^e_c) mean. It starts at 0.01; background's
    is fixed. LOCE's other half, a memory of features, is not here: it needs more than logits.

    Args:
        num_classes: number K of foreground classes.
        alpha: α in [0, 1], what stays of m after one object.
        background_score: background's mean score, above 0 and at most 1.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = EquilibriumLoss(num_classes=1)
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))["loss_cls"].item()  # of 0.01 and, now, of 0.059: a score of 0.5
        0.156...
        >>> loss.mean_score.tolist()
        [0.059..., 0.00999...]
    """

    mean_score: Tensor

    def __init__(self, num_classes: int, alpha: float = 0.9, background_score: float = 0.01) -> None:
        super().__init__(num_classes)
        self.register_state((num_classes + 1,), mean_score=0.01)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}; it must lie between 0 and 1.")
        if not 0 < background_score <= 1:
            raise ValueError(f"background_score is {background_score}; it must be above 0 and at most 1.")
        self.alpha = alpha
        self.background_score = background_score

    def compute(self, logits: Tensor, gt_classes: Tensor, gt_instances: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the loss.

        Args:
            logits: (R, K + 1).
            gt_classes: (R,) in [0, K].
            gt_instances: (R,) int64 number of each RoI's object over the mini-batch of this process, -1 for
                background; None takes each RoI for an object of its own.

        Returns:
            ``{"loss_cls": scalar}``.
        """
        if self.training:
            self._collect(logits.detach(), gt_classes, gt_instances)
        # Taken now: a later step must not reach this step's backward pass. A mean that underflows to 0 stays finite.
        log_scores = self.mean_score.to(logits.dtype).clamp(min=torch.finfo(torch.float32).tiny).log()

        def function(z: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(z + log_scores, y, reduction="sum")

        return {"loss_cls": sum_over_rows(function, logits, gt_classes) / max(len(gt_classes), 1)}

    @torch.no_grad()
    def _collect(self, logits: Tensor, gt_classes: Tensor, gt_instances: Tensor | None) -> None:
        scores = (z.gather(1, y[:, None]).squeeze(1) - z.logsumexp(dim=1) for z, y in row_blocks(logits, gt_classes))
        own = torch.cat(list(scores)).exp()
        numbers, sums = _objects_of_classes(own, gt_classes, gt_instances, self.num_classes)
        objects = sum_over_processes(torch.stack([numbers, sums]).to(self.mean_score.dtype))
        # A step with NaN logits is left out, on all processes.
        numbers, sums = torch.where(objects.isfinite().all(), objects, 0)
        kept = self.alpha**numbers
        scores = kept * self.mean_score[:-1] + (1 - kept) * sums / numbers.clamp(min=1)
        self.mean_score = F.pad(scores, (0, 1), value=self.background_score)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha={self.alpha}, background_score={self.background_score}"


def _objects_of_classes(
    values: Tensor, gt_classes: Tensor, gt_instances: Tensor | None, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Of each class the number of its objects, and the sum over them of the mean value of an object's RoIs; (K,) both.

    Args:
        values: (R,).
        gt_classes: (R,) in [0, K].
        gt_instances: (R,) or None, as in :meth:`EquilibriumLoss.compute`.
        num_classes: K.
    """
    weights = torch.ones_like(values)
    if gt_instances is not None:
        # An object's RoIs weigh 1 together. Sorted, each object is a run; none of this waits for a GPU.
        is_background = gt_classes == num_classes
        objects = gt_instances.masked_fill(is_background, torch.iinfo(torch.int64).min)
        ordered, order = objects.sort(stable=True)
        run = F.pad((ordered[1:] != ordered[:-1]).long(), (1, 0))[: len(ordered)].cumsum(0)
        length = torch.zeros_like(values).index_add_(0, run, weights)[run]
        weights = torch.empty_like(values).scatter_(0, order, 1 / length)
    of_class = values.new_zeros(2, num_classes + 1)
    of_class.index_add_(1, gt_classes, torch.stack([weights, weights * values]))
    numbers, sums = of_class[:, :-1]
    return numbers.round(), sums
