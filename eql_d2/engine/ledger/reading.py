"""Reading ledger entries: what cannot be trusted is named and left out, never used in silence."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eql_d2.engine.ledger.writing import FILE_NAME, VERSION
from eql_d2.errors import UserError

FIELDS = {
    "name": str,
    "config": dict,
    "config_hash": str,
    "datasets": dict,
    "seed": int,
    "versions": dict,
    "hardware": dict,
    "seconds": dict,
    "peak_memory_mb": dict,
    "iterations": int,
    "metrics": dict,
    "class_ap": dict,
    "classes": list,
    "curve": dict,
}


@dataclass
class Ledger:
    """The entries of some folders.

    Attributes:
        entries: by the file that each was read from.
        skipped: one sentence for each run that was left out.
    """

    entries: dict[Path, dict[str, Any]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def read_entry(path: str | Path) -> dict[str, Any]:
    """Read the ledger entry of a finished run.

    Args:
        path: ``ledger.json``, a copy of it, or the run's folder.

    Returns:
        The entry; its form is described in :func:`eql_d2.engine.ledger.writing.ledger_entry`.

    Raises:
        UserError: the run has not finished, the file is broken, or of another version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
        if not path.exists():
            raise UserError(_unfinished(path.parent))
    try:
        entry = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"Ledger entry {path} cannot be read ({error.strerror}); check the path.") from None
    except (ValueError, RecursionError):
        raise UserError(f"Ledger entry {path} is not JSON or cut short; run that row again.") from None
    if not isinstance(entry, dict) or "version" not in entry:
        raise UserError(f"{path} is no ledger entry; it has no version.")
    if entry["version"] != VERSION:
        raise UserError(
            f"Ledger entry {path} has version {entry['version']}, but this code reads version {VERSION}; run it again "
            "or use the code that wrote it."
        )
    if isinstance(entry.get("classes"), dict):  # as columns, see write_entry
        columns = entry["classes"]
        try:
            rows = zip(*columns.values(), strict=True)
            entry["classes"] = [dict(zip(columns, values, strict=True)) for values in rows]
        except (TypeError, ValueError):
            raise UserError(f"Ledger entry {path} has classes of different lengths; run that row again.") from None
    for key, kind in FIELDS.items():
        if not isinstance(entry.get(key), kind):
            raise UserError(f"Ledger entry {path} has no {key} of type {kind.__name__}; run that row again.")
    return entry


def _unfinished(folder: Path) -> str:
    return f"{folder} has no {FILE_NAME}: the run has not finished; continue it with --resume."


def read_ledger(folders: Iterable[str | Path]) -> Ledger:
    """Read all entries below some folders: those of run folders, and copies such as ``seed_0.json``.

    Left out and named are runs that have not finished, entries that cannot be read, and different runs of one name.

    Raises:
        UserError: a folder does not exist.
    """
    ledger = Ledger()
    for path in _ledger_files(folders, ledger.skipped):
        try:
            ledger.entries[path] = read_entry(path)
        except UserError as error:
            ledger.skipped.append(str(error))
    _drop_copies_and_namesakes(ledger)
    return ledger


def _ledger_files(folders: Iterable[str | Path], skipped: list[str]) -> list[Path]:
    """Files that are or should be entries; run folders without one are named in ``skipped``."""
    files: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if folder.is_file():
            files.setdefault(folder.resolve(), folder)
            continue
        if not folder.is_dir():
            raise UserError(f"Folder {folder} does not exist; name the output folder of runs, or benchmarks/ledger.")
        for path in sorted(folder.rglob("*.json")):
            if path.name == FILE_NAME or (path.name.startswith("seed_") and path.parent != folder):
                files.setdefault(path.resolve(), path)
        for path in sorted(folder.rglob("config.yaml")):
            if not (path.parent / FILE_NAME).exists():
                skipped.append(
                    f"{path.parent} has no {FILE_NAME}: the run has not finished; continue it with --resume."
                )
    return list(files.values())


def _drop_copies_and_namesakes(ledger: Ledger) -> None:
    """Keep one of equal entries; leave out different ones of one name, as nothing tells which is meant."""
    by_name: dict[str, list[Path]] = {}
    for path, entry in ledger.entries.items():
        by_name.setdefault(entry["name"], []).append(path)
    for name, paths in by_name.items():
        first = ledger.entries[paths[0]]
        if any(ledger.entries[path] != first for path in paths[1:]):
            places = ", ".join(map(str, paths))
            ledger.skipped.append(f"{len(paths)} different runs are named {name} ({places}); keep one of them.")
            doubtful = paths
        else:
            doubtful = paths[1:]
        for path in doubtful:
            del ledger.entries[path]


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """The mean of some values and its standard error s / sqrt(n), with n - 1 in the variance.

    Returns:
        Both in the unit of the values; the error is NaN for fewer than two values, the mean for none.
    """
    if not values:
        return math.nan, math.nan
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
