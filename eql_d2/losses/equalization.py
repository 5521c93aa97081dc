"""Equalization Loss (EQL): Tan et al., CVPR 2020, arXiv 2003.05176."""

from collections.abc import Callable

import torch
from torch import Tensor

from eql_d2.losses.activation import ActivatedLoss
from eql_d2.losses.base import class_statistics


class EqualizationLoss(ActivatedLoss):
    """Sigmoid cross-entropy that spares tail classes the negatives of other classes' foreground RoIs.

    The weight of class j for RoI i is ``1 - E(i) T(f_j) (1 - y_ij)`` (paper, equations 3 to 5), where E is 1
    for foreground RoIs and T is the tail membership of image frequency f. Background RoIs keep suppressing
    every class. The weights follow from the data set, so they are not stored in checkpoints.

    Args:
        num_classes: number K of foreground classes.
        image_frequencies: (K,) share in [0, 1] of the training images that hold each class.
        lambda_: tail threshold in [0, 1] on the image frequency; 0.00177 is LVIS v0.5's rare + common, and 0
            makes no class a tail class.
        threshold: form of T, a key of :data:`THRESHOLD_FUNCTIONS`.
        exclude_background: False is the ablation with E = 1 everywhere (paper, table 4).
        activation: "sigmoid" or "gumbel", see :class:`~eql_d2.losses.activation.ActivatedLoss`.
        tail_instances: number of training instances below which a class is tail, in place of ``lambda_``; 0 goes by
            ``lambda_``. EQLv2's code has 1652 for Open Images (configs/openimages/eql_r50_fpn_8x2_2x.py).
        instance_counts: (K,) number of training instances of each class; needed with ``tail_instances`` only.

    Raises:
        ValueError: an argument is out of its range, or missing; the sentence names it.

    Example:
        >>> loss = EqualizationLoss(num_classes=3, image_frequencies=[0.5, 0.1, 0.001])
        >>> loss.tail_weight.tolist()  # only the last class is below lambda_
        [0.0, 0.0, 1.0]
        >>> loss(torch.zeros(1, 3), torch.tensor([0]))["loss_cls"].item()  # it gets no negative of the first: 2 log 2
        1.386...
    """

    tail_weight: Tensor

    def __init__(
        self,
        num_classes: int,
        image_frequencies: Tensor,
        lambda_: float = 0.00177,
        threshold: str = "step",
        exclude_background: bool = True,
        activation: str = "sigmoid",
        tail_instances: int = 0,
        instance_counts: Tensor | None = None,
    ) -> None:
        super().__init__(num_classes, activation)
        if threshold not in THRESHOLD_FUNCTIONS:
            raise ValueError(f"threshold is {threshold!r}; it must be one of {', '.join(THRESHOLD_FUNCTIONS)}.")
        frequencies = checked_image_frequencies(image_frequencies, num_classes, lambda_)
        self.lambda_ = lambda_
        self.threshold = threshold
        self.exclude_background = exclude_background
        self.tail_instances = tail_instances
        if tail_instances:
            tail = self._rarer_than(tail_instances, instance_counts)
        else:
            tail = THRESHOLD_FUNCTIONS[threshold](frequencies, lambda_)
        self.register_buffer("tail_weight", tail.float(), persistent=False)

    def _rarer_than(self, tail_instances: int, instance_counts: Tensor | None) -> Tensor:
        """(K,) 1 for the classes of fewer instances, else 0."""
        if tail_instances < 0:
            raise ValueError(f"tail_instances is {tail_instances}; it must not be negative.")
        if self.threshold != "step":
            raise ValueError(f"tail_instances makes a step, but threshold is {self.threshold!r}; set one of the two.")
        if instance_counts is None:
            raise ValueError("tail_instances needs the instance_counts of the training data.")
        counts = class_statistics("instance_counts", instance_counts, self.num_classes)
        return (counts < tail_instances).to(counts.dtype)

    def compute(self, logits: Tensor, gt_classes: Tensor, verified_classes: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the loss.

        Args:
            logits: (R, K).
            gt_classes: (R,) in [0, K].
            verified_classes: (R, K) bool or None; True where the RoI's image is labelled as holding or not
                holding the class, which keeps weight 1 (paper, section 4.2).

        Returns:
            ``{"loss_cls": scalar}``.
        """
        one = torch.ones_like(self.tail_weight, dtype=logits.dtype) / max(len(gt_classes), 1)
        of_foreground = one * (1 - self.tail_weight.to(logits.dtype))
        of_either = torch.stack([of_foreground, one])

        def negative_weights(gt_classes: Tensor, verified_classes: Tensor | None = None) -> Tensor:
            weights = of_foreground[None]
            if self.exclude_background:
                weights = of_either.index_select(0, (gt_classes == self.num_classes).int())
            if verified_classes is not None:
                weights = torch.where(verified_classes, one, weights)
            return weights

        verified = () if verified_classes is None else (verified_classes,)
        return {"loss_cls": self.weighted_sum(logits, gt_classes, one, negative_weights, *verified)}

    def extra_repr(self) -> str:
        spared = int((self.tail_weight > 0.5).sum())
        limit = f"tail_instances={self.tail_instances}" if self.tail_instances else f"lambda_={self.lambda_}"
        return f"{super().extra_repr()}, {limit}, threshold={self.threshold}, tail_classes={spared}"


def checked_image_frequencies(image_frequencies: Tensor, num_classes: int, lambda_: float) -> Tensor:
    """Image frequencies as (K,) float64, checked together with the tail threshold that they are compared with.

    Raises:
        ValueError: one of them is out of its range; the sentence names it.
    """
    if not 0 <= lambda_ <= 1:
        raise ValueError(f"lambda_ is {lambda_}; it must lie between 0 and 1.")
    frequencies = class_statistics("image_frequencies", image_frequencies, num_classes)
    if bool((frequencies > 1).any()):
        raise ValueError("image_frequencies must lie between 0 and 1; divide image counts by the number of images.")
    return frequencies


def step_threshold(frequencies: Tensor, lambda_: float) -> Tensor:
    """T(f) = 1 where f < λ, strictly (paper, equation 4)."""
    return (frequencies < lambda_).to(frequencies.dtype)


def exponential_threshold(frequencies: Tensor, lambda_: float = 0.0, a: float = 400.0, n: float = 2.0) -> Tensor:
    """T(f) = 1 - (a f)^n clamped to [0, 1] (paper, section 4.4 and table 3); λ is not used."""
    return (1 - (a * frequencies) ** n).clamp(0, 1)


def gompertz_threshold(
    frequencies: Tensor, lambda_: float = 0.0, a: float = 1.0, b: float = 80.0, c: float = 3000.0
) -> Tensor:
    """T(f) = 1 - a exp(-b exp(-c f)) (paper, section 4.4 and table 3); λ is not used."""
    return 1 - a * torch.exp(-b * torch.exp(-c * frequencies))


THRESHOLD_FUNCTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "step": step_threshold,
    "exponential": exponential_threshold,
    "gompertz": gompertz_threshold,
}
