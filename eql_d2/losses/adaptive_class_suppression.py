"""Adaptive Class Suppression Loss (ACSL): Wang et al., CVPR 2021, arXiv 2104.00885."""

import torch
import torch.nn.functional as F
from torch import Tensor

from eql_d2.long_tail import LVIS_THRESHOLDS
from eql_d2.losses.base import at_least_float32, class_statistics
from eql_d2.losses.row_blocks import sum_over_rows
from eql_d2.losses.sigmoid import SigmoidLoss, weighted_sigmoid_sum


class AdaptiveClassSuppressionLoss(SigmoidLoss):
    """Sigmoid cross-entropy in which a class suppresses only classes that it is confused with.

    The K + 1 columns are the classes and background; the loss is Σ_c W_ic BCE(z_ic, y_ic), averaged over RoIs:

    - foreground RoI: W = 1 for its own class, and for every other column whose score is at least ``threshold``;
    - background RoI: W = 1 for background and the frequent classes. In each step a share of the background RoIs, drawn
      without replacement, has W = 1 for the common classes too, and another share for the rare ones. The number drawn
      is rounded down, so that rare classes need 100 background RoIs to get a negative.

    The scores are σ(z), not damped by background. Rare are classes of at most 10 training images, common of at most
    100. In evaluation mode nothing is drawn: every background RoI counts for all classes.

    Args:
        num_classes: number K of foreground classes.
        image_counts: (K,) number of training images that hold each class, at least 0.
        threshold: score in (0, 1) from which on a foreground RoI suppresses a class.
        common_share: share in [0, 1] of the background RoIs that suppress common classes.
        rare_share: likewise of rare classes.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = AdaptiveClassSuppressionLoss(num_classes=3, image_counts=[5, 50, 500])
        >>> loss(torch.zeros(1, 4), torch.tensor([0]))["loss_cls"].item()  # the own class alone: no other scores 0.7
        0.693...
    """

    is_rare: Tensor
    is_common: Tensor

    def __init__(
        self,
        num_classes: int,
        image_counts: Tensor,
        threshold: float = 0.7,
        common_share: float = 0.1,
        rare_share: float = 0.01,
    ) -> None:
        super().__init__(num_classes, num_logits=num_classes + 1)
        if not 0 < threshold < 1:
            raise ValueError(f"threshold is {threshold}; it must lie strictly between 0 and 1.")
        for name, value in (("common_share", common_share), ("rare_share", rare_share)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must lie between 0 and 1.")
        self.threshold = threshold
        self.common_share = common_share
        self.rare_share = rare_share
        counts = F.pad(class_statistics("image_counts", image_counts, num_classes), (0, 1), value=torch.inf)
        is_rare = counts <= LVIS_THRESHOLDS.rare_max
        self.register_buffer("is_rare", is_rare, persistent=False)
        self.register_buffer("is_common", ~is_rare & (counts <= LVIS_THRESHOLDS.common_max), persistent=False)

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        one = logits.new_ones(self.num_logits)

        def function(z: Tensor, y: Tensor, of_common: Tensor, of_rare: Tensor) -> Tensor:
            of_background = torch.where(self.is_rare, of_rare[:, None], True)
            of_background = torch.where(self.is_common, of_common[:, None], of_background)
            is_background = (y == self.num_classes)[:, None]
            weights = torch.where(is_background, of_background, z.detach().sigmoid() >= self.threshold).to(z.dtype)
            return weighted_sigmoid_sum(z, y, one, lambda classes, weights: weights, weights)

        summed = sum_over_rows(function, logits, gt_classes, *self.choose_background(gt_classes))
        return {"loss_cls": summed / max(len(gt_classes), 1)}

    @torch.no_grad()
    def choose_background(self, gt_classes: Tensor) -> tuple[Tensor, Tensor]:
        """Draw which background RoIs suppress common and rare classes: (R,) classes to (R,) bool for each."""
        is_background = gt_classes == self.num_classes
        if not self.training:
            return is_background, is_background
        number = is_background.sum().double()
        return _draw_rows(is_background, number * self.common_share), _draw_rows(
            is_background, number * self.rare_share
        )

    def scores(self, logits: Tensor) -> Tensor:
        return at_least_float32(logits).sigmoid()

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, threshold={self.threshold}, common_share={self.common_share}, "
            f"rare_share={self.rare_share}"
        )


def _draw_rows(candidates: Tensor, number: Tensor) -> Tensor:
    """(R,) bool with exactly floor(number) of the candidates (R,) bool."""
    keys = torch.rand(len(candidates), device=candidates.device).masked_fill_(~candidates, torch.inf)
    return candidates & (keys.argsort().argsort() < number.floor())
