"""What an evaluation found, as a table of at most 80 columns for the terminal."""

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from tabulate import tabulate

WIDTH = 80
SHAPES = {"bbox": "box", "segm": "mask", "boundary": "boundary"}
COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AP1", "AP2", "AP3", "AP4", "AP5")
MOST_NAMED = 6  # of the best and of the worst classes
FOR_TERMINAL = {"for_terminal": True}
"""``extra`` of a message of several lines that the terminal is to show (:mod:`eql_d2.engine.terminal`)."""


def results_table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """A line for boxes, masks and boundaries each, with those metrics that are defined for one of them.

    Args:
        metrics: task → metric → percent; "AP-fixed" and its like stand in lines of their own.
    """
    lines = []
    for ending in ("", "-fixed"):
        names = [name for name in COLUMNS if any(_known(of, name + ending) for of in metrics.values())]
        if not names:
            continue
        rows = [
            [SHAPES.get(task, task) + ending, *(_cell(of.get(name + ending, math.nan)) for name in names)]
            for task, of in metrics.items()
        ]
        lines.append(tabulate(rows, headers=["", *names], disable_numparse=True, stralign="right"))
    return "\n".join(lines)


def class_lines(names: Sequence[str], groups: Sequence[str], ap: np.ndarray, shape: str) -> str:
    """The best and the worst classes, in two short paragraphs.

    Args:
        names: of the K classes.
        groups: K letters r, c, f; "" where unknown.
        ap: (K,) percent, NaN where a class has no ground truth.
        shape: what AP is of, "box" or "mask".

    Returns:
        Empty where no class has ground truth.
    """
    known = np.flatnonzero(~np.isnan(ap))
    if not len(known):
        return ""
    if not ap[known].any():
        return f"{shape} AP of all {len(known)} classes is 0." if len(known) > 1 else ""
    order = known[np.argsort(-ap[known], kind="stable")]
    best = [f"{_named(names, groups, i)} {ap[i]:.1f}" for i in order[:MOST_NAMED]]
    paragraphs = [(f"best by {shape} AP", ", ".join(best))]
    at_zero = [i for i in order if ap[i] == 0]
    if len(at_zero) > MOST_NAMED:
        shown = ", ".join(_named(names, groups, i) for i in at_zero[:MOST_NAMED])
        paragraphs.append(("worst", f"{len(at_zero)} of {len(known)} classes are at 0: {shown} …"))
    elif len(order) > MOST_NAMED:
        worst = order[max(MOST_NAMED, len(order) - MOST_NAMED) :][::-1]
        paragraphs.append(("worst", ", ".join(f"{_named(names, groups, i)} {ap[i]:.1f}" for i in worst)))
    return "\n".join(
        textwrap.fill(f"{title}: {text}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        for title, text in paragraphs
    )


def class_table(names: Sequence[str], groups: Sequence[str], columns: Mapping[str, np.ndarray]) -> str:
    """The AP of each class, best first by the last column; NaN where a class has no ground truth.

    Args:
        names: of the K classes.
        groups: K letters r, c, f; "" where unknown.
        columns: title → (K,) percent.
    """
    last = list(columns.values())[-1]
    order = np.argsort(np.where(np.isnan(last), np.inf, -last), kind="stable")
    rows = [[_short(names[i]), groups[i], *(_cell(column[i]) for column in columns.values())] for i in order]
    return tabulate(
        rows,
        headers=["class", "", *columns],
        disable_numparse=True,
        colalign=("left", "left", *("right" for _ in columns)),
    )


def _named(names: Sequence[str], groups: Sequence[str], index: int) -> str:
    return f"{_short(names[index])} ({groups[index]})" if groups[index] else _short(names[index])


def _short(name: str, most: int = 40) -> str:
    name = " ".join(name.split())
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _known(metrics: Mapping[str, float], name: str) -> bool:
    return name in metrics and not math.isnan(metrics[name])


def _cell(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"
