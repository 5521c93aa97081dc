"""Balanced Group Softmax (BAGS): Li et al., CVPR 2020, arXiv 2006.10408."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from eql_d2.losses.base import ClassificationLoss, at_least_float32, class_statistics
from eql_d2.losses.row_blocks import Workspace, sum_by_formula


class BalancedGroupSoftmax(ClassificationLoss):
    """One softmax for each group of classes with similarly many training instances, and one for background.

    Each group has an "others" logit, the target of all RoIs outside the group (the paper's Balanced GroupSoftmax).
    A class group trains on all its RoIs and on a random choice of ``others_ratio`` times as many others, background
    RoIs among them; without a RoI of its own it trains on none. The last group, foreground against background,
    uses every RoI. Each group's sum is divided by its number of RoIs in use; the groups are added.

    Layout of the K + 1 + G logits, G groups: group after group in ascending number of instances, each [others,
    its classes in ascending id]; last [others, background], where others is any foreground. The grouping follows
    from the data set, so it is not stored in checkpoints.

    Image classification (``has_background=False``) is without that last group: K + G logits, and a class's score is
    its probability in its group.

    Args:
        num_classes: number K of foreground classes.
        instance_counts: (K,) number of training instances of each class.
        bin_edges: n ascending counts that part the classes into n + 1 groups; a class with as many instances
            as an edge is in the upper group.
        others_ratio: others used in a class group for each RoI of the group, at least 0.
        has_background: False is image classification.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = BalancedGroupSoftmax(num_classes=3, instance_counts=[5, 50, 500], bin_edges=(10, 100))
        >>> loss.num_logits  # three groups of a class, and background's, with "others" in each
        8
        >>> loss.scores(torch.zeros(1, 8)).tolist()
        [[0.25, 0.25, 0.25, 0.5]]
    """

    group_of_class: Tensor
    logit_of_class: Tensor
    target_logit: Tensor

    def __init__(
        self,
        num_classes: int,
        instance_counts: Tensor,
        bin_edges: Sequence[float] = (10, 100, 1000),
        others_ratio: float = 8.0,
        has_background: bool = True,
    ) -> None:
        num_groups = len(bin_edges) + 1
        num_logits = num_classes + num_groups + (2 if has_background else 0)
        super().__init__(num_classes, num_logits, has_background)
        edges = torch.as_tensor(bin_edges, dtype=torch.float64)
        if bool((edges.diff() <= 0).any()):
            raise ValueError(f"bin_edges is {tuple(bin_edges)}; each edge must be above the one before.")
        if others_ratio < 0:
            raise ValueError(f"others_ratio is {others_ratio}; it must not be negative.")
        counts = class_statistics("instance_counts", instance_counts, num_classes)
        self.others_ratio = others_ratio

        # Background is a class of the last group here; a stable sort keeps the ids ascending.
        group_of_class = torch.bucketize(counts, edges, right=True)
        if has_background:
            group_of_class = torch.cat([group_of_class, group_of_class.new_full((1,), num_groups)])
        group_sizes = torch.bincount(group_of_class, minlength=num_groups) + 1
        self.group_sizes = group_sizes.tolist()
        if 1 in self.group_sizes:
            warnings.warn(
                f"No class has its number of instances in group {self.group_sizes.index(1)} of bin_edges "
                f"{tuple(bin_edges)}; the group has a logit that is never used."
            )
        others_logit = group_sizes.cumsum(0) - group_sizes
        order = group_of_class.argsort(stable=True)
        logit_of_class = torch.empty_like(order)
        logit_of_class[order] = torch.arange(len(order)) + group_of_class[order] + 1
        target_logit = others_logit.repeat(len(order), 1)
        target_logit.scatter_(1, group_of_class[:, None], logit_of_class[:, None])
        self.register_buffer("group_of_class", group_of_class, persistent=False)
        self.register_buffer("logit_of_class", logit_of_class, persistent=False)
        self.register_buffer("target_logit", target_logit, persistent=False)

    @property
    def class_columns(self) -> Tensor:
        return self.logit_of_class[: self.num_classes]

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        in_use = self.choose_rois(gt_classes).to(logits.dtype)
        weights = in_use / in_use.sum(dim=0).clamp(min=1)
        if torch.compiler.is_compiling():
            return {"loss_cls": self._sum(logits, gt_classes, weights)}
        return {"loss_cls": sum_by_formula(self._sum_by_formula, logits, gt_classes, weights)}

    def _sum(self, logits: Tensor, gt_classes: Tensor, weights: Tensor) -> Tensor:
        """Sum over groups and RoIs of the group's softmax cross-entropy by its weight (R, G)."""
        parts = logits.split(self.group_sizes, dim=1)
        log_probabilities = torch.cat([part.log_softmax(dim=1) for part in parts], dim=1)
        return -(log_probabilities.gather(1, self.target_logit[gt_classes]) * weights).sum()

    def _sum_by_formula(
        self, shared: Workspace, grad: Tensor | None, logits: Tensor, gt_classes: Tensor, weights: Tensor
    ) -> Tensor:
        """As :meth:`_sum`, with the gradient to ``grad``: the softmax less 1 at the target, by the weight."""
        grad = shared.like("exponentials", logits) if grad is None else grad
        targets = self.target_logit[gt_classes]
        # Only differences to the largest logit: e^z cannot overflow, and log Σ e^z keeps its digits.
        of_parts = zip(
            *(columns.split(self.group_sizes, dim=1) for columns in (logits, grad)),
            weights.split(1, dim=1),
            strict=True,
        )
        normalizers = []
        for part, grad_part, weight in of_parts:
            largest = part.amax(dim=1, keepdim=True)
            exponentials = torch.sub(part, largest, out=grad_part).exp_()
            total = exponentials.sum(dim=1, keepdim=True)
            exponentials.mul_(weight / total)
            normalizers.append(largest + total.log())
        costs = torch.cat(normalizers, dim=1) - logits.gather(1, targets)
        grad.scatter_add_(1, targets, -weights)
        return (costs * weights).sum()

    @torch.no_grad()
    def choose_rois(self, gt_classes: Tensor) -> Tensor:
        """Draw which RoIs each group trains on: (R,) classes to (R, G) bool."""
        groups = torch.arange(len(self.group_sizes) - self.has_background, device=gt_classes.device)
        in_group = self.group_of_class[gt_classes][:, None] == groups
        # In float64, as Python's int(ratio * count) is.
        num_others = (in_group.sum(dim=0).double() * self.others_ratio).floor()
        # Ranks of random keys give the exact number, which independent draws would not.
        keys = torch.rand(in_group.shape, device=gt_classes.device).masked_fill_(in_group, torch.inf)
        ranks = keys.argsort(dim=0).argsort(dim=0)
        in_use = in_group | (ranks < num_others)
        if not self.has_background:
            return in_use
        return torch.cat([in_use, torch.ones_like(in_group[:, :1])], dim=1)

    def scores(self, logits: Tensor) -> Tensor:
        parts = at_least_float32(logits).split(self.group_sizes, dim=1)
        probabilities = torch.cat([part.softmax(dim=1) for part in parts], dim=1)
        classes = probabilities.index_select(1, self.class_columns)
        if not self.has_background:
            return classes
        foreground, background = probabilities[:, -2:].split(1, dim=1)
        return torch.cat([classes * foreground, background], dim=1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, group_sizes={self.group_sizes}, others_ratio={self.others_ratio}"
