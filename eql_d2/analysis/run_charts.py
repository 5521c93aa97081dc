"""How the figures of runs are drawn: numbers of classes, losses, threshold functions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes

from eql_d2.analysis.charts import Palette, plain_number
from eql_d2.analysis.dataset_pictures import GROUP_NAMES
from eql_d2.analysis.smooth_trend import WIDTH_OF_COUNTS, WIDTH_OF_RANKS, trend_with_band
from eql_d2.losses.equalization import THRESHOLD_FUNCTIONS

MOST_DOTS = 600
TREND_POINTS = 121
_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))


class Series(NamedTuple):
    """Numbers of a run to draw.

    Attributes:
        label: for the legend.
        x: (n,).
        y: (n,), NaN where there is none.
        seeds: (S, n), the values of which y is the mean; None of a single run.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    seeds: np.ndarray | None = None


def draw_by_rank(
    axes: Axes, palette: Palette, series: Sequence[Series], groups: str, ylabel: str, logarithmic: bool = False
) -> None:
    """Draw a number of each class against its rank, over bands of the groups r, c, f.

    On a logarithmic axis, zeros lie on its lower edge.

    Args:
        axes: to draw on.
        palette: its colours.
        series: of the runs; x is the rank, 0 … K-1, of the most frequent class first.
        groups: K letters r, c, f in that order.
        ylabel: what the numbers are.
        logarithmic: whether the y axis is.
    """
    group_bands(axes, palette, groups)
    _draw_classes(axes, palette, series, logarithmic, by_count=False)
    axes.set(xlim=(-0.5, len(groups) - 0.5), xlabel="classes, the most frequent first", ylabel=ylabel)


def group_bands(axes: Axes, palette: Palette, groups: str) -> None:
    """Bands of the groups r, c, f behind ranks of classes, the most frequent first."""
    for letter in GROUP_NAMES:
        ranks = [rank for rank, group in enumerate(groups) if group == letter]
        if ranks:
            _band(axes, palette, letter, min(ranks) - 0.5, max(ranks) + 0.5, (min(ranks) + max(ranks)) / 2)


def draw_by_count(axes: Axes, palette: Palette, series: Sequence[Series], groups: str, ylabel: str) -> None:
    """As :func:`draw_by_rank`, against the number of training images on a logarithmic axis."""
    most = max(series[0].x.max(), 101) * 1.4
    for letter, low, high in (("r", 0.6, 10.5), ("c", 10.5, 100.5), ("f", 100.5, most)):
        if letter in groups:
            _band(axes, palette, letter, low, high, (low * high) ** 0.5)
    _draw_classes(axes, palette, [one._replace(x=np.maximum(one.x, 0.7)) for one in series], False, by_count=True)
    axes.set(xscale="log", xlim=(0.6, most if "f" in groups else 101), ylabel=ylabel)
    axes.set_xlabel("training images with the class")
    axes.xaxis.set_major_formatter(plain_number)


def draw_losses(axes: Axes, palette: Palette, series: Sequence[Series], ylabel: str) -> None:
    """Draw losses against the iteration."""
    for number, one in enumerate(series):
        color, line = palette.series[number % len(palette.series)], _LINES[number % len(_LINES)]
        axes.plot(one.x, one.y, color=color, linestyle=line, linewidth=1.8, label=one.label)
    axes.grid(axis="y", linewidth=0.5)
    axes.set(xlabel="iteration", ylabel=ylabel)
    axes.set_ylim(bottom=0)
    _legend(axes)


def draw_thresholds(
    axes: Axes, palette: Palette, lambda_: float, frequencies: Sequence[float] = (), chosen: str = ""
) -> None:
    """Draw T(f) of EQL's three threshold functions.

    Args:
        axes: to draw on.
        palette: its colours.
        lambda_: of the step.
        frequencies: image frequencies of a run's classes, drawn as ticks.
        chosen: the function that the run uses, drawn thicker.
    """
    known = [frequency for frequency in frequencies if frequency > 0]
    low, high = min([1e-5, *known]), max([0.1, *known])
    grid = np.union1d(np.geomspace(low, high, 600), [lambda_ * (1 - 1e-9), lambda_])
    for number, (name, function) in enumerate(THRESHOLD_FUNCTIONS.items()):
        values = function(torch.from_numpy(grid), lambda_).numpy()
        label = f"{name}, λ = {lambda_:.3g}" if name == "step" else name
        style: dict[str, Any] = {
            "color": palette.series[number],
            "linestyle": _LINES[number],
            "linewidth": 3 if name == chosen else 1.7,
        }
        axes.plot(grid, values, label=label, **style)
    if known:
        axes.vlines(known, -0.08, -0.02, color=palette.ink, linewidth=0.6, alpha=0.6)
    axes.set(xscale="log", xlim=(low, high), ylim=(-0.1, 1.05), xlabel="image frequency f", ylabel="T(f)")
    axes.grid(axis="y", linewidth=0.5)
    _legend(axes)


def _draw_classes(axes: Axes, palette: Palette, series: Sequence[Series], logarithmic: bool, by_count: bool) -> None:
    """A dot a class, unless they are too many, and the trend with its band as a line."""
    if logarithmic:
        positive = np.concatenate([one.y[one.y > 0] for one in series])
        low, high = (positive.min() / 3, positive.max() * 2) if len(positive) else (0.1, 1.0)
        axes.set(yscale="log", ylim=(low, high))
        series = [  # NaN stays
            one._replace(y=np.maximum(one.y, low), seeds=None if one.seeds is None else np.maximum(one.seeds, low))
            for one in series
        ]
    dots = sum(len(one.x) for one in series) <= MOST_DOTS
    for number, one in enumerate(series):
        color, line = palette.series[number % len(palette.series)], _LINES[number % len(_LINES)]
        if dots:
            # On an edge of the axes, too: a class at zero is not to be cut in half.
            style: dict[str, Any] = {"s": 9, "color": color, "alpha": 0.55, "linewidths": 0, "clip_on": False}
            axes.scatter(one.x, one.y, **style)
        at, middle, spread = _trend(one, logarithmic, by_count)
        axes.plot(at, middle, color=color, linestyle=line, linewidth=2, label=one.label)
        if spread is not None:
            axes.fill_between(at, *spread, color=color, alpha=0.2, linewidth=0)
    if not logarithmic:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", linewidth=0.5)
    _legend(axes)


def _trend(
    one: Series, logarithmic: bool, by_count: bool
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """Places, the smooth mean there, and the edges of its band if there are several seeds; as drawn."""
    x = np.log10(one.x) if by_count else one.x
    at = np.linspace(x.min(), x.max(), TREND_POINTS) if len(x) > 1 else x
    width = WIDTH_OF_COUNTS if by_count else max(1.0, WIDTH_OF_RANKS * len(x))
    of_seeds = one.y[None] if one.seeds is None else one.seeds
    mean, deviation = trend_with_band(x, np.log(of_seeds) if logarithmic else of_seeds, at, width)
    shown = np.exp if logarithmic else np.asarray
    places = 10**at if by_count else at
    several = len(of_seeds) > 1
    return places, shown(mean), (shown(mean - deviation), shown(mean + deviation)) if several else None


def _band(axes: Axes, palette: Palette, letter: str, low: float, high: float, middle: float) -> None:
    axes.axvspan(low, high, color=palette.groups[letter], alpha=0.14, linewidth=0)
    place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom", "fontsize": 8.5}
    axes.text(middle, 1.0, GROUP_NAMES[letter], color=palette.ink, **place)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8.5, handlelength=2.6)
