"""Finished runs beside what the papers report: reported / reproduced / difference."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from eql_d2.engine.ledger.reading import Ledger, mean_and_error, read_entry
from eql_d2.engine.ledger.writing import write_entry
from eql_d2.errors import UserError
from eql_d2.reproduction.recipes import Recipe, recipe_of_row
from eql_d2.reproduction.tables import Row, Table

SHOWN_METRICS = (
    *("AP", "APr", "APc", "APf", "AP50", "AP1", "AP2", "AP3", "AP4", "AP5", "APbbox", "top1", "top5"),
    *("overall", "many", "medium", "few"),
)
BENCHMARK_METRICS = ("AP", "APr", "APc", "APf")  # of rows that no source reports


@dataclass
class Reproduced:
    """What finished runs say about a row.

    Attributes:
        row: of the table.
        entries: ledger entries, one per seed.
        metrics: {reported name: (mean, standard error, number of seeds)} in percent.
        minutes: (mean, standard error, number) of the training time.
        memory: (mean, standard error, number) of the peak memory in MB, of the GPU if there was one.
    """

    row: Row
    entries: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    minutes: tuple[float, float, int] = (math.nan, math.nan, 0)
    memory: tuple[float, float, int] = (math.nan, math.nan, 0)


def collect(table: Table, ledger: Ledger, scale: str = "paper") -> tuple[list[Reproduced], list[str]]:
    """Put the entries of a ledger into the rows of a table.

    A run belongs to the row whose config it has, in all but the seed and what is the machine's, and on data of one
    digest. A row of another table with the same config is the same training.

    Args:
        table: whose rows are wanted.
        ledger: entries of finished runs.
        scale: "paper" or "emoji".

    Returns:
        The rows that can be trained, in order, and one sentence for each run or row that was left out.
    """
    left_out = []
    results = []
    for row in table.rows:
        try:
            recipe = recipe_of_row(row, scale)
        except UserError as error:
            left_out.append(str(error))
            continue
        entries = _one_a_seed(_entries_of(recipe, ledger), row, left_out)
        results.append(_summary(row, entries))
    left_out += _strangers(table, ledger, scale)
    return results, left_out


def copy_entries(entries: Iterable[dict[str, Any]], folder: Path) -> None:
    """Keep ledger entries where their runs are not: as ``TABLE/ROW/seed_N.json`` below a folder.

    Raises:
        UserError: another run's entry is there, or it cannot be written.
    """
    for entry in entries:
        path = folder / f"{entry['name']}.json"
        if path.exists() and read_entry(path) != entry:
            raise UserError(f"{path} is the entry of another run; move it away or name another folder.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_entry(path, entry)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}).") from None


def _entries_of(recipe: Recipe, ledger: Ledger) -> dict[Path, dict[str, Any]]:
    # What a first stage's hash would be where the data settles some of its config is not known here.
    first = recipe.first
    wanted = None if first is None else first.hash
    return {
        path: entry
        for path, entry in ledger.entries.items()
        if recipe.fits(entry) and ((first is not None and first.auto) or entry.get("first_stage") == wanted)
    }


def _one_a_seed(entries: dict[Path, dict[str, Any]], row: Row, left_out: list[str]) -> list[dict[str, Any]]:
    """One entry per seed, the row's own before those of equal rows; none where two compete, or have other data."""
    by_seed: dict[int, list[tuple[Path, dict[str, Any]]]] = {}
    for path, entry in entries.items():
        by_seed.setdefault(entry["seed"], []).append((path, entry))
    chosen: dict[Path, dict[str, Any]] = {}
    for seed, found in sorted(by_seed.items()):
        own = [(path, entry) for path, entry in found if entry["name"].startswith(f"{row.name}/")] or found
        if len(own) > 1:
            places = ", ".join(str(path) for path, _ in own)
            left_out.append(f"Row {row.name} has {len(own)} runs of seed {seed} ({places}); keep one of them.")
            continue
        chosen[own[0][0]] = own[0][1]
    digests = {path: _digests(entry) for path, entry in chosen.items()}
    if len(set(digests.values())) > 1:
        places = ", ".join(map(str, chosen))
        left_out.append(f"Row {row.name} was trained on different data in {places}; collect them one by one.")
        return []
    return list(chosen.values())


def _digests(entry: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, str(data.get("digest"))) for name, data in entry["datasets"].items()))


