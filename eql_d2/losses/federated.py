"""Federated losses: Zhou et al., "Probabilistic two-stage detection", arXiv 2103.07461; sigmoids, and a softmax."""

import torch
import torch.nn.functional as F
from torch import Tensor

from eql_d2.losses.base import class_statistics
from eql_d2.losses.cross_entropy import SoftmaxCrossEntropy
from eql_d2.losses.row_blocks import sum_over_rows
from eql_d2.losses.sigmoid import SigmoidLoss, weighted_sigmoid_sum


class FederatedLoss(SigmoidLoss):
    """Sigmoid cross-entropy over the classes of the mini-batch and a sample of the others.

    In each step the classes of this process's RoIs are in use. Where they are fewer than ``fed_loss_num_classes``,
    others are drawn up to that number, without replacement, with probabilities proportional to their number of
    images to the power ``fed_loss_freq_weight_power``. All other classes are left out for every RoI of the step.
    As in Detectron2's ``USE_FED_LOSS``, background, where it is present, counts as one of the
    ``fed_loss_num_classes``, and the sum is divided by the number of RoIs.

    A class of no image is never drawn; with too few classes to draw from, all of them are in use. In evaluation
    mode nothing is drawn: all classes are in use.

    Args:
        num_classes: number K of foreground classes.
        image_frequencies: (K,) share of the training images that hold each class, or their number: at least 0.
        fed_loss_num_classes: number of classes in use at least, above 0.
        fed_loss_freq_weight_power: power of the frequency in the drawing, at least 0; 0 draws uniformly.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = FederatedLoss(num_classes=4, image_frequencies=[0.5, 0.1, 0.01, 0.0], fed_loss_num_classes=2)
        >>> loss(torch.zeros(1, 4), torch.tensor([0]))["loss_cls"].item()  # its own class and one drawn: 2 log 2
        1.386...
    """

    sampling_weights: Tensor

    def __init__(
        self,
        num_classes: int,
        image_frequencies: Tensor,
        fed_loss_num_classes: int = 50,
        fed_loss_freq_weight_power: float = 0.5,
    ) -> None:
        super().__init__(num_classes)
        if fed_loss_num_classes < 1:
            raise ValueError(f"fed_loss_num_classes is {fed_loss_num_classes}; it must be at least 1.")
        if fed_loss_freq_weight_power < 0:
            raise ValueError(f"fed_loss_freq_weight_power is {fed_loss_freq_weight_power}; it must not be negative.")
        self.fed_loss_num_classes = fed_loss_num_classes
        self.fed_loss_freq_weight_power = fed_loss_freq_weight_power
        frequencies = class_statistics("image_frequencies", image_frequencies, num_classes)
        weights = _sampling_weights(frequencies, fed_loss_freq_weight_power)
        self.register_buffer("sampling_weights", weights, persistent=False)

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        if self.training:
            in_use = self.choose_classes(gt_classes).to(logits.dtype)
        else:
            in_use = logits.new_ones(self.num_classes)
        summed = weighted_sigmoid_sum(logits, gt_classes, in_use, lambda classes: in_use)
        return {"loss_cls": summed / max(len(gt_classes), 1)}

    @torch.no_grad()
    def choose_classes(self, gt_classes: Tensor) -> Tensor:
        """Draw the classes in use: (R,) classes to (K,) bool."""
        return _draw_classes(gt_classes, self.sampling_weights, self.fed_loss_num_classes)

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, fed_loss_num_classes={self.fed_loss_num_classes}, "
            f"fed_loss_freq_weight_power={self.fed_loss_freq_weight_power}"
        )


class FederatedSoftmaxLoss(SoftmaxCrossEntropy):
    """Softmax cross-entropy over background, the classes of the mini-batch and a sample of the others.

    The classes in use are drawn as in :class:`FederatedLoss`; all others are left out of the denominator of every
    RoI of the step, so that they get no gradient. Background is always in it. The loss is averaged over RoIs. In
    evaluation mode all classes are in use.

    The federated softmax of Detic's code (``detic_fast_rcnn.py``) gives the classes in use to ``F.cross_entropy`` as
    weights, which weigh RoIs by their own class. That is always in use, so that it is plain cross-entropy.

    Args:
        num_classes: number K of foreground classes.
        image_counts: (K,) number of training images that hold each class, at least 0.
        num_sampled: number of classes in use at least, above 0; background, where it is present, counts as one.
        power: power of the image count in the drawing, at least 0; 0 draws uniformly.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = FederatedSoftmaxLoss(num_classes=9, image_counts=[1] * 9, num_sampled=3)
        >>> loss(torch.zeros(1, 10), torch.tensor([0]))["loss_cls"].item()  # three of the classes and background: log 4
        1.386...
    """

    sampling_weights: Tensor

    def __init__(self, num_classes: int, image_counts: Tensor, num_sampled: int = 50, power: float = 0.5) -> None:
        super().__init__(num_classes)
        if num_sampled < 1:
            raise ValueError(f"num_sampled is {num_sampled}; it must be at least 1.")
        if power < 0:
            raise ValueError(f"power is {power}; it must not be negative.")
        self.num_sampled = num_sampled
        self.power = power
        weights = _sampling_weights(class_statistics("image_counts", image_counts, num_classes), power)
        self.register_buffer("sampling_weights", weights, persistent=False)

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        if not self.training:
            return super().compute(logits, gt_classes)
        left_out = F.pad(~self.choose_classes(gt_classes), (0, 1), value=False)

        def function(z: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(z.masked_fill(left_out, -torch.inf), y, reduction="sum")

        return {"loss_cls": sum_over_rows(function, logits, gt_classes) / max(len(gt_classes), 1)}

    @torch.no_grad()
    def choose_classes(self, gt_classes: Tensor) -> Tensor:
        """Draw the classes in use: (R,) classes to (K,) bool."""
        return _draw_classes(gt_classes, self.sampling_weights, self.num_sampled)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_sampled={self.num_sampled}, power={self.power}"


def _sampling_weights(frequencies: Tensor, power: float) -> Tensor:
    """(K,) float32 weights in the drawing, from (K,) float64 frequencies or counts."""
    # Relative to the largest, so that no power overflows; 0 to the power 0 would be 1.
    relative = frequencies / frequencies.max().clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(frequencies > 0, relative**power, 0.0).float()


def _draw_classes(gt_classes: Tensor, weights: Tensor, number: int) -> Tensor:
    """(K,) bool: the classes of (R,) ``gt_classes``, and others by their (K,) weights up to ``number`` of all."""
    present = torch.zeros(len(weights) + 1, dtype=torch.bool, device=gt_classes.device)
    present.index_fill_(0, gt_classes, True)
    missing = number - present.sum()
    present = present[:-1]
    # An exponential race: the first arrivals are a weighted sample without replacement. Weight 0 never arrives.
    arrival = torch.empty_like(weights).exponential_() / weights
    arrival = arrival.masked_fill(present, torch.inf)
    rank = arrival.argsort().argsort()
    return present | ((rank < missing) & arrival.isfinite())
