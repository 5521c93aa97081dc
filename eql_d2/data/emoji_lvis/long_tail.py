"""LVIS's long tail, measured on the real LVIS v1 train set and scaled to a set of any size."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import orjson

from eql_d2.errors import UserError

METADATA_DIR = Path(__file__).resolve().parents[3] / "datasets" / "metadata"

# LVIS's own thresholds, in train images that hold the class.
RARE_MAX = 10
COMMON_MAX = 100

# A class in exactly 100 images has f = 100 / num_images = lambda, which is not *below* lambda, so EQL's
# strict `f < lambda` would miss it. Generated counts leave 100 out: common ends at 99 and frequent starts at
# 101.
MAX_COMMON_COUNT = COMMON_MAX - 1
MIN_FREQUENT_COUNT = COMMON_MAX + 1


@functools.lru_cache
def load_lvis_train_counts(version: str = "v1") -> tuple[int, ...]:
    """Image counts of every class of an LVIS train set, ascending.

    Args:
        version: "v1" (1203 classes) or "v0.5" (1230 classes).

    Raises:
        UserError: the metadata file is not in the checkout.
    """
    path = METADATA_DIR / f"lvis_{version}_train_category_counts.json"
    if not path.is_file():
        raise UserError(f"{path} is missing; it comes with the repository (datasets/metadata).")
    categories = orjson.loads(path.read_bytes())["categories"]
    return tuple(sorted(category["image_count"] for category in categories))


def frequency_letter(image_count: int) -> str:
    """LVIS's frequency group of a class: "r" (at most 10 train images), "c" (at most 100) or "f"."""
    if image_count <= RARE_MAX:
        return "r"
    return "c" if image_count <= COMMON_MAX else "f"


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
    lvis_counts = np.array(load_lvis_train_counts("v1"))
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
    frequent = counts > COMMON_MAX
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
