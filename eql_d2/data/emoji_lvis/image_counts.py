"""Image counts of a generated set: LVIS's long tail, scaled to a set of any size."""

import numpy as np

from eql_d2.long_tail import LVIS_THRESHOLDS, lvis_train_image_counts

# A class in exactly 100 images has f = 100 / num_images = lambda, which is not *below* lambda, so EQL's
# strict `f < lambda` would miss it. Generated counts leave 100 out: common ends at 99 and frequent starts at
# 101.
MAX_COMMON_COUNT = LVIS_THRESHOLDS.common_max - 1
MIN_FREQUENT_COUNT = LVIS_THRESHOLDS.common_max + 1


def plan_image_counts(num_classes: int, num_images: int, max_class_share: float) -> np.ndarray:
    """Train image counts of `num_classes` classes, ascending: quantiles of the LVIS v1 train curve.

    Rare and common counts are LVIS's own. Frequent counts are LVIS's own where they fit; where the set is too
    small for its largest class, they are compressed on a log scale into [101, max_class_share * num_images].

    Args:
        num_classes: 3 to 1203.
        num_images: train images.
        max_class_share: largest share of the images that one class may appear in, in (0, 1].

    Raises:
        ValueError: the set has too few images for a class of 101 images, or `num_classes` is out of range.
    """
    lvis_counts = np.array(lvis_train_image_counts())
    if not 3 <= num_classes <= len(lvis_counts):
        raise ValueError(f"num_classes is {num_classes}; choose 3 (one per frequency group) to {len(lvis_counts)}.")
    largest_allowed = int(max_class_share * num_images)
    if largest_allowed < MIN_FREQUENT_COUNT:
        needed = int(np.ceil(MIN_FREQUENT_COUNT / max_class_share))
        raise ValueError(
            f"{num_images} train images hold no frequent class (101 images or more) at max_class_share "
            f"{max_class_share:g}; use at least {needed} train images or a larger share."
        )

    quantiles = (np.arange(num_classes) + 0.5) / num_classes
    counts = lvis_counts[(quantiles * len(lvis_counts)).astype(int)]
    frequent = counts > LVIS_THRESHOLDS.common_max
    counts[~frequent] = np.minimum(counts[~frequent], MAX_COMMON_COUNT)
    counts[frequent] = _compress(counts[frequent], MIN_FREQUENT_COUNT, largest_allowed)
    return counts


def _compress(counts: np.ndarray, lowest: int, highest: int) -> np.ndarray:
    """Map ascending counts linearly on a log scale so that they end at `highest`, if they end above it."""
    if counts[-1] <= highest:
        return counts
    position = np.log(counts / lowest) / np.log(counts[-1] / lowest)
    compressed = lowest * np.exp(position * np.log(highest / lowest))
    return np.clip(np.round(compressed).astype(int), lowest, highest)
