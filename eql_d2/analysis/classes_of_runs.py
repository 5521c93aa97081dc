"""A number of each class, of several runs side by side: the same classes, seeds of a row together."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from eql_d2.analysis.finished_runs import FinishedRun, Values
from eql_d2.analysis.report_tables import say_once
from eql_d2.errors import UserError


class OfClasses(NamedTuple):
    """Numbers of the classes of runs, those that differ by the seed together.

    Attributes:
        classes: records of the classes, the most frequent first.
        values: (row, part) → (S, K) of the row's seeds, NaN where there is none; a part is e.g. a test set.
        left_out: a sentence for each run that is not in it.
    """

    classes: list[dict[str, Any]]
    values: dict[tuple[str, str], np.ndarray]
    left_out: list[str]

    @property
    def labels(self) -> dict[str, str]:
        """What the rows are called, with the number of their seeds."""
        names = labels_of(row for row, _ in self.values)
        return {row: with_number_of_seeds(names[row], len(table)) for (row, _), table in self.values.items()}

    def mean(self, row: str, part: str = "") -> np.ndarray:
        """(K,) mean over the seeds that know a class."""
        return _mean_known(self.values[row, part])


def of_classes(runs: Sequence[FinishedRun], read: Callable[[FinishedRun], dict[str, Values]]) -> OfClasses:
    """Read a number of each class of runs; all must have the classes of the first that has any.

    Args:
        runs: the runs.
        read: part → category id → number, of a run.

    Raises:
        UserError: no run has any.
    """
    found: dict[tuple[str, str], list[Values]] = {}
    left_out: list[str] = []
    first: FinishedRun | None = None
    for run in runs:
        try:
            values = read(run)
            if first is not None and not have_same_classes(first, run):
                raise UserError(f"it has other classes, or other counts of them, than {first.name}.")
            classes = run.classes
            first = first or run
            for part, of_part in values.items():
                found.setdefault((run.row, part), []).append(of_part)
        except UserError as error:
            left_out.append(f"{run.name}: {error}")
    if first is None:
        raise UserError(" ".join(say_once(left_out, [run.name for run in runs])))
    classes = first.classes
    if not found:
        raise UserError(f"{first.name} has no test set.")
    tables = {
        key: np.array([[of.get(record["id"], math.nan) for record in classes] for of in of_seeds])
        for key, of_seeds in found.items()
    }
    return OfClasses(classes, tables, left_out)


def labels_of(rows: Iterable[str]) -> dict[str, str]:
    """Names without the folder, where all of several are in one."""
    names = list(dict.fromkeys(rows))
    in_one = len(names) > 1 and len({name.rpartition("/")[0] for name in names}) == 1
    return {name: name.rpartition("/")[2] if in_one else name for name in names}


def with_number_of_seeds(label: str, number: int) -> str:
    """What a row of several seeds is called."""
    return f"{label}, {number} seeds" if number > 1 else label


def _mean_known(table: np.ndarray) -> np.ndarray:
    """The mean of each column of (seeds, classes), over those seeds where it is known."""
    known = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        return np.where(known, table, 0).sum(axis=0) / known.sum(axis=0)


def have_same_classes(first: FinishedRun, second: FinishedRun) -> bool:
    """Whether two runs have the same classes, and the same counts of them; False where one does not know."""

    def facts(run: FinishedRun) -> list[tuple[int, str, int]]:
        return [(record["id"], record["name"], record["image_count"]) for record in run.classes]

    try:
        return facts(first) == facts(second)
    except UserError:
        return False
