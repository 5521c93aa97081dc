"""Numbers of a dataset's long tail: tail ratio, BAGS bins, groups."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from eql_d2.long_tail import CategoryCounts, lambda_for_tail_ratio, tail_ratio

PAPER_TAIL_RATIO = 0.0908
# λ that the methods' authors used, and where.
PAPER_LAMBDAS = (
    (0.0003, "Open Images", "EQL paper, Open Images Challenge 2019"),
    (0.0011, "LVIS v1", "EQLv2's code, LVIS v1.0"),
    (0.00177, "LVIS v0.5", "EQL's code, LVIS v0.5: rare + common there (the paper says 0.00176)"),
)


class TailRow(NamedTuple):
    """What a threshold λ makes of a dataset.

    Attributes:
        lambda_: tail threshold on the image frequency.
        origin: who uses it, or why.
        classes: number of classes in the tail.
        ratio: tail ratio in [0, 1].
        is_papers: whether it is an author's, not one made for this dataset.
    """

    lambda_: float
    origin: str
    classes: int
    ratio: float
    is_papers: bool


class Bin(NamedTuple):
    """A group of classes with similarly many instances.

    Attributes:
        label: the numbers of instances that belong to it.
        classes: number of classes.
        instances: of all of them.
    """

    label: str
    classes: int
    instances: int


def tail_curve(counts: CategoryCounts) -> tuple[np.ndarray, np.ndarray]:
    """TR(λ) where it rises: beyond each image frequency, up to the next one.

    Returns:
        (n,) ascending image frequencies of classes, and (n,) tail ratios in [0, 1] just above them.
    """
    image_counts = np.array(counts.image_counts)
    values, classes = np.unique(image_counts[image_counts > 0], return_counts=True)
    return values / counts.num_images, np.cumsum(values * classes) / image_counts.sum()


def tail_rows(counts: CategoryCounts) -> list[TailRow]:
    """The papers' λ and those that follow from the dataset, in ascending order."""
    image_counts = torch.tensor(counts.image_counts)
    own = lambda_for_tail_ratio(PAPER_TAIL_RATIO, image_counts, counts.num_images)
    candidates = [(value, origin, True) for value, _, origin in PAPER_LAMBDAS] + [
        ((counts.thresholds.rare_max + 0.5) / counts.num_images, "rare classes of this dataset", False),
        ((counts.thresholds.common_max + 0.5) / counts.num_images, "rare + common classes of this dataset", False),
        (own, f"tail ratio of at least {PAPER_TAIL_RATIO:.1%}, as in EQL on LVIS v0.5", False),
    ]
    return [
        TailRow(
            value,
            origin,
            int((counts.image_frequencies < value).sum()),
            tail_ratio(value, image_counts, counts.num_images),
            is_papers,
        )
        for value, origin, is_papers in sorted(candidates)
        if value <= 1  # in a small set, 100 images are all of them
    ]


def instance_bins(counts: CategoryCounts, edges: Sequence[int]) -> list[Bin]:
    """Classes by their number of instances, as BAGS groups them.

    Args:
        counts: of the dataset.
        edges: n ascending counts; a class with as many instances as an edge is in the upper bin.

    Returns:
        n + 1 bins.
    """
    instances = np.array(counts.instance_counts)
    bin_of = np.searchsorted(edges, instances, side="right")
    labels = [f"below {edges[0]}", *(f"{low} to {high - 1}" for low, high in pairwise(edges)), f"{edges[-1]} or more"]
    return [Bin(label, int((bin_of == i).sum()), int(instances[bin_of == i].sum())) for i, label in enumerate(labels)]


def by_frequency(counts: CategoryCounts) -> list[int]:
    """Contiguous classes that have images, the most frequent first."""
    columns = np.array([counts.image_counts, counts.instance_counts])
    order = np.lexsort((-columns[1], -columns[0]))
    return [index for index in order.tolist() if counts.image_counts[index]]
