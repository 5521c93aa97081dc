"""How much each class is pushed up and down in training: sums of gradients with respect to the logits."""

import torch
from torch import Tensor

from eql_d2.losses.row_blocks import row_blocks


class GradientSums:
    """Collects each class's positive and negative gradients of whatever loss is trained.

    A RoI's gradient with respect to the logit of its own class is a positive one, those with respect to the logits of
    other classes are negative; their absolute values are summed. The unit is that of one RoI: the losses are means
    over R RoIs, which is undone.

    Args:
        class_columns: (K,) column of the logits that belongs to each class.
    """

    def __init__(self, class_columns: Tensor) -> None:
        self._columns = class_columns
        num_classes = len(class_columns)
        self._recent = class_columns.new_zeros((2, num_classes), dtype=torch.float32)
        self.loss_scale: Tensor | None = None
        """What mixed precision multiplies the loss by in this step; None is 1."""

    def watch(self, logits: Tensor, gt_classes: Tensor) -> None:
        """Add the gradients of these logits once the backward pass computes them.

        Args:
            logits: (R, num_logits), part of a graph.
            gt_classes: (R,) in [0, K]; K is background.
        """
        logits.register_hook(lambda grad: self._add(grad, gt_classes))

    @torch.no_grad()
    def _add(self, grad: Tensor, gt_classes: Tensor) -> None:
        num_classes = len(self._columns)
        is_foreground = (gt_classes < num_classes)[:, None]
        own_column = self._columns[gt_classes.clamp(max=num_classes - 1)][:, None]
        own = grad.gather(1, own_column).abs().float().masked_fill_(~is_foreground, 0)
        positive = own.new_zeros(grad.shape[1]).index_add_(0, own_column.squeeze(1), own.squeeze(1))
        total = sum(block.abs().sum(dim=0, dtype=torch.float32) for (block,) in row_blocks(grad))
        sums = torch.stack([positive, total - positive])[:, self._columns] * len(gt_classes)
        if self.loss_scale is not None:
            sums = sums / self.loss_scale
        # A step whose mixed precision overflows is skipped, and not counted.
        self._recent += torch.where(sums.isfinite().all(), sums, 0)

    @property
    def recent(self) -> Tensor:
        """(2, K) float32 of this process since the last :meth:`take_recent`."""
        return self._recent

    @recent.setter
    def recent(self, sums: Tensor) -> None:
        self._recent = sums.to(self._recent)

    def take_recent(self) -> Tensor:
        """(2, K) float32 of this process since the last call."""
        recent = self._recent
        self._recent = torch.zeros_like(recent)
        return recent
