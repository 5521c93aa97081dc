"""Federated labels: in how many images a class is verified, in LVIS and in a set like it.

LVIS's images are labelled for few of its classes: those annotated in them, and those verified to be absent
(``neg_category_ids``). False positives of all other classes are not counted, which decides what a method gains there.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Counted in LVIS v0.5 val (its first 100 images, 1230 classes): classes verified to be absent from an image, and the
# share of the images from which a class of each group is. With the 2.99 annotated classes of an image 1.0 % of the
# class-image pairs are verified: 0.4 % of rare, 1.0 % of common and 1.9 % of frequent classes.
LVIS_NEGATIVES_PER_IMAGE = 9.42
LVIS_NEGATIVE_SHARES = {"r": 0.00355, "c": 0.00957, "f": 0.01079}


def negative_counts(frequencies: Sequence[str], num_images: int, negatives_per_image: float) -> np.ndarray:
    """In how many images each class is verified to be absent, with LVIS's ratios of rare, common and frequent classes.

    Args:
        frequencies: K letters r, c or f.
        num_images: of the split.
        negatives_per_image: classes verified to be absent from an image, in the mean.

    Returns:
        (K,) int64.
    """
    weights = np.array([LVIS_NEGATIVE_SHARES[letter] for letter in frequencies])
    wanted = negatives_per_image * num_images * weights / weights.sum()
    counts: np.ndarray = np.floor(wanted).astype(np.int64)
    missing = round(wanted.sum()) - counts.sum()
    counts[np.argsort(counts - wanted, kind="stable")[:missing]] += 1  # where most is cut off
    return counts


def check_negatives(
    frequencies: Sequence[str], presences: np.ndarray, num_images: int, negatives_per_image: float, split: str
) -> None:
    """Make sure that every class has images that are verified not to hold it, and enough of them to choose from.

    Args:
        frequencies: K letters r, c or f.
        presences: (K,) images that hold each class.
        num_images: of the split.
        negatives_per_image: as above.
        split: its name, for the sentence.

    Raises:
        ValueError: they have not; the sentence names the way out.
    """
    absent = len(frequencies) - presences.sum() / num_images
    if negatives_per_image > absent:
        raise ValueError(
            f"negatives_per_image is {negatives_per_image:g}, but of {len(frequencies)} classes only {absent:.1f} are "
            f"absent from a {split} image in the mean; use fewer."
        )
    counts = negative_counts(frequencies, num_images, negatives_per_image)
    if counts.min() < 1:
        raise ValueError(
            f"negatives_per_image {negatives_per_image:g} leaves a class without a {split} image that is verified not "
            f"to hold it; use more than {negatives_per_image:g}, or more {split} images."
        )
    short = int(np.argmax(counts - (num_images - presences)))
    if counts[short] > num_images - presences[short]:
        raise ValueError(
            f"negatives_per_image {negatives_per_image:g} means {counts[short]} {split} images without a class that "
            f"{num_images - presences[short]} of {num_images} images do not hold; use fewer."
        )


def verified_shares(content: dict[str, Any], frequencies: dict[int, str]) -> dict[str, float]:
    """Count how much of a federated annotation file is verified.

    Args:
        content: parsed annotation file in LVIS's format.
        frequencies: letter of each category id, of the training set.

    Returns:
        "all", "r", "c" and "f" → share in [0, 1] of the pairs of a class and an image in which the class is annotated
        or verified to be absent; NaN for a group without classes.
    """
    positives = {(record["image_id"], record["category_id"]) for record in content["annotations"]}
    negatives = {(image["id"], category) for image in content["images"] for category in image["neg_category_ids"]}
    verified = [frequencies[category] for _, category in positives | negatives]
    shares = {}
    for group in ("all", "r", "c", "f"):
        members = [letter for letter in frequencies.values() if group in ("all", letter)]
        pairs = len(members) * len(content["images"])
        shares[group] = sum(group in ("all", letter) for letter in verified) / pairs if pairs else float("nan")
    return shares
