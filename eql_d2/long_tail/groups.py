"""The frequency groups rare, common and frequent, by the number of training images that hold a class."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FrequencyThresholds:
    """Where rare ends and frequent begins.

    Args:
        rare_max: most training images of a rare class, at least 0.
        common_max: most training images of a common class, at least ``rare_max``.

    Raises:
        ValueError: the thresholds are out of order.
    """

    rare_max: int = 10
    common_max: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.rare_max <= self.common_max:
            raise ValueError(
                f"The frequency thresholds are {self.rare_max} and {self.common_max} images; they must be at least 0, "
                "the smaller first."
            )

    def letter(self, image_count: int) -> str:
        """The group of a class in ``image_count`` training images: "r" (rare), "c" (common) or "f" (frequent)."""
        if image_count <= self.rare_max:
            return "r"
        return "c" if image_count <= self.common_max else "f"


LVIS_THRESHOLDS = FrequencyThresholds()
"""LVIS's own: rare classes are in at most 10 training images, common ones in at most 100."""


def quantile_thresholds(image_counts: Sequence[int]) -> FrequencyThresholds:
    """Thresholds for a set: LVIS's if a class is rare by them, else those that part the classes into thirds.

    Args:
        image_counts: number of training images of each class, at least one.
    """
    if any(LVIS_THRESHOLDS.letter(count) == "r" for count in image_counts):
        return LVIS_THRESHOLDS
    ordered = sorted(image_counts)
    return FrequencyThresholds(*(ordered[max(len(ordered) * third // 3 - 1, 0)] for third in (1, 2)))
