"""Effective Class-Margin loss (ECM): Cho and Krähenbühl, ECCV 2022, arXiv 2301.09724."""

import torch
from torch import Tensor

from eql_d2.losses.base import class_statistics
from eql_d2.losses.row_blocks import sum_over_rows
from eql_d2.losses.sigmoid import SigmoidLoss, gated_scores, weighted_sigmoid_sum


class EffectiveClassMarginLoss(SigmoidLoss):
    """Sigmoid cross-entropy with a margin between each class and the rest that follows from their numbers.

    With n_c the instances of class c and n those of all, background among them, the loss of RoI i is
    Σ_c w_c BCE(x_ic, y_ic), averaged over RoIs, where

    - x_ic = 2 z_ic + log(n_c / (n - n_c)) / 4 is the first code's form of the margins;
    - w_c = a log((1 + a) / a) with a = (n - n_c) / n_c, which is near 1 for rare classes.

    The K + 1 columns are the classes and background, whose n is ``background_ratio`` times that of the classes. The
    scores are of z itself: σ(z_c) (1 - σ(z_K)). A class without instances counts as one with a single instance. The
    margins and weights follow from the data set, so they are not stored in checkpoints.

    Args:
        num_classes: number K of foreground classes.
        instance_counts: (K,) number of training instances of each class, at least 0.
        background_ratio: background for each foreground instance, above 0; 6.3313 was measured by the authors on
            Mask R-CNN's RoIs.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = EffectiveClassMarginLoss(num_classes=2, instance_counts=[1, 1], background_ratio=1.0)
        >>> loss.margins.tolist()  # a quarter of the log odds: 1 to 3, 1 to 3, and 2 to 2 of background
        [-0.274..., -0.274..., -0.0]
    """

    margins: Tensor
    class_weights: Tensor

    def __init__(self, num_classes: int, instance_counts: Tensor, background_ratio: float = 6.3313) -> None:
        super().__init__(num_classes, num_logits=num_classes + 1)
        if background_ratio <= 0:
            raise ValueError(f"background_ratio is {background_ratio}; it must be above 0.")
        self.background_ratio = background_ratio
        counts = class_statistics("instance_counts", instance_counts, num_classes).clamp(min=1)
        counts = torch.cat([counts, background_ratio * counts.sum()[None]])
        odds_against = (counts.sum() - counts) / counts
        self.register_buffer("margins", (-odds_against.log() / 4), persistent=False)
        # log1p: log((1 + a) / a) in float32 is off by percents for rare classes, in the first code too.
        self.register_buffer("class_weights", odds_against * torch.log1p(1 / odds_against), persistent=False)

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        margins, weights = self.margins.to(logits.dtype), self.class_weights.to(logits.dtype)

        def function(z: Tensor, y: Tensor) -> Tensor:
            return weighted_sigmoid_sum(2 * z + margins, y, weights, lambda classes: weights)

        return {"loss_cls": sum_over_rows(function, logits, gt_classes) / max(len(gt_classes), 1)}

    def scores(self, logits: Tensor) -> Tensor:
        return gated_scores(logits)

    def initial_bias(self, prior_prob: float = 0.001) -> Tensor:
        """Zeros, as in the first code: the margins hold what is known beforehand."""
        return torch.zeros(self.num_logits)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, background_ratio={self.background_ratio}"
