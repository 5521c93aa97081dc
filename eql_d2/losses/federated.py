"""Federated loss: Zhou et al., "Probabilistic two-stage detection", arXiv 2103.07461."""

import torch
from torch import Tensor

from eql_d2.losses.base import class_statistics
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
        frequencies = class_statistics("image_frequencies", image_frequencies, num_classes)
        if fed_loss_num_classes < 1:
            raise ValueError(f"fed_loss_num_classes is {fed_loss_num_classes}; it must be at least 1.")
        if fed_loss_freq_weight_power < 0:
            raise ValueError(f"fed_loss_freq_weight_power is {fed_loss_freq_weight_power}; it must not be negative.")
        self.fed_loss_num_classes = fed_loss_num_classes
        self.fed_loss_freq_weight_power = fed_loss_freq_weight_power
        # Relative to the largest, so that no power overflows; 0 to the power 0 would be 1.
        relative = frequencies / frequencies.max().clamp(min=torch.finfo(torch.float64).tiny)
        weights = torch.where(frequencies > 0, relative**fed_loss_freq_weight_power, 0.0)
        self.register_buffer("sampling_weights", weights.float(), persistent=False)

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
        present = torch.zeros(self.num_classes + 1, dtype=torch.bool, device=gt_classes.device)
        present.index_fill_(0, gt_classes, True)
        number = self.fed_loss_num_classes - present.sum()
        present = present[:-1]
        # An exponential race: the first arrivals are a weighted sample without replacement. Weight 0 never arrives.
        arrival = torch.empty_like(self.sampling_weights).exponential_() / self.sampling_weights
        arrival = arrival.masked_fill(present, torch.inf)
        rank = arrival.argsort().argsort()
        return present | ((rank < number) & arrival.isfinite())

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, fed_loss_num_classes={self.fed_loss_num_classes}, "
            f"fed_loss_freq_weight_power={self.fed_loss_freq_weight_power}"
        )
