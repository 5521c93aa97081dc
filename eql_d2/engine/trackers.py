"""Experiment trackers that get what ``metrics.json`` gets, the config and the final table: ``ENGINE.TRACKERS``.

Where and how they keep a run is said by their own environment variables: ``WANDB_MODE=offline`` and ``WANDB_ENTITY``,
``MLFLOW_TRACKING_URI`` and others.
"""

import csv
import io
import json
import logging
import os
import re
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter

from eql_d2.engine.ledger.identity import flat, plain_config, run_name
from eql_d2.engine.metrics_file import METRICS_FILE, new_records, read_metrics_file
from eql_d2.errors import UserError, import_extra
from eql_d2.plain_files import csv_text

logger = logging.getLogger(__name__)

RUNS_FILE = "trackers.json"
"""In a run's folder: {tracker: what it knows the run by}, so that a resumed run goes on in the same one."""

TABLE_COLUMNS = ("task", "metric", "value")


class Tracker(EventWriter):
    """A run of a tracker; what fails once training has begun ends the tracking with one warning, not the training.

    Args:
        cfg: full config of the run.
    """

    name: str
    title: str

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg
        self._last_iteration = -1
        self._open = False

    @classmethod
    @abstractmethod
    def check(cls, cfg: CfgNode) -> None:
        """Make sure that the tracker can be used, before anything is built.

        Raises:
            UserError: its package is not installed, nobody is logged in, or its server does not answer.
        """

    def go_on_from(self, start_iteration: int) -> None:
        """Open a new run, or the one that a resumed training was tracked by.

        Raises:
            UserError: the tracker does not take it.
        """
        path = Path(self.cfg.OUTPUT_DIR, RUNS_FILE)
        kept = _read_runs(path) if start_iteration else {}
        in_file = Path(self.cfg.OUTPUT_DIR, METRICS_FILE)  # of which what is to be written again is taken out already
        records = read_metrics_file(in_file) if in_file.exists() else []
        self._last_iteration = max((record["iteration"] for record in records), default=-1)
        with _refusals_told(self.title):
            kept[self.name] = self._begin(kept.get(self.name))
        path.write_text(json.dumps(kept))
        self._open = True

    def write(self) -> None:
        """Send what has been put since the last time."""
        records = new_records(self._last_iteration)
        if records and self._open:
            self._last_iteration = records[-1]["iteration"]
            self._unless_it_fails(lambda: self._send(records))

    def attach_results(self, results: Mapping[str, Any]) -> None:
        """Attach the table of the final metrics.

        Args:
            results: {task: {metric: percent}}, or {dataset: that}.
        """
        rows = list(table_rows(results))
        if rows and self._open:
            self._unless_it_fails(lambda: self._attach_table(rows))

    def finish(self, whole: bool) -> None:
        """End the run.

        Args:
            whole: training came to its end.
        """
        if self._open:
            self._unless_it_fails(lambda: self._end(whole))
            self._open = False

    def close(self) -> None:
        """End the run if nothing has; it did not come to its end."""
        self.finish(whole=False)

    def _unless_it_fails(self, act: Any) -> None:
        try:
            act()
        except Exception as error:  # of its network, server or disk, in classes of its own
            self._open = False
            logger.warning("%s gets no more values of this run: %s", self.title, _first_line(error))

    @abstractmethod
    def _begin(self, run_id: str | None) -> str:
        """Open a new run, or that of an id; its id."""

    @abstractmethod
    def _send(self, records: Sequence[Mapping[str, float]]) -> None:
        """Send records of ``metrics.json``."""

    @abstractmethod
    def _attach_table(self, rows: list[list[Any]]) -> None:
        """Attach rows of :data:`TABLE_COLUMNS`."""

    @abstractmethod
    def _end(self, whole: bool) -> None:
        """See :meth:`finish`."""


class WandbTracker(Tracker):
    """Weights & Biases; a run that is kept offline lies in ``OUTPUT_DIR/wandb`` until ``wandb sync`` sends it."""

    name, title = "wandb", "Weights & Biases"

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        """See :meth:`Tracker.check`."""
        wandb = import_extra("wandb", "trackers", "ENGINE.TRACKERS wandb")
        if wandb.setup().settings.mode not in ("offline", "dryrun", "disabled"):
            with _refusals_told(cls.title, "log in by `wandb login` or WANDB_API_KEY, or set WANDB_MODE=offline"):
                wandb.login()

    def _begin(self, run_id: str | None) -> str:
        import wandb

        self._run = wandb.init(
            project=self.cfg.ENGINE.TRACKER_PROJECT,
            name=os.environ.get("WANDB_NAME") or run_name(self.cfg.OUTPUT_DIR),
            id=run_id,
            resume="allow" if run_id else None,
            dir=os.environ.get("WANDB_DIR") or self.cfg.OUTPUT_DIR,
            config=plain_config(self.cfg),
            allow_val_change=True,
            settings=wandb.Settings(console="off"),  # log.txt has it
        )
        return self._run.id

    def _send(self, records: Sequence[Mapping[str, float]]) -> None:
        for record in records:
            step = int(record["iteration"])
            if step >= self._run.step:  # a run that goes on repeats iterations that are there, with the same values
                self._run.log({name: value for name, value in record.items() if name != "iteration"}, step=step)

    def _attach_table(self, rows: list[list[Any]]) -> None:
        import wandb

        self._run.log({"final_metrics": wandb.Table(columns=list(TABLE_COLUMNS), data=rows)}, step=self._run.step)

    def _end(self, whole: bool) -> None:
        self._run.finish(exit_code=0 if whole else 1)


