"""Long-tailed training sets cut from balanced ones."""

import numpy as np

from eql_d2.errors import UserError


def exponential_profile(largest: int, num_classes: int, imbalance: float) -> np.ndarray:
    """Images of each class: n_j = n_max · IF^(−j / (K − 1)), rounded down (Cui et al., CVPR 2019, section 5.1).

    With n_max = 500 and K = 100 these are the published counts of CIFAR-100-LT.

    Args:
        largest: n_max, images of class 0.
        num_classes: K, at least 2.
        imbalance: IF, at least 1: n_max divided by the number of images of the last class.

    Returns:
        (K,) int64, descending.
    """
    shares = float(imbalance) ** (-np.arange(num_classes) / (num_classes - 1))
    # What is a whole number should not be rounded down for the last bit of a power.
    return np.floor(np.round(largest * shares, 6)).astype(np.int64)


def long_tailed_indices(labels: np.ndarray, num_classes: int, imbalance: float, seed: int, source: str) -> np.ndarray:
    """Choose images so that the classes, in their order, have an exponential profile.

    n_max is the size of the smallest class, so that every class has enough.

    Args:
        labels: (N,) class of each image.
        num_classes: K.
        imbalance: IF.
        seed: of the draw. A class's images for one imbalance are among those for a smaller one.
        source: the dataset's name, for messages.

    Returns:
        Ascending indices into ``labels``.

    Raises:
        UserError: the imbalance is below 1, or leaves a class without images.
    """
    if imbalance < 1:
        raise UserError(f"Dataset {source} has an imbalance of {imbalance:g}; it must be at least 1.")
    sizes = np.bincount(labels, minlength=num_classes)
    profile = exponential_profile(int(sizes.min()), num_classes, imbalance)
    if not profile.all():
        raise UserError(
            f"Dataset {source}: an imbalance of {imbalance:g} leaves {(profile == 0).sum()} of {num_classes} classes "
            f"without images, for the smallest class has {sizes.min()}; use an imbalance of at most {sizes.min()}."
        )
    chosen = []
    for label, count in enumerate(profile):
        members = np.flatnonzero(labels == label)
        chosen.append(np.random.default_rng([seed, label]).permutation(members)[:count])
    return np.sort(np.concatenate(chosen))
