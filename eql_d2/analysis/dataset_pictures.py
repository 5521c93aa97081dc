"""Pictures of a dataset's long tail."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from eql_d2.analysis.charts import Palette, page_figure, plain_number
from eql_d2.analysis.dataset_numbers import PAPER_LAMBDAS, by_frequency, tail_curve
from eql_d2.long_tail import LVIS_THRESHOLDS, CategoryCounts, FrequencyThresholds

GROUP_NAMES = {"r": "rare", "c": "common", "f": "frequent"}


def long_tail_picture(counts: CategoryCounts) -> str:
    """Image count against rank, both logarithmic, over bands of the groups r, c, f; an <svg> element."""
    ranked = [counts.image_counts[index] for index in by_frequency(counts)]
    label = "Number of images of each class against its rank, on logarithmic axes"
    return page_figure(lambda axes, palette: draw_long_tail(axes, palette, ranked), label)


def draw_long_tail(
    axes: Axes, palette: Palette, ranked: Sequence[int], thresholds: FrequencyThresholds = LVIS_THRESHOLDS
) -> None:
    """Draw the long tail.

    Args:
        axes: to draw on.
        palette: its colours.
        ranked: number of images of each class that has any, the most frequent first.
        thresholds: of the frequency groups.
    """
    top = max(max(ranked) * 1.5, 15)
    rare, common = thresholds.rare_max, thresholds.common_max
    for letter, low, high in (("r", 0.7, rare), ("c", rare, common), ("f", common, top)):
        if low >= top:
            continue
        axes.axhspan(low, min(high, top), color=palette.groups[letter], alpha=0.16, linewidth=0)
        place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "bottom", "color": palette.ink}
        axes.text(0.02, low * 1.15, GROUP_NAMES[letter], **place)
    axes.plot(
        range(1, len(ranked) + 1), ranked, color=palette.mark, linewidth=2, marker="o" if len(ranked) < 30 else ""
    )
    axes.set(xscale="log", yscale="log", ylim=(0.7, top), xlabel="rank of the class", ylabel="images with the class")
    axes.xaxis.set_minor_formatter(NullFormatter())  # of few classes it would say 2 × 10⁰
    axes.xaxis.set_major_formatter(plain_number)
    axes.yaxis.set_major_formatter(plain_number)


def tail_ratio_picture(counts: CategoryCounts) -> str:
    """TR(λ) in percent, with the papers' λ and the one that parts rare and common from frequent; an <svg> element."""
    frequencies, ratios = tail_curve(counts)
    own = (counts.thresholds.common_max + 0.5) / counts.num_images
    low = min(frequencies[0], PAPER_LAMBDAS[0][0]) / 1.6
    high = max(frequencies[-1], PAPER_LAMBDAS[-1][0]) * 1.6

    def draw(axes: Axes, palette: Palette) -> None:
        edges, shares = [low, *frequencies, high], 100 * np.array([0, *ratios, 1])
        axes.step(edges, shares, where="post", color=palette.mark, linewidth=2, zorder=3)
        for value, name, _ in PAPER_LAMBDAS:
            axes.axvline(value, color=palette.ink, linewidth=1, linestyle="--")
            axes.text(value, 99, f" {name}", rotation=90, ha="right", va="top", color=palette.ink, fontsize=9)
        if own < high:
            axes.axvline(own, color=palette.groups["c"], linewidth=1.5)
            axes.text(own, 60, "r + c here", rotation=90, ha="left", va="center", color=palette.ink, fontsize=9)
        axes.grid(axis="y", linewidth=0.5)
        axes.set(xscale="log", xlim=(low, high), ylim=(0, 101), xlabel="λ", ylabel="tail ratio TR(λ) in %")
        axes.xaxis.set_major_formatter(plain_number)

    return page_figure(draw, "Tail ratio as a function of the threshold λ")
