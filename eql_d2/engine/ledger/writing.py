"""The ledger: what a finished run leaves, one small JSON file with all that a table or a report needs of it."""

import csv
import json
import logging
import math
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.cache_files import file_digest
from eql_d2.engine.config_files import parse_config
from eql_d2.engine.description import class_records, read_description
from eql_d2.engine.ledger.identity import config_hash, plain_config, run_name
from eql_d2.engine.ledger.provenance import config_file, git_revision, hardware, peak_memory_mb, versions
from eql_d2.engine.metrics_file import METRICS_FILE
from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

FILE_NAME = "ledger.json"
VERSION = 1
CURVE_POINTS = 200


class RunClock(HookBase):
    """Measures the time in training steps; before the hooks that save and evaluate, which do not count.

    A step is reading its batch, forward, backward and update. The time is part of checkpoints, so that a resumed run
    goes on counting.

    Attributes:
        training_seconds: in steps so far, those before a resumption included.
        started: when the run was started first, as ISO 8601 in UTC.
        training_ended: ``time.perf_counter()`` after the last step; what follows is evaluation.
    """

    def __init__(self) -> None:
        self.training_seconds = 0.0
        self.started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.training_ended = self._step_began = time.perf_counter()

    def before_step(self) -> None:
        """Start the watch."""
        self._step_began = time.perf_counter()

    def after_step(self) -> None:
        """Stop it."""
        self.training_seconds += time.perf_counter() - self._step_began

    def after_train(self) -> None:
        """Note when evaluation begins."""
        self.training_ended = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return {"training_seconds": self.training_seconds, "started": self.started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.training_seconds = state_dict["training_seconds"]
        self.started = state_dict["started"]


class WriteLedger(HookBase):
    """Writes ``OUTPUT_DIR/ledger.json`` when training and its evaluation have ended; the last hook of all.

    Args:
        cfg: full config, as the run uses it.
        clock: of the same trainer.
    """

    def __init__(self, cfg: CfgNode, clock: RunClock) -> None:
        self._cfg = cfg
        self._clock = clock
        self._first_stage: str | None = None

    def before_train(self) -> None:
        """An entry says that a run has finished; this one has not."""
        if comm.is_main_process():
            Path(self._cfg.OUTPUT_DIR, FILE_NAME).unlink(missing_ok=True)
            self._first_stage = first_stage_of(self._cfg.MODEL.WEIGHTS)

    def after_train(self) -> None:
        """Write the entry, unless training failed; on the first process, with the memory of all."""
        results = getattr(self.trainer, "_last_eval_results", None)
        finished = self.trainer.iter >= self.trainer.max_iter
        if not finished or (results is None and self._cfg.DATASETS.TEST):
            return
        evaluation = time.perf_counter() - self._clock.training_ended
        memory = comm.gather(peak_memory_mb())
        if not comm.is_main_process():
            return
        gpus = [of_process["gpu"] for of_process in memory if of_process["gpu"] is not None]
        entry = ledger_entry(self._cfg, self.trainer.seed, results or {})
        entry["first_stage"] = self._first_stage
        entry["started"] = self._clock.started
        entry["seconds"] = {"training": round(self._clock.training_seconds, 2), "evaluation": round(evaluation, 2)}
        entry["peak_memory_mb"] = {
            "host": round(sum(of_process["host"] for of_process in memory), 1),
            "gpu": max(gpus) if gpus else None,
        }
        entry["iterations"] = self.trainer.max_iter
        try:
            write_entry(Path(self._cfg.OUTPUT_DIR, FILE_NAME), entry)
        except OSError as error:  # the run's other files are there, and days of training are not to end in an error
            logger.warning("%s of the run cannot be written: %s", FILE_NAME, error.strerror)


def ledger_entry(cfg: CfgNode, seed: int, results: dict[str, Any]) -> dict[str, Any]:
    """What can be said about a finished run without its trainer.

    Args:
        cfg: full config, whose datasets are registered.
        seed: that the run used.
        results: as ``DefaultTrainer.test`` returns them: {task: {metric: percent}}, or {dataset: that} if there are
            several test sets.

    Returns:
        The entry without what only the trainer knows: when it started, time, memory and iterations.
    """
    config = plain_config(cfg)
    metrics = {cfg.DATASETS.TEST[0]: results} if len(cfg.DATASETS.TEST) == 1 else dict(results)
    return {
        "version": VERSION,
        "name": run_name(cfg.OUTPUT_DIR),
        "config_file": config_file(),
        "config": config,
        "config_hash": config_hash(config),
        "git": git_revision(),
        "datasets": {name: _fingerprint(name) for name in dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))},
        "seed": seed,
        "versions": versions(),
        "hardware": hardware(),
        "metrics": {
            dataset: {
                task: {name: _number(value, 4) for name, value in values.items()}
                for task, values in of_dataset.items()
                if isinstance(values, dict)
            }
            for dataset, of_dataset in metrics.items()
        },
        "class_ap": {name: _class_ap(Path(cfg.OUTPUT_DIR, "inference", name)) for name in cfg.DATASETS.TEST},
        "classes": _classes(cfg),
        "curve": training_curve(Path(cfg.OUTPUT_DIR, METRICS_FILE)),
    }


