"""Pictures of a dataset's long tail, as SVG that stands in a page and takes its colours."""

import io
import re

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eql_d2.analysis.dataset_numbers import PAPER_LAMBDAS, by_frequency, tail_curve
from eql_d2.data.categories import CategoryCounts
from eql_d2.data.emoji_lvis.long_tail import COMMON_MAX, RARE_MAX

# Colours that no picture has otherwise, and the page's variables that take their place.
INK, GRID, MARK = "#010203", "#020304", "#030405"
GROUP_COLORS = {"r": "#040506", "c": "#050607", "f": "#060708"}
_VARIABLES = {
    INK: "--ink",
    GRID: "--line",
    MARK: "--mark",
    **{color: f"--group-{letter}" for letter, color in GROUP_COLORS.items()},
}
_SIZE = (5.0, 3.4)
_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, and in the page's font
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "path.simplify": True,
}


def long_tail_picture(counts: CategoryCounts) -> str:
    """Image count against rank, both logarithmic, over bands of the groups r, c, f."""
    ranked = [counts.image_counts[index] for index in by_frequency(counts)]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure()
        top = max(max(ranked) * 1.5, 15)
        for letter, low, high in (("r", 0.7, RARE_MAX), ("c", RARE_MAX, COMMON_MAX), ("f", COMMON_MAX, top)):
            if low >= top:
                continue
            axes.axhspan(low, min(high, top), color=GROUP_COLORS[letter], alpha=0.16, linewidth=0)
            axes.text(
                0.02,
                low * 1.15,
                {"r": "rare", "c": "common", "f": "frequent"}[letter],
                transform=axes.get_yaxis_transform(),
                va="bottom",
                color=INK,
            )
        axes.plot(range(1, len(ranked) + 1), ranked, color=MARK, linewidth=2, marker="o" if len(ranked) < 30 else "")
        axes.set(
            xscale="log", yscale="log", ylim=(0.7, top), xlabel="rank of the class", ylabel="images with the class"
        )
        axes.xaxis.set_major_formatter(_plain)
        axes.yaxis.set_major_formatter(_plain)
        return _svg(figure, "Number of images of each class against its rank, on logarithmic axes")


def tail_ratio_picture(counts: CategoryCounts) -> str:
    """TR(λ) in percent, with the papers' λ and the one that parts rare and common from frequent."""
    frequencies, ratios = tail_curve(counts)
    own = (COMMON_MAX + 0.5) / counts.num_images
    low = min(frequencies[0], PAPER_LAMBDAS[0][0]) / 1.6
    high = max(frequencies[-1], PAPER_LAMBDAS[-1][0]) * 1.6
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure()
        axes.step(
            [low, *frequencies, high], 100 * np.array([0, *ratios, 1]), where="post", color=MARK, linewidth=2, zorder=3
        )
        for value, name, _ in PAPER_LAMBDAS:
            axes.axvline(value, color=INK, linewidth=1, linestyle="--")
            axes.text(value, 99, f" {name}", rotation=90, ha="right", va="top", color=INK, fontsize=9)
        if own < high:
            axes.axvline(own, color=GROUP_COLORS["c"], linewidth=1.5)
            axes.text(own, 60, "r + c here", rotation=90, ha="left", va="center", color=INK, fontsize=9)
        axes.grid(axis="y", linewidth=0.5)
        axes.set(xscale="log", xlim=(low, high), ylim=(0, 101), xlabel="λ", ylabel="tail ratio TR(λ) in %")
        axes.xaxis.set_major_formatter(_plain)
        return _svg(figure, "Tail ratio as a function of the threshold λ")


def _plain(value: float, _: int) -> str:
    return f"{value:g}"


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(_SIZE)
    figure.subplots_adjust(left=0.13, right=0.985, bottom=0.145, top=0.97)
    figure.patch.set_visible(False)
    axes = figure.subplots()
    axes.patch.set_visible(False)
    return figure, axes


def _svg(figure: Figure, label: str) -> str:
    """An <svg> element of the page's colours, with no ids but its own; to be called within ``rc_context``."""
    buffer = io.StringIO()
    matplotlib.rcParams["svg.hashsalt"] = label  # the same ids for the same picture, others for another one
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.DOTALL)
    used = set(re.findall(r"#([\w.-]+)[\")]", text))
    text = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