class MlflowTracker(Tracker):
    """MLflow; without ``MLFLOW_TRACKING_URI`` it keeps runs in the current folder."""

    name, title = "mlflow", "MLflow"

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        """See :meth:`Tracker.check`."""
        mlflow = import_extra("mlflow", "trackers", "ENGINE.TRACKERS mlflow")
        with _refusals_told(cls.title, "set MLFLOW_TRACKING_URI to a server that answers, or to sqlite:///mlflow.db"):
            # An answer, not the minutes that MLflow waits for one.
            retries = os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
            with mock.patch.dict(os.environ, MLFLOW_HTTP_REQUEST_MAX_RETRIES=retries):
                mlflow.MlflowClient().get_experiment_by_name(cfg.ENGINE.TRACKER_PROJECT)

    def _begin(self, run_id: str | None) -> str:
        import mlflow

        self._client = mlflow.MlflowClient()
        if run_id:
            self._client.update_run(run_id, status="RUNNING")
            self._run_id = run_id
            return run_id
        experiment = self._client.get_experiment_by_name(self.cfg.ENGINE.TRACKER_PROJECT)
        experiment_id = (
            experiment.experiment_id if experiment else self._client.create_experiment(self.cfg.ENGINE.TRACKER_PROJECT)
        )
        self._run_id = self._client.create_run(experiment_id, run_name=run_name(self.cfg.OUTPUT_DIR)).info.run_id
        parameters = [mlflow.entities.Param(key, str(value)[:500]) for key, value in flat(plain_config(self.cfg))]
        for first in range(0, len(parameters), 100):  # the most that it takes at once
            self._client.log_batch(self._run_id, params=parameters[first : first + 100])
        config_file = Path(self.cfg.OUTPUT_DIR, "config.yaml")
        if config_file.exists():
            self._client.log_artifact(self._run_id, str(config_file))
        return self._run_id

    def _send(self, records: Sequence[Mapping[str, float]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(_mlflow_name(name), float(value), now, int(record["iteration"]))
            for record in records
            for name, value in record.items()
            if name != "iteration"
        ]
        for first in range(0, len(metrics), 1000):
            self._client.log_batch(self._run_id, metrics=metrics[first : first + 1000])

    def _attach_table(self, rows: list[list[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([TABLE_COLUMNS, *([*map(csv_text, row)] for row in rows)])
        self._client.log_text(self._run_id, text.getvalue(), "final_metrics.csv")

    def _end(self, whole: bool) -> None:
        self._client.set_terminated(self._run_id, status="FINISHED" if whole else "KILLED")


TRACKERS: dict[str, type[Tracker]] = {tracker.name: tracker for tracker in (WandbTracker, MlflowTracker)}


def build_trackers(cfg: CfgNode) -> list[EventWriter]:
    """The trackers of ``ENGINE.TRACKERS``, whose runs begin with the training."""
    return [TRACKERS[name](cfg) for name in cfg.ENGINE.TRACKERS]


def check_trackers(cfg: CfgNode) -> None:
    """Make sure that the trackers of ``ENGINE.TRACKERS`` can be used; on the first process.

    Raises:
        UserError: one does not exist or cannot be used; the sentence names the way out.
    """
    for name in cfg.ENGINE.TRACKERS:
        if name not in TRACKERS:
            raise UserError(f"ENGINE.TRACKERS names {name!r}; it may name {' and '.join(TRACKERS)}.")
        TRACKERS[name].check(cfg)


def table_rows(results: Mapping[str, Any], prefix: str = "") -> Iterator[list[Any]]:
    """[task, metric, value] of results as of ``DefaultTrainer.test``; the task after its dataset if there are some."""
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from table_rows(value, f"{prefix}/{name}" if prefix else str(name))
        else:
            yield [prefix, name, float(value)]


@contextmanager
def _refusals_told(title: str, way_out: str = "") -> Iterator[None]:
    """Turn what a tracker refuses into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of its network, server or disk, in classes of its own
        hint = way_out or "mend it, or leave the tracker out of ENGINE.TRACKERS"
        raise UserError(f"{title} cannot track the run ({_first_line(error).rstrip('.')}); {hint}.") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _read_runs(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(name): str(run) for name, run in content.items()} if isinstance(content, dict) else {}


def _mlflow_name(name: str) -> str:
    """The name of a metric, without the characters that MLflow refuses."""
    return re.sub(r"[^\w/.\- ]", "_", name)
