"""The papers' tables in a report: reported, reproduced, difference."""

import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from eql_d2.analysis.report_tables import AnyCell, Cell, Title, folded, number_cell, sortable_table
from eql_d2.engine.ledger.reading import Ledger, read_ledger
from eql_d2.reproduction.collect import BENCHMARK_METRICS, SHOWN_METRICS, Reproduced, collect
from eql_d2.reproduction.tables import Row, Table, find_table, table_names


def tables_of(paths: Sequence[Path], names: Sequence[str] = (), scale: str = "paper") -> list[str]:
    """The tables, as HTML sections.

    Args:
        paths: run folders, ledger files, folders of them.
        names: of tables; none are those that the runs' names (``TABLE/ROW/seed_N``) say.
        scale: at which the rows were trained, "paper" or "emoji".

    Raises:
        UserError: there is no such table.
    """
    ledger = read_ledger(paths)
    if not names:
        named = {entry["name"].partition("/")[0] for entry in ledger.entries.values()}
        names = [name for name in table_names() if name in named]
    return [table_section(find_table(name), ledger, scale) for name in names]


def table_section(table: Table, ledger: Ledger, scale: str = "paper") -> str:
    """One table: all its rows, those without runs, too; and what was left out, and why."""
    results, left_out = collect(table, ledger, scale)
    by_row = {result.row.id: result for result in results}
    metrics = _metrics(table, results)
    if any(row.reported for row in table.rows):
        rows = [_cells(row, by_row.get(row.id), metrics, scale) for row in table.rows]
        headers = ["method", *(title for _ in metrics for title in ("reported", "here", "diff.")), "seeds", "source"]
        groups = [("", 1), *((metric, 3) for metric in metrics), ("", 2)]
    else:
        rows = [_own_cells(row, by_row.get(row.id), metrics) for row in table.rows]
        headers, groups = ["method", *metrics, "minutes", "memory, MB", "seeds"], []
    notes = [f"Task: {_task_name(table)}.", *table.notes]
    if scale == "emoji":
        notes.insert(0, "Trained on EmojiLVIS: no difference to what is reported on another dataset means anything.")
    return (
        f'<section class="table"><h3>{html.escape(table.title)} <span class="soft">({html.escape(table.name)})</span>'
        f"</h3>{sortable_table(f'{table.name} {table.title}', headers, rows, groups)}"
        f"{folded('Notes', notes)}{folded('Left out', left_out)}</section>"
    )


def _metrics(table: Table, results: Sequence[Reproduced]) -> list[str]:
    """Names of the metrics that a row reports, in the papers' order; of a table that reports none, the usual ones."""
    reported = {name for row in table.rows for name in row.reported}
    if not reported:
        return list(BENCHMARK_METRICS)
    ordered = [name for name in SHOWN_METRICS if name in reported]
    return ordered + sorted(reported - set(ordered))


def _cells(row: Row, result: Reproduced | None, metrics: Iterable[str], scale: str) -> list[AnyCell]:
    cells: list[AnyCell] = [Title(row.method, " · ".join(filter(None, (row.id, row.model))))]
    for name in metrics:
        reported = row.reported.get(name)
        mean, error, number = (result.metrics if result else {}).get(name, (math.nan, math.nan, 0))
        difference = mean - reported if reported is not None and number and scale == "paper" else math.nan
        kind = ""
        if abs(difference) > 2 * error:  # False of NaN: one run says nothing about chance
            kind = "better" if difference > 0 else "worse"
        cells += [number_cell(reported), _mean_cell(mean, error), number_cell(difference, kind=kind, sign=True)]
    reason = f"cannot be trained: {row.not_trained}" if row.not_trained else ""
    seeds = len(result.entries) if result else 0
    source = "; ".join(filter(None, (row.source, row.note, reason)))
    return [*cells, Cell(str(seeds) if seeds else "–", seeds or None), source]


def _own_cells(row: Row, result: Reproduced | None, metrics: Iterable[str]) -> list[AnyCell]:
    """A row of a table that nothing was reported for."""
    nothing = (math.nan, math.nan, 0)
    found = [(result.metrics if result else {}).get(name, nothing) for name in metrics]
    minutes, memory = (result.minutes, result.memory) if result else (nothing, nothing)
    seeds = len(result.entries) if result else 0
    cells = [_mean_cell(mean, error) for mean, error, _ in (*found, minutes)]
    return [Title(row.method, row.id), *cells, number_cell(memory[0], digits=0), Cell(str(seeds or "–"), seeds or None)]


def _mean_cell(mean: float, error: float) -> Cell:
    cell = number_cell(mean)
    return cell if math.isnan(error) else cell._replace(text=f"{cell.text} ± {error:.1f}")


def _task_name(table: Table) -> str:
    tasks = {"segm": "masks", "bbox": "boxes"}
    return ", ".join(dict.fromkeys(tasks.get(row.task, row.task) for row in table.rows))