def _strangers(table: Table, ledger: Ledger, scale: str) -> list[str]:
    """A sentence for each run that is named after a row of the table, but has another config."""
    sentences = []
    for path, entry in ledger.entries.items():
        of_table, _, rest = entry["name"].partition("/")
        row = table.by_id.get(rest.split("/")[0].split("@")[0])
        if of_table != table.name or row is None:
            continue
        try:
            recipe = recipe_of_row(row, scale)
        except UserError:
            continue
        if path not in _entries_of(recipe, ledger):
            keys = recipe.differing_keys(entry["config"]) or ["its first stage"]
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            sentences.append(
                f"{path} is named after row {row.name}, but differs from it in {', '.join(keys[:3])}{more}."
            )
    return sentences


def _summary(row: Row, entries: list[dict[str, Any]]) -> Reproduced:
    names = list(row.reported) or list(BENCHMARK_METRICS)
    metrics = {}
    for name in names:
        task, _, metric = row.metric(name).partition("/")
        values = [_metric(entry, task, metric) for entry in entries]
        metrics[name] = _statistics([value for value in values if value is not None])
    minutes = _statistics([entry["seconds"]["training"] / 60 for entry in entries])
    memory = _statistics([entry["peak_memory_mb"]["gpu"] or entry["peak_memory_mb"]["host"] for entry in entries])
    return Reproduced(row, entries, metrics, minutes, memory)


def _metric(entry: dict[str, Any], task: str, metric: str) -> float | None:
    """A metric of the first test set; None where it is undefined."""
    of_sets = list(entry["metrics"].values())
    return of_sets[0].get(task, {}).get(metric) if of_sets else None


def _statistics(values: Sequence[float]) -> tuple[float, float, int]:
    return (*mean_and_error(list(values)), len(values))


def records(results: Sequence[Reproduced], compare: bool = True) -> list[dict[str, Any]]:
    """The results as JSON: a dict per row, with {"reported", "mean", "error", "seeds", "difference"} a metric.

    Args:
        results: of :func:`collect`.
        compare: False where the reported numbers are of other data, so that no difference means anything.
    """
    rows = []
    for result in results:
        metrics = {}
        for name, (mean, error, number) in result.metrics.items():
            reported = result.row.reported.get(name)
            difference = mean - reported if compare and reported is not None and number else math.nan
            values = {"reported": reported, "mean": mean, "error": error, "seeds": number, "difference": difference}
            metrics[name] = {key: None if _undefined(value) else value for key, value in values.items()}
        rows.append(
            {
                "row": result.row.name,
                "method": result.row.method,
                "model": result.row.model,
                "source": result.row.source,
                "seeds": sorted(entry["seed"] for entry in result.entries),
                "metrics": metrics,
                "minutes": None if _undefined(result.minutes[0]) else result.minutes[0],
                "memory_mb": None if _undefined(result.memory[0]) else result.memory[0],
            }
        )
    return rows


def text_table(results: Sequence[Reproduced], form: str = "simple", compare: bool = True) -> str:
    """A table for people.

    Args:
        results: of :func:`collect`.
        form: of the ``tabulate`` package: "simple", or "github" for Markdown.
        compare: as of :func:`records`.

    Returns:
        One line per row; in each metric's column reported / mean ± standard error (difference), as far as known.
    """
    present = {name for result in results for name in result.metrics}
    names = [name for name in SHOWN_METRICS if name in present]
    lines = []
    for result in results:
        cells = [_cell(result, name, compare) for name in names]
        lines.append(
            [
                result.row.id,
                result.row.method,
                *cells,
                len(result.entries) or "–",
                _value(*result.minutes),
                _value(*result.memory[:1], math.nan, result.memory[2], digits=0),
            ]
        )
    headers = ["row", "method", *names, "seeds", "minutes", "MB"]
    return tabulate(lines, headers=headers, tablefmt=form, disable_numparse=True, stralign="right")


def _cell(result: Reproduced, name: str, compare: bool) -> str:
    if name not in result.metrics:
        return ""
    reported = result.row.reported.get(name)
    mean, error, number = result.metrics[name]
    reproduced = _value(mean, error, number)
    if reported is None:
        return reproduced
    if not number:
        return f"{reported:g} / –"
    return f"{reported:g} / {reproduced}" + (f" ({mean - reported:+.1f})" if compare else "")


def _value(mean: float, error: float, number: int, digits: int = 1) -> str:
    if not number:
        return "–"
    return f"{mean:.{digits}f}" if _undefined(error) else f"{mean:.{digits}f} ± {error:.{digits}f}"


def _undefined(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
