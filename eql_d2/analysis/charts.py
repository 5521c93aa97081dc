"""Figures in two forms: an SVG that stands in a page and takes its colours, and a file for a paper."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eql_d2.errors import UserError


class Palette(NamedTuple):
    """Colours of a figure.

    Attributes:
        ink: of text and axes.
        grid: of grid lines.
        mark: of what a figure is about.
        groups: of the rare (r), common (c) and frequent (f) classes.
        series: of runs, told apart by lightness, too.
    """

    ink: str
    grid: str
    mark: str
    groups: dict[str, str]
    series: tuple[str, ...]


# Colours that no picture has otherwise; the page's variables take their place.
PAGE_PALETTE = Palette(
    "#010203",
    "#020304",
    "#030405",
    {"r": "#040506", "c": "#050607", "f": "#060708"},
    ("#070809", "#08090a", "#090a0b", "#0a0b0c", "#0b0c0d", "#0c0d0e"),
)
# Those of a light page.
PAPER_PALETTE = Palette(
    "#1c1e21",
    "#d8dade",
    "#2456b3",
    {"r": "#c2410c", "c": "#7f6200", "f": "#15803d"},
    ("#0072b2", "#d55e00", "#009e73", "#aa3377", "#8a6d00", "#5a6068"),  # after Okabe and Ito
)
_VARIABLES = {
    PAGE_PALETTE.ink: "--ink",
    PAGE_PALETTE.grid: "--line",
    PAGE_PALETTE.mark: "--mark",
    **{color: f"--group-{letter}" for letter, color in PAGE_PALETTE.groups.items()},
    **{color: f"--series-{number}" for number, color in enumerate(PAGE_PALETTE.series, 1)},
}
Draw = Callable[[Axes, Palette], None]
FILE_ENDINGS = (".svg", ".png", ".pdf")
_SIZE = (5.0, 3.4)


def page_figure(draw: Draw, label: str) -> str:
    """Draw a figure as an <svg> element of the page's colours, with no ids but its own.

    Args:
        draw: draws onto axes with a palette's colours.
        label: what the figure shows, for those who do not see it; another for each figure of a page.
    """
    with matplotlib.rc_context({**_style(PAGE_PALETTE), "svg.fonttype": "none", "svg.hashsalt": label}):
        buffer = io.StringIO()
        figure = _drawn(draw, PAGE_PALETTE)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.DOTALL)
    used = set(re.findall(r"#([\w.-]+)[\")]", text))
    text = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def save_figure(draw: Draw, path: str | Path) -> None:
    """Draw a figure into a file, black on white.

    Args:
        draw: as of :func:`page_figure`.
        path: file to write; its ending, one of :data:`FILE_ENDINGS`, says its kind.

    Raises:
        UserError: the ending is another, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in FILE_ENDINGS:
        raise UserError(f"Figure file {path} must end in one of {', '.join(FILE_ENDINGS)}.")
    with matplotlib.rc_context({**_style(PAPER_PALETTE), "svg.fonttype": "path", "pdf.fonttype": 42}):
        figure = _drawn(draw, PAPER_PALETTE)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=200, facecolor="white", transparent=False)
        except OSError as error:
            raise UserError(f"Figure file {path} cannot be written ({error.strerror}); name another.") from None


def plain_number(value: float, _: float) -> str:
    """A tick's label without powers of ten."""
    return f"{value:g}"


def _drawn(draw: Draw, palette: Palette) -> Figure:
    figure = Figure(_SIZE, layout="constrained")  # no label is cut
    figure.patch.set_visible(palette is PAPER_PALETTE)
    axes = figure.subplots()
    axes.patch.set_visible(False)
    draw(axes, palette)
    return figure


def _style(palette: Palette) -> dict[Any, Any]:  # matplotlib lists its settings' names as a type of their own
    return {
        "font.size": 10,
        "text.color": palette.ink,
        "axes.edgecolor": palette.ink,
        "axes.labelcolor": palette.ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": palette.ink,
        "ytick.color": palette.ink,
        "grid.color": palette.grid,
        "path.simplify": True,
    }
