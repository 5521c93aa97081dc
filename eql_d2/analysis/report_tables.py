"""Tables of a report that can be sorted and filtered: runs, and reported results beside reproduced ones."""

import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from eql_d2.analysis.finished_runs import FinishedRun
from eql_d2.errors import UserError

RUN_METRICS = ("AP", "AP50", "APr", "APc", "APf")
TASK_NAMES = {"bbox": "box", "segm": "mask"}


class Title(NamedTuple):
    """A cell of two lines of plain text, the second small."""

    text: str
    further: str


class Cell(NamedTuple):
    """A cell of a number.

    Attributes:
        text: HTML.
        value: what it is sorted by; None where there is none.
        kind: further CSS classes.
    """

    text: str
    value: float | None = None
    kind: str = ""


AnyCell = Cell | Title | str


def number_cell(value: float | None, digits: int = 1, kind: str = "", sign: bool = False) -> Cell:
    """A number's cell, "–" for None or NaN."""
    if value is None or math.isnan(value):
        return Cell("–", None, kind)
    rounded = round(value, digits) + 0.0  # no minus before zero
    text = f"{rounded:+,.{digits}f}" if sign and rounded else f"{rounded:,.{digits}f}"
    return Cell(text.replace("-", "−"), value, kind)


def sortable_table(
    name: str,
    headers: Sequence[str],
    rows: Sequence[Sequence[AnyCell]],
    groups: Sequence[tuple[str, int]] = (),
) -> str:
    """A table whose headers sort it.

    Args:
        name: of the table, which its rows are found by, too.
        headers: plain texts; a column is one of numbers if its cells are :class:`Cell`.
        rows: cells; a plain text is escaped.
        groups: headers above those, each over so many columns; their numbers add up to the number of columns.
    """
    first = rows[0] if rows else ()
    numbers = [isinstance(cell, Cell) for cell in first] or [False] * len(headers)
    starts = {sum(width for _, width in groups[:place]) for place in range(1, len(groups))}

    def kinds(column: int, further: str = "") -> str:
        found = ("number" if numbers[column] else "", "start" if column in starts else "", further)
        text = " ".join(filter(None, found))
        return f' class="{text}"' if text else ""

    over = "".join(
        f'<th colspan="{width}"{" class=start" if place else ""}>{html.escape(text)}</th>'
        for place, (text, width) in enumerate(groups)
    )
    heads = "".join(
        f'<th{kinds(column)} scope="col"><button type="button">{html.escape(text)}</button></th>'
        for column, text in enumerate(headers)
    )
    body = []
    for row in rows:
        cells = []
        for column, cell in enumerate(row):
            if isinstance(cell, Cell):
                value = "" if cell.value is None else f"{cell.value:.9g}"
                cells.append(f'<td{kinds(column, cell.kind)} data-v="{value}">{cell.text}</td>')
            elif isinstance(cell, Title):
                further = f'<br><span class="soft">{html.escape(cell.further)}</span>'
                cells.append(f"<td{kinds(column)}>{html.escape(cell.text)}{further}</td>")
            else:
                cells.append(f"<td{kinds(column)}>{html.escape(cell)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    head = (f"<tr>{over}</tr>" if groups else "") + f"<tr>{heads}</tr>"
    rows_text = "\n".join(body)
    return (
        f'<div class="wide"><table class="sortable" data-name="{html.escape(name)}"><thead>{head}</thead>'
        f"<tbody>\n{rows_text}\n</tbody></table></div>"
    )


def say_once(sentences: Sequence[str], names: Sequence[str], most_named: int = 3) -> list[str]:
    """Sentences that differ by the name of a run alone become one.

    Args:
        sentences: plain texts, as "NAME: the ledger entry of NAME has no …".
        names: of the runs.
        most_named: names that such a sentence holds; more are counted.
    """
    longest_first = sorted(set(names), key=len, reverse=True)
    grouped: dict[str, list[tuple[str, str]]] = {}
    for sentence in sentences:
        name = next((name for name in longest_first if f"{name}:" in sentence), "")
        pattern = sentence.replace(name, "\0") if name else sentence
        grouped.setdefault(pattern, []).append((name, sentence))
    said = []
    for pattern, found in grouped.items():
        if len(found) == 1 or not found[0][0]:
            said.append(found[0][1])
            continue
        shown = ", ".join(name for name, _ in found[:most_named])
        more = f" and {len(found) - most_named} more" if len(found) > most_named else ""
        said.append(pattern.replace("\0:", f"{shown}{more}:", 1).replace("\0", "each"))
    return said


def remarks(sentences: Sequence[str]) -> str:
    """Sentences of plain text as a list."""
    if not sentences:
        return ""
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="soft remarks">{items}</ul>'


def folded(title: str, sentences: Sequence[str]) -> str:
    """Sentences of plain text that a click shows."""
    if not sentences:
        return ""
    return f'<details class="soft"><summary>{title} ({len(sentences)})</summary>{remarks(sentences)}</details>'


def runs_table(runs: Sequence[FinishedRun]) -> tuple[str, list[str]]:
    """All runs with their metrics, a row per run, test set and task; a table of its own for tasks of other metrics.

    Returns:
        HTML; and a sentence for each run that has no metrics.
    """
    found: list[tuple[FinishedRun, str, str, dict[str, float | None]]] = []
    left_out = []
    for run in runs:
        try:
            metrics = run.metrics
        except UserError as error:
            left_out.append(f"{run.name}: {error}")
            continue
        found += [(run, name, task, values) for name, tasks in metrics.items() for task, values in tasks.items()]
    with_costs = any(run.entry for run in runs)
    costs = ["seed", "iterations", "training, min", "memory, MB"] if with_costs else []
    detection = [record for record in found if record[2] in TASK_NAMES]
    others = dict.fromkeys(task for _, _, task, _ in found if task not in TASK_NAMES)
    tables = []
    for title, records in [("AP of", detection), *((o, [r for r in found if r[2] == o]) for o in others)]:
        names = RUN_METRICS if title == "AP of" else tuple(dict.fromkeys(name for r in records for name in r[3]))
        rows = [
            [
                run.name,
                TASK_NAMES.get(task, task),
                *(number_cell(values.get(name)) for name in names),
                *(_costs(run.entry) if with_costs else ()),
                dataset or "–",
            ]
            for run, dataset, task, values in records
        ]
        if rows:
            tables.append(sortable_table("runs", ["run", title, *names, *costs, "test set"], rows))
    return "".join(tables) or "<p>No run has metrics.</p>", left_out


def _costs(entry: dict[str, Any] | None) -> list[Cell]:
    """What only a ledger entry tells."""
    entry = entry or {}
    memory = entry.get("peak_memory_mb") or {}
    seconds = (entry.get("seconds") or {}).get("training")
    most = memory.get("gpu") or memory.get("host")
    return [
        number_cell(entry.get("seed"), 0),
        number_cell(entry.get("iterations"), 0),
        number_cell(None if seconds is None else seconds / 60),
        number_cell(most, 0),
    ]
