"""Trends over classes: a smooth mean, and how far the seeds of a run are from it."""

import numpy as np

WIDTH_OF_RANKS = 1 / 16  # of the number of classes
WIDTH_OF_COUNTS = 0.16  # decades of training images


def smooth_mean(x: np.ndarray, y: np.ndarray, at: np.ndarray, width: float) -> np.ndarray:
    """Mean of values weighted by a Gaussian of their distance (Nadaraya, 1964; Watson, 1964).

    Args:
        x: (n,) places of the values.
        y: (n,) values; NaN where there is none.
        at: (m,) places of the mean.
        width: standard deviation of the Gaussian, in units of x.

    Returns:
        (m,), NaN where no value is within three widths.
    """
    known = ~np.isnan(y)
    distances = (at[:, None] - x[known][None, :]) / width
    weights = np.exp(-0.5 * distances**2) * (np.abs(distances) <= 3)
    with np.errstate(invalid="ignore"):
        return (weights @ y[known]) / weights.sum(axis=1)


def trend_with_band(x: np.ndarray, of_seeds: np.ndarray, at: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """The smooth mean of each seed's values, over the seeds: mean and standard deviation.

    Args:
        x: (n,) places.
        of_seeds: (S, n) values.
        at: (m,) places of the trend.
        width: as of :func:`smooth_mean`.

    Returns:
        (m,) mean, and (m,) standard deviation, 0 of a single seed.
    """
    curves = np.array([smooth_mean(x, values, at, width) for values in of_seeds])
    if len(curves) == 1:
        return curves[0], np.zeros(len(at))
    return curves.mean(axis=0), curves.std(axis=0, ddof=1)
