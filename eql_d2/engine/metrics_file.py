"""``metrics.json`` and the curves of a resumed run: those of a run that was never stopped.

A checkpoint holds the recent values of all scalars, so that medians over a window go on; lines of iterations that the
checkpoint does not know of are taken out, as they are written again; what was put but not yet written is written.
"""

import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, TensorboardXWriter, get_event_storage

from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
WINDOW = 20  # iterations of the medians, and between two lines; Detectron2's


class MetricsFile(EventWriter):
    """Writes the scalars to ``metrics.json``, as Detectron2's ``JSONWriter``: one line an iteration.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.last_iteration = -1

    def go_on_from(self, start_iteration: int) -> None:
        """Take out what a run from this iteration writes again, and half a line of a killed one.

        A new run leaves the lines of an earlier attempt, which had no checkpoint, in ``metrics.json.old``.

        Raises:
            UserError: the file is no ``metrics.json``, or the disk does not take it.
        """
        self.last_iteration = -1
        if not self.path.exists():
            return
        try:
            if not start_iteration:
                os.replace(self.path, self.path.with_name(f"{self.path.name}.old"))
                return
            lines = self.path.read_bytes().splitlines(keepends=True)
            kept = [(line, number) for line in lines if (number := _iteration_of(line)) is not None]
            if lines and not kept:
                raise UserError(f"{self.path} is no metrics.json of a run; move it away.")
            kept = [(line, number) for line, number in kept if number < start_iteration]
            self.last_iteration = max((number for _, number in kept), default=-1)
            if len(kept) < len(lines):
                partial = self.path.with_name(f".{self.path.name}.partial")
                partial.write_bytes(b"".join(line for line, _ in kept))
                os.replace(partial, self.path)
        except OSError as error:
            raise _not_written(self.path, error) from None

    def names_at(self, iteration: int) -> set[str]:
        """The scalars that the file has of an iteration."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else ()
        return {name for line in lines if _iteration_of(line) == iteration for name in json.loads(line)}

    def write(self) -> None:
        """Add what has been put since the last time.

        Raises:
            UserError: the disk does not take it.
        """
        records = new_records(self.last_iteration)
        if not records:
            return
        try:
            with open(self.path, "a") as file:
                file.write("".join(json.dumps(record, sort_keys=True) + "\n" for record in records))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _not_written(self.path, error) from None
        self.last_iteration = records[-1]["iteration"]


def new_records(last_iteration: int) -> list[dict[str, Any]]:
    """{scalar: value, "iteration": number} of each iteration after one, with what the storage has of it."""
    by_iteration: dict[int, dict[str, float]] = defaultdict(dict)
    for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(WINDOW).items():
        if iteration > last_iteration:
            by_iteration[iteration][name] = value
    return [{**by_iteration[number], "iteration": number} for number in sorted(by_iteration)]


