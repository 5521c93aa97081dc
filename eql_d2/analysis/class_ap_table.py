"""AP of each class, of several runs beside a baseline, with the classes' training images."""

import html
import math
from collections.abc import Sequence

from eql_d2.analysis.classes_of_runs import of_classes
from eql_d2.analysis.finished_runs import FinishedRun
from eql_d2.analysis.report_tables import AnyCell, Cell, number_cell, sortable_table
from eql_d2.errors import UserError


def class_ap_section(runs: Sequence[FinishedRun], baseline: str) -> tuple[str, list[str]]:
    """A table for each task and test set: a row a class, the AP of each row of runs and its change.

    Args:
        runs: those of the rows that are shown.
        baseline: the row (:attr:`FinishedRun.row`) that changes are against.

    Returns:
        HTML, empty where no run knows the AP of its classes; and a sentence for each run that is left out.
    """
    parts: list[str] = []
    left_out: list[str] = []
    for task, title in (("segm", "Mask AP"), ("bbox", "Box AP")):
        for dataset in dict.fromkeys(name for run in runs for name in _test_sets(run)):
            try:
                table, of_table = _table(runs, dataset, task, baseline, f"{title} by class")
            except UserError as error:
                left_out.append(str(error))
                continue
            summary = f"{title} of each class of {html.escape(dataset)}"
            opened = "" if parts else " open"
            parts.append(f"<details{opened}><summary>{summary}</summary>{table}</details>")
            left_out += of_table
    return "".join(parts), left_out


def _test_sets(run: FinishedRun) -> Sequence[str]:
    try:
        return run.cfg.DATASETS.TEST
    except UserError:
        return ()


def _table(runs: Sequence[FinishedRun], dataset: str, task: str, baseline: str, name: str) -> tuple[str, list[str]]:
    found = of_classes(runs, lambda run: {"": run.class_ap(dataset, task)})
    means = {row: found.mean(row) for row, _ in found.values}
    base = means.get(baseline)
    rows = [baseline, *(row for row in means if row != baseline)] if base is not None else list(means)
    labels = found.labels
    lines: list[list[AnyCell]] = []
    for place, record in enumerate(found.classes):
        line: list[AnyCell] = [record["name"], record["frequency"], number_cell(record["image_count"], 0)]
        for row in rows:
            value = float(means[row][place])
            line.append(_cell(value, None if row == baseline or base is None else value - float(base[place])))
        lines.append(line)
    headers = ["class", "group", "images", *(labels[row] for row in rows)]
    return sortable_table(name, headers, lines), found.left_out


def _cell(value: float, change: float | None) -> Cell:
    cell = number_cell(value)
    if change is None or math.isnan(change):
        return cell
    told = number_cell(change, sign=True)
    return cell._replace(text=f'{cell.text} <span class="change">{told.text}</span>')
