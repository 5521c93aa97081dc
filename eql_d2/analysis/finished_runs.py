"""Finished runs as a report reads them: from a run's folder, its ledger entry, or both."""

import csv
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from eql_d2.engine.class_watch import FILE_NAME as GRADIENT_FILE
from eql_d2.engine.config_files import parse_config
from eql_d2.engine.description import read_description
from eql_d2.engine.ledger.reading import read_entry
from eql_d2.engine.ledger.writing import FILE_NAME as LEDGER_FILE
from eql_d2.engine.metrics_file import METRICS_FILE, read_metrics_file
from eql_d2.errors import UserError
from eql_d2.evaluation.lvis_evaluator import RESULTS_FILES
from eql_d2.plain_files import load_checkpoint, text_of_csv

_SIGNS_OF_A_RUN = (LEDGER_FILE, "config.yaml", METRICS_FILE)
Values = dict[int, float]  # by category id


@dataclass
class FinishedRun:
    """A run: what of it is there is read when asked for.

    All readers raise :class:`UserError` where a file is missing or half written; its sentence names the file.

    Attributes:
        name: for tables and legends; unique in a report.
        folder: ``OUTPUT_DIR``, or None of a run known by its ledger entry alone.
        entry: the ledger entry, or None of a run without.
    """

    name: str
    folder: Path | None = None
    entry: dict[str, Any] | None = None

    @property
    def row(self) -> str:
        """What this run shares with those that differ from it by the seed alone: its name without ``/seed_N``."""
        return self.name.removesuffix(f"/seed_{self.entry['seed']}") if self.entry else self.name

    @cached_property
    def cfg(self) -> CfgNode:
        """The full config."""
        if self.entry:
            return parse_config(json.dumps(self.entry["config"]), f"The config in the ledger entry of {self.name}")
        path = self._file("config.yaml")
        return parse_config(path.read_text(), str(path))

    @cached_property
    def classes(self) -> list[dict[str, Any]]:
        """Records of the classes: ``id``, ``name``, ``frequency``, ``image_count``, the most frequent first."""
        if self.entry and self.entry.get("classes"):
            records = self.entry["classes"]
        elif self.folder and (self.folder / GRADIENT_FILE).is_file():
            records = [
                {
                    "id": int(row["category_id"]),
                    "name": text_of_csv(row["name"]),
                    "frequency": row["frequency"],
                    "image_count": int(row["image_count"]),
                }
                for row in self._gradient_rows
            ]
        else:
            records = read_description(str(self.checkpoint)).get("classes", {}).get("categories", [])
        if not records or records[0].get("image_count") is None:
            raise UserError(f"Nothing in {self.folder or self.name} says how often each class occurs in training.")
        return sorted(records, key=lambda record: (-record["image_count"], record["id"]))

    @property
    def num_images(self) -> int:
        """Number of training images."""
        if self.entry:
            datasets = self.entry.get("datasets", {})
            if all(name in datasets for name in self.cfg.DATASETS.TRAIN):
                return sum(datasets[name]["num_images"] for name in self.cfg.DATASETS.TRAIN)
        num_images = read_description(str(self.checkpoint)).get("classes", {}).get("num_images")
        if not num_images:
            raise UserError(f"Nothing in {self.folder or self.name} says how many training images there were.")
        return num_images

    @cached_property
    def metrics(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Metrics in percent, by dataset ("" where its name is not known), task and name."""
        if self.entry:
            return self.entry["metrics"]
        found: dict[str, dict[str, float | None]] = {}
        for line in self._metric_lines:
            for key, value in line.items():
                task, slash, metric = key.partition("/")
                if slash and task in ("bbox", "segm"):
                    found.setdefault(task, {})[metric] = None if math.isnan(value) else value
        if not found:
            raise UserError(f"{self._file('metrics.json')} has no evaluation; the run has not finished.")
        names = self.cfg.DATASETS.TEST
        if not names:
            return {"": found}
        return {names[0] if len(names) == 1 else "": found}

    @property
    def curve(self) -> dict[str, list[float | None]]:
        """Scalars of training by name, beside ``iteration``."""
        if self.entry and self.entry.get("curve", {}).get("iteration"):
            return self.entry["curve"]
        lines = [line for line in self._metric_lines if "total_loss" in line]
        if not lines:
            raise UserError(f"{self._file('metrics.json')} has no losses; the run had not gone far enough.")
        lines.sort(key=lambda line: line["iteration"])
        names = dict.fromkeys(name for line in lines for name in line)
        return {name: [line.get(name) for line in lines] for name in names}

    def class_ap(self, dataset: str, task: str) -> Values:
        """AP of each class that has ground truth, in percent."""
        if self.entry:
            column = self.entry.get("class_ap", {}).get(dataset, {}).get(task)
            if column is None:
                raise UserError(f"The ledger entry of {self.name} has no class AP ({task}) on {dataset}.")
            pairs = zip((record["id"] for record in self.entry["classes"]), column, strict=True)
            return {category_id: value for category_id, value in pairs if value is not None}
        rows = _read_csv(self._file(f"inference/{dataset}/per_class_ap_{task}.csv"), ("category_id", "AP"))
        values = {int(row["category_id"]): float(row["AP"]) for row in rows}
        return {category_id: value for category_id, value in values.items() if not math.isnan(value)}

    @property
    def gradient_ratios(self) -> dict[str, Values]:
        """Ratio of positive to negative gradients of each class, by the predictor's stage ("" of a single one)."""
        columns = [name for name in self._gradient_rows[0] if name and name.endswith("/gradient_ratio")]
        if not columns:
            raise UserError(f"{self._file(GRADIENT_FILE)} has no column of gradient ratios.")
        return {
            _stage_name(column): {int(row["category_id"]): float(row[column]) for row in self._gradient_rows}
            for column in columns
        }

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        last = self._file("last_checkpoint").read_text().strip()
        return self._file(last)

    def results_file(self, dataset: str) -> Path:
        """The detections that evaluation saved."""
        if self.folder is not None:
            for name in RESULTS_FILES.values():
                if (self.folder / "inference" / dataset / name).is_file():
                    return self.folder / "inference" / dataset / name
        return self._file(f"inference/{dataset}/{RESULTS_FILES['lvis']}")

    def tensors(self) -> dict[str, Any]:
        """The model's tensors, mapped from the last checkpoint."""
        path = self.checkpoint
        try:
            return load_checkpoint(path, mmap=True)["model"]
        except Exception as error:  # whatever unpickling raises over a broken file
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{path} is truncated or no checkpoint ({reason}).") from None

    @cached_property
    def _gradient_rows(self) -> list[dict[str, str]]:
        path = self._file(GRADIENT_FILE)
        rows = _read_csv(path, ("category_id", "name", "frequency", "image_count"))
        if not rows:
            raise UserError(f"{path} is empty.")
        return rows

    @cached_property
    def _metric_lines(self) -> list[dict[str, Any]]:
        return read_metrics_file(self._file(METRICS_FILE))

    def _file(self, name: str) -> Path:
        if self.folder is None:
            raise UserError(f"{self.name} is a ledger entry alone; {Path(name).name} lies in the run's folder.")
        path = self.folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing.")
        return path


def find_runs(paths: list[Path]) -> tuple[list[FinishedRun], list[str]]:
    """The runs below some paths.

    Args:
        paths: run folders, folders of such, ledger files, and folders of those.

    Returns:
        The runs, their names made unique; and a sentence for each thing that was skipped.

    Raises:
        UserError: a path does not exist.
    """
    runs, skipped = [], []
    for path in paths:
        if not path.exists():
            raise UserError(f"--runs {path} does not exist; name a run's folder or a ledger file.")
        places = _places_of_runs(path)
        if not places:
            skipped.append(f"{path} was skipped: it holds no {', '.join(_SIGNS_OF_A_RUN)}, and no ledger file.")
        for place in places:
            try:
                runs.append(_read_run(place))
            except UserError as error:
                skipped.append(f"{place} was skipped: {error}")
    return _with_unique_names(_without_copies(runs)), skipped


def _places_of_runs(path: Path) -> list[Path]:
    if path.is_file() or any((path / sign).is_file() for sign in _SIGNS_OF_A_RUN):
        return [path]
    deeper = [place for child in sorted(path.iterdir()) if child.is_dir() for place in _places_of_runs(child)]
    return [*sorted(path.glob("*.json")), *deeper]


def _read_run(place: Path) -> FinishedRun:
    if place.is_file():
        alone = read_entry(place)
        return FinishedRun(str(alone["name"]), None, alone)
    ledger = place / LEDGER_FILE
    entry = read_entry(ledger) if ledger.is_file() else None
    return FinishedRun(str(entry["name"]) if entry else place.name, place, entry)


def _without_copies(runs: list[FinishedRun]) -> list[FinishedRun]:
    """Leave out ledger entries of runs that are there already, with their folder if one has it."""
    kept: list[FinishedRun] = []
    for run in sorted(runs, key=lambda run: run.folder is None):
        if run.entry is None or all(run.entry != other.entry for other in kept):
            kept.append(run)
    return [run for run in runs if any(run is other for other in kept)]


def _with_unique_names(runs: list[FinishedRun]) -> list[FinishedRun]:
    names = [run.name for run in runs]
    for run, name in zip(runs, names, strict=True):
        if names.count(name) > 1 and run.folder is not None:
            run.name = f"{name} ({run.folder})"
    seen: dict[str, int] = {}
    for run in runs:
        seen[run.name] = number = seen.get(run.name, 0) + 1
        if number > 1:
            run.name = f"{run.name} #{number}"
    return runs


def _read_csv(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a file whose every row is complete."""
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    missing = [column for column in needed if column not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}.")
    if any(None in row.values() for row in rows):
        raise UserError(f"{path} is cut off in row {len(rows)}.")
    return rows


def _stage_name(column: str) -> str:
    prefix = column.partition("/")[0]
    return f"stage {int(prefix.removeprefix('classes_stage')) + 1}" if prefix != "classes" else ""
