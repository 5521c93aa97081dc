"""Thresholds that follow from category counts: EQL's λ by its tail ratio, and BAGS' bins."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # see counts.py
    from torch import Tensor


def tail_ratio(lambda_: float, image_counts: "Tensor", num_images: int) -> float:
    """Share of all class images that belong to tail classes: TR(λ) = Σ T(f_j) N_j / Σ N_j.

    Args:
        lambda_: tail threshold on the image frequency.
        image_counts: (K,) number of training images of each class.
        num_images: number of training images.

    Returns:
        A number in [0, 1] (paper, equation 6).
    """
    import torch

    counts = torch.as_tensor(image_counts, dtype=torch.float64)
    return float(counts[counts / num_images < lambda_].sum() / counts.sum())


def lambda_for_tail_ratio(ratio: float, image_counts: "Tensor", num_images: int) -> float:
    """The inverse of :func:`tail_ratio`: the smallest tail whose share reaches ``ratio``.

    λ is put midway between the tail's largest image frequency and the next larger one, so that no class
    sits on the threshold.

    Args:
        ratio: wanted tail ratio in (0, 1).
        image_counts: (K,) number of training images of each class.
        num_images: number of training images.

    Returns:
        λ with ``tail_ratio(λ) >= ratio``, minimal in the set of classes that it takes.

    Raises:
        ValueError: ``ratio`` is outside (0, 1).
    """
    import torch

    if not 0 < ratio < 1:
        raise ValueError(f"The tail ratio is {ratio}; it must lie strictly between 0 and 1.")
    counts, classes = torch.unique(torch.as_tensor(image_counts, dtype=torch.float64), return_counts=True)
    share = (counts * classes).cumsum(0) / (counts * classes).sum()
    last = int(torch.searchsorted(share, ratio).clamp(max=len(counts) - 1))
    following = counts[last + 1] if last + 1 < len(counts) else counts[last] + 1
    return float((counts[last] + following) / 2 / num_images)


def quantile_bin_edges(instance_counts: Sequence[int], num_groups: int) -> tuple[int, ...]:
    """Edges for :class:`BalancedGroupSoftmax` that part the classes into groups of about the same size.

    Args:
        instance_counts: number of training instances of each class.
        num_groups: number of groups wanted, at least 1.

    Returns:
        At most ``num_groups - 1`` ascending edges: the quantiles of the counts, without those that many classes of
        equal count make the same, or that leave a group empty.
    """
    counts = sorted(instance_counts)
    edges = {counts[len(counts) * group // num_groups] for group in range(1, num_groups)}
    return tuple(sorted(edge for edge in edges if edge > counts[0]))
