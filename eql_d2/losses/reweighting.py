"""Softmax cross-entropy with a weight for each class: by effective numbers, by inverse frequency, and DisAlign's."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from eql_d2.losses.base import class_statistics
from eql_d2.losses.cross_entropy import SoftmaxCrossEntropy
from eql_d2.losses.row_blocks import sum_over_rows


class ReweightedSoftmaxCrossEntropy(SoftmaxCrossEntropy):
    """Softmax cross-entropy over K + 1 logits, each RoI weighted by its class; background weighs 1.

    The raw weights are divided by their mean over the classes, then clipped (both as in the comparisons of Balanced
    Group Softmax's code). A class without instances weighs as one with a single instance and has no part in the
    mean, so it changes no other class's weight. The sum is divided by the number of RoIs, not by the sum of
    their weights. The weights follow from the data set, so they are not stored in checkpoints.

    Args:
        num_classes: number K of foreground classes.
        instance_counts: (K,) number of training instances of each class, at least 0.
        weight_range: smallest and largest weight of a foreground class.
        has_background: False is image classification, with K logits.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.
    """

    class_weights: Tensor

    def __init__(
        self,
        num_classes: int,
        instance_counts: Tensor,
        weight_range: tuple[float, float],
        has_background: bool = True,
    ) -> None:
        super().__init__(num_classes, has_background)
        counts = class_statistics("instance_counts", instance_counts, num_classes)
        if len(weight_range) != 2 or not 0 <= weight_range[0] <= weight_range[1]:
            raise ValueError(
                f"weight_range is {tuple(weight_range)}; it must be the smallest and the largest weight, at least 0."
            )
        raw = self.raw_weights(counts.clamp(min=1))
        occurring = counts > 0
        mean = raw[occurring].mean() if occurring.any() else raw.mean()
        weights = (raw / mean).clamp(*weight_range)
        self.weight_range = tuple(weight_range)
        weights = F.pad(weights, (0, int(has_background)), value=1.0)
        self.register_buffer("class_weights", weights.float(), persistent=False)

    def raw_weights(self, counts: Tensor) -> Tensor:
        """Weights up to a common factor, from (K,) float64 counts of at least 1."""
        raise NotImplementedError

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        weighted = partial(F.cross_entropy, weight=self.class_weights.to(logits.dtype), reduction="sum")
        return {"loss_cls": sum_over_rows(weighted, logits, gt_classes) / max(len(gt_classes), 1)}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, weight_range={self.weight_range}"


class ClassBalancedLoss(ReweightedSoftmaxCrossEntropy):
    """Class-balanced softmax cross-entropy: Cui et al., CVPR 2019, arXiv 1901.05555.

    A class with n instances weighs ``(1 - β) / (1 - β^n)``, the inverse of its effective number of samples (paper,
    equation 3), before the normalisation that :class:`ReweightedSoftmaxCrossEntropy` states.

    Args:
        num_classes: number K of foreground classes.
        instance_counts: (K,) number of training instances of each class, at least 0.
        beta: in [0, 1); 0 weighs all classes the same, near 1 the weights near the inverse frequency.
        weight_range: smallest and largest weight of a foreground class.
        has_background: False is image classification, with K logits.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = ClassBalancedLoss(num_classes=2, instance_counts=[1, 1000], beta=0.9)
        >>> [round(weight, 3) for weight in loss.class_weights.tolist()]  # background weighs 1
        [1.818, 0.182, 1.0]
    """

    def __init__(
        self,
        num_classes: int,
        instance_counts: Tensor,
        beta: float = 0.999,
        weight_range: tuple[float, float] = (0.1, 5.0),
        has_background: bool = True,
    ) -> None:
        self.beta = checked_beta(beta)
        super().__init__(num_classes, instance_counts, weight_range, has_background)

    def raw_weights(self, counts: Tensor) -> Tensor:
        return inverse_effective_numbers(counts, self.beta)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, beta={self.beta}"


class InverseFrequencyLoss(ReweightedSoftmaxCrossEntropy):
    """Softmax cross-entropy re-weighted by the inverse class frequency, or by a power of it.

    A class with n instances weighs ``n^-power`` before the normalisation that :class:`ReweightedSoftmaxCrossEntropy`
    states. Power 1 is the re-weighting of Balanced Group Softmax's comparison (Li et al., CVPR 2020, table 1),
    power 0.5 its usual milder form by the square root, power 0 plain cross-entropy.

    Args:
        num_classes: number K of foreground classes.
        instance_counts: (K,) number of training instances of each class, at least 0.
        power: of the inverse frequency, at least 0.
        weight_range: smallest and largest weight of a foreground class.
        has_background: False is image classification, with K logits.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = InverseFrequencyLoss(num_classes=2, instance_counts=[1, 4], power=0.5)
        >>> [round(weight, 3) for weight in loss.class_weights.tolist()]  # 1 and 1/2, divided by their mean
        [1.333, 0.667, 1.0]
    """

    def __init__(
        self,
        num_classes: int,
        instance_counts: Tensor,
        power: float = 1.0,
        weight_range: tuple[float, float] = (0.1, 5.0),
        has_background: bool = True,
    ) -> None:
        if power < 0:
            raise ValueError(f"power is {power}; it must not be negative.")
        self.power = power
        super().__init__(num_classes, instance_counts, weight_range, has_background)

    def raw_weights(self, counts: Tensor) -> Tensor:
        return counts**-self.power

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, power={self.power}"


class GroupReweightedCrossEntropy(SoftmaxCrossEntropy):
    """DisAlign's generalized re-weighting (GRW): Zhang et al., CVPR 2021, arXiv 2103.16370.

    Softmax cross-entropy over K + 1 logits in which class c weighs n_c^-ρ, divided by the mean of these weights over
    the classes, and background 1. The sum is divided by the sum of the RoIs' weights, as in the first code, and not by
    their number. A class without instances weighs as one with a single instance and has no part in the mean.

    Args:
        num_classes: number K of foreground classes.
        instance_counts: (K,) number of training instances of each class, at least 0.
        rho: ρ, at least 0; 0 is plain softmax cross-entropy.
        has_background: False is image classification, with K logits.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = GroupReweightedCrossEntropy(num_classes=2, instance_counts=[1, 3], rho=1.0)
        >>> loss.class_weights.tolist()  # inverse to the counts, of mean 1; background 1
        [1.5, 0.5, 1.0]
    """

    class_weights: Tensor

    def __init__(
        self, num_classes: int, instance_counts: Tensor, rho: float = 0.8, has_background: bool = True
    ) -> None:
        super().__init__(num_classes, has_background)
        if rho < 0:
            raise ValueError(f"rho is {rho}; it must not be negative.")
        self.rho = rho
        counts = class_statistics("instance_counts", instance_counts, num_classes)
        raw = counts.clamp(min=1) ** -rho
        mean = raw[counts > 0].mean() if bool((counts > 0).any()) else raw.mean()
        weights = F.pad(raw / mean, (0, int(has_background)), value=1.0)
        self.register_buffer("class_weights", weights, persistent=False)

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        weights = self.class_weights.to(logits.dtype)
        summed = sum_over_rows(partial(F.cross_entropy, weight=weights, reduction="sum"), logits, gt_classes)
        return {"loss_cls": summed / weights[gt_classes].sum().clamp(min=torch.finfo(logits.dtype).tiny)}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rho={self.rho}"


def inverse_effective_numbers(counts: Tensor, beta: float) -> Tensor:
    """(1 - β) / (1 - β^n) of counts n of at least 1: Cui et al., CVPR 2019, equation 3."""
    return (1 - beta) / (1 - beta**counts)


def checked_beta(beta: float) -> float:
    """β of the effective number of samples.

    Raises:
        ValueError: it is outside [0, 1).
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta is {beta}; it must be at least 0 and below 1.")
    return beta