def first_stage_of(weights: str) -> str | None:
    """The config hash of the run of this project that some weights are from; None for weights from elsewhere."""
    if not weights or "://" in weights:
        return None
    try:
        config = read_description(weights).get("config")
    except UserError:  # of which loading them tells
        return None
    return config_hash(plain_config(parse_config(config, weights))) if config else None


def write_entry(path: Path, entry: dict[str, Any]) -> None:
    """Write an entry in one piece, a line for each of its keys; the classes as columns, which takes half the space.

    Raises:
        OSError: the folder does not take it.
    """
    if entry["classes"]:
        columns = {key: [record[key] for record in entry["classes"]] for key in entry["classes"][0]}
        entry = {**entry, "classes": columns}
    lines = (f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in entry.items())
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    os.replace(partial, path)


def training_curve(metrics_file: Path) -> dict[str, list[float | None]]:
    """Losses and learning rate from what a run wrote to ``metrics.json``, thinned out to :data:`CURVE_POINTS`.

    Iterations that a resumed run repeated count once, as it repeated them.

    Returns:
        {"iteration": [...], scalar: [...]}, all of one length, None where a scalar was not written.
    """
    by_iteration: dict[int, dict[str, float]] = {}
    for line in metrics_file.read_text().splitlines() if metrics_file.exists() else ():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # the last line of a run that was killed while writing
            continue
        if isinstance(record, dict) and "total_loss" in record and isinstance(record.get("iteration"), int):
            by_iteration[record["iteration"]] = record
    iterations = sorted(by_iteration)
    if len(iterations) > CURVE_POINTS:
        step = (len(iterations) - 1) / (CURVE_POINTS - 1)
        iterations = [iterations[round(index * step)] for index in range(CURVE_POINTS)]
    names = sorted(
        {name for i in iterations for name in by_iteration[i] if name in ("total_loss", "lr") or "loss_" in name}
    )
    curve: dict[str, list[float | None]] = {"iteration": [*iterations]}
    for name in names:
        curve[name] = [_significant(by_iteration[i].get(name)) for i in iterations]
    return curve


def _fingerprint(dataset: str) -> dict[str, Any]:
    """The digest of a dataset's annotation file or of a set of labelled images, and its number of images."""
    path = MetadataCatalog.get(dataset).get("json_file")
    try:
        if path:
            return {"digest": file_digest(path), "num_images": len(open_annotations(path))}
        images = DatasetCatalog.get(dataset)
        return {"digest": images.digest, "num_images": len(images)} if hasattr(images, "digest") else {}
    except (OSError, UserError):
        return {}


def _classes(cfg: CfgNode) -> list[dict[str, Any]]:
    keys = ("id", "name", "frequency", "image_count", "instance_count")
    try:
        records = class_records(cfg)["categories"]
    except UserError:
        return []
    return [{key: record.get(key) for key in keys} for record in records]


def _class_ap(folder: Path) -> dict[str, list[float | None]]:
    """{task: AP, or accuracy in a classification, of each class in percent} of the files that the evaluators write."""
    class_ap = {}
    for path in sorted((*folder.glob("per_class_ap_*.csv"), *folder.glob("per_class_accuracy.csv"))):
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            column = next(name for name in ("AP", "AP50", "accuracy") if name in (reader.fieldnames or ()))
            records = list(reader)
        task = "classification" if column == "accuracy" else path.stem.removeprefix("per_class_ap_")
        class_ap[task] = [_number(float(record[column]), 2) for record in records]
    return class_ap


def _number(value: Any, digits: int) -> float | None:
    return round(float(value), digits) if math.isfinite(value) else None


def _significant(value: float | None) -> float | None:
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None