def read_metrics_file(path: str | Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.json``, one of each line; without the half line of a run that was killed.

    Raises:
        UserError: it is of something else.
    """
    records = []
    for line in Path(path).read_text().splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(record, dict):
            raise UserError(f"{path} is no metrics.json of a run; move it away.")
        records.append(record)
    return records


class TensorboardFile(EventWriter):
    """Detectron2's TensorBoard writer, opened with the first value; on a full disk it ends with one warning.

    Args:
        folder: for the events.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._start_iteration = 0
        self._writer: TensorboardXWriter | None = None
        self._failed = False

    def go_on_from(self, start_iteration: int) -> None:
        """TensorBoard is to show no values of a stopped run from this iteration on."""
        self._start_iteration = start_iteration

    def write(self) -> None:
        """Add what has been put since the last time."""
        if self._failed:
            return
        try:
            if self._writer is None:
                self._writer = TensorboardXWriter(self._folder, WINDOW, purge_step=self._start_iteration or None)
            self._writer.write()
        except OSError as error:
            self._failed = True
            logger.warning("TensorBoard gets no more values of this run: %s.", error.strerror or error)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer is not None and not self._failed:
            try:
                self._writer.close()
            except OSError as error:
                logger.warning("TensorBoard has not got the last values of this run: %s.", error.strerror or error)


class KeepScalars(HookBase):
    """Keeps the recent values of all scalars in checkpoints; the first hook, so that others find them."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[bool, list[tuple[float, int]]]] = {}

    def before_train(self) -> None:
        """Put what a checkpoint holds, each value at its iteration."""
        storage = self.trainer.storage
        for name, (smoothed, values) in self._kept.items():
            for value, iteration in values:
                storage.iter = iteration
                storage.put_scalar(name, value, smoothing_hint=smoothed)
        storage.iter = self.trainer.iter

    def state_dict(self) -> dict[str, Any]:
        """{name: (whether medians are shown, [(value, iteration)] of a window)}."""
        storage = getattr(self.trainer, "storage", None)
        if storage is None:
            return {}
        hints, histories = storage.smoothing_hints(), storage.histories()
        return {name: (hints[name], histories[name].values()[-WINDOW:]) for name in storage.latest()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember them until training begins."""
        self._kept = state_dict


class WriteMetrics(HookBase):
    """Detectron2's ``PeriodicWriter`` for runs that resume: a stopped run writes no line that another would not.

    Args:
        writers: those with ``go_on_from`` are told where the run starts, those with ``attach_results`` and ``finish``
            what it came to.
    """

    def __init__(self, writers: list[EventWriter]) -> None:
        self.writers = writers
        self._closed = False

    def before_train(self) -> None:
        """Write the line that a killed run owes."""
        start = self.trainer.start_iter
        for writer in self.writers:
            if hasattr(writer, "go_on_from"):
                writer.go_on_from(start)
        files = [writer for writer in self.writers if isinstance(writer, MetricsFile)]
        if start and start % WINDOW == 0 and any(file.last_iteration < start - 1 for file in files):
            for writer in self.writers:
                if isinstance(writer, MetricsFile) or hasattr(writer, "finish"):
                    writer.write()

    def after_step(self) -> None:
        """Write every so often."""
        if (self.trainer.iter + 1) % WINDOW == 0 or self.trainer.iter == self.trainer.max_iter - 1:
            for writer in self.writers:
                writer.write()

    def after_train(self) -> None:
        """Write what the last evaluation gave."""
        if self.trainer.iter >= self.trainer.max_iter:
            for writer in self.writers:
                writer.write()
                if hasattr(writer, "finish"):  # a tracker
                    writer.attach_results(getattr(self.trainer, "_last_eval_results", None) or {})
                    writer.finish(whole=True)
        self.close()

    def close(self) -> None:
        """Close the files; also of a run that was stopped."""
        if not self._closed:
            self._closed = True
            for writer in self.writers:
                writer.close()


class RepeatMissedEvaluation(EvalHook):
    """Evaluates at the start of a resumed run if the stopped one had just come to it; before :class:`WriteMetrics`.

    Args:
        eval_period: ``TEST.EVAL_PERIOD``.
        evaluate: as of Detectron2's hook.
        metrics_file: says whether the results are there.
    """

    def __init__(self, eval_period: int, evaluate: Callable[[], Any], metrics_file: Path) -> None:
        super().__init__(eval_period, evaluate)
        self._eval_period = eval_period
        self._metrics_file = metrics_file

    def before_train(self) -> None:
        """Evaluate if need be."""
        start, storage = self.trainer.start_iter, self.trainer.storage
        if not (start and self._eval_period > 0 and start % self._eval_period == 0 and start < self.trainer.max_iter):
            return
        put_in_training = {name for name, (_, iteration) in storage.latest().items() if iteration == start - 1}
        in_file = MetricsFile(self._metrics_file).names_at(start - 1)
        if comm.all_gather(bool(in_file - put_in_training - {"iteration"}))[0]:
            return
        storage.iter = start - 1
        self._do_eval()
        storage.iter = start

    def after_step(self) -> None:
        """Nothing; the usual hook evaluates."""

    def after_train(self) -> None:
        """Nothing; the usual hook evaluates."""


def _iteration_of(line: bytes) -> int | None:
    """That of a line of the file; None of half a line and of what is something else."""
    try:
        number = json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return number if isinstance(number, int) and line.endswith(b"\n") else None


def _not_written(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written ({error.strerror}); free some space and go on with --resume.")
