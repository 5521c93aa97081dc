"""Box-counting dimension of where in the images the boxes of a class lie: what FRACAL makes use of.

Alexandridis et al., "Fractal Calibration for long-tailed object detection", CVPR 2025, arXiv 2410.11774.
"""

import numpy as np
from numpy.typing import ArrayLike

LARGEST_GRID = 64
SMALLEST_NUMBER = 4


def fractal_dimension(centres: ArrayLike) -> float:
    """Box-counting dimension of points: how fully they spread over the image.

    For d = 1 to 64 with d² at most n, the cells of a d x d grid that hold a point are counted; the dimension is the
    slope of the logarithm of that number against log d, by least squares, and at least 1.

    Args:
        centres: (n, 2) x and y relative to the image's size; what is outside [0, 1) is in no cell, but counts in n.

    Returns:
        A number from 1 to 2; 1 of fewer than 4 points.
    """
    points = np.asarray(centres, dtype=np.float64).reshape(-1, 2)
    return float(dimensions_of_classes(points, np.zeros(len(points), np.int64), 1)[0])


def dimensions_of_classes(centres: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """:func:`fractal_dimension` of each class.

    Args:
        centres: (n, 2) float64.
        classes: (n,) int64 in [0, K).
        num_classes: K.

    Returns:
        (K,) float64.
    """
    numbers = np.bincount(classes, minlength=num_classes)
    sizes = np.arange(1, LARGEST_GRID + 1)
    used = sizes**2 <= numbers[:, None]
    occupied = np.ones((num_classes, LARGEST_GRID))
    for size in sizes[: used.any(axis=0).sum()].tolist():
        # The borders as the first code computes them, which is not floor(x d) to the last bit.
        borders = np.arange(size + 1) * (1 / size)
        cells = np.searchsorted(borders, centres, side="right") - 1
        inside = ((cells >= 0) & (cells < size)).all(axis=1)
        held = np.zeros((num_classes, size * size), bool)
        held[classes[inside], cells[inside, 1] * size + cells[inside, 0]] = True
        occupied[:, size - 1] = held.sum(axis=1)
    x, y = np.log(sizes), np.log(np.maximum(occupied, 1))
    mean_x, mean_y = (_mean(values, used)[:, None] for values in (np.broadcast_to(x, used.shape), y))
    covariance = _mean((x - mean_x) * (y - mean_y), used)
    slopes = covariance / np.maximum(_mean((x - mean_x) ** 2, used), np.finfo(np.float64).tiny)
    return np.where(numbers < SMALLEST_NUMBER, 1.0, np.maximum(slopes, 1.0))


def _mean(values: np.ndarray, used: np.ndarray) -> np.ndarray:
    return np.where(used, values, 0).sum(axis=1) / np.maximum(used.sum(axis=1), 1)
