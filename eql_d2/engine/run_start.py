"""The start of a run in its folder, the same for every kind of config: whether it goes on, its seed, its logs."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from eql_d2.engine.resuming import check_run_folder, decide_resume
from eql_d2.engine.run_lock import hold_run_folder
from eql_d2.engine.supervision import is_lost_connection
from eql_d2.engine.terminal import LOGGERS, log_for_terminal
from eql_d2.errors import UserError
from eql_d2.plain_files import read_yaml


def decide_start(output_dir: str, resume: str | bool, eval_only: bool) -> str:
    """Whether a run is to go on, the same on all processes; before any of them changes anything.

    Args:
        output_dir: of the run.
        resume: of the command line.
        eval_only: nothing is trained.

    Returns:
        "last" or "last-good"; empty for a new run.

    Raises:
        UserError: there is nothing to resume, or there is a run that a new one would overwrite.
    """
    mode = "last" if resume is True else resume or ""
    decided = comm.all_gather(decide_resume(output_dir, mode, os.environ))[0]
    if not eval_only:
        check_run_folder(output_dir, decided)
    return decided


def _seed_of(text: str) -> int:
    return int(read_yaml(text, "config.yaml")["SEED"])


def kept_or_new_seed(output_dir: str, keep: bool, seed_of: Callable[[str], int] = _seed_of) -> int:
    """The seed that the run of a folder was started with, or a new one, the same on all processes."""
    kept = Path(output_dir) / "config.yaml"
    if keep and kept.exists():
        try:
            seed = seed_of(kept.read_text())
        except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError, UserError):
            raise UserError(
                f"The seed is -1, but {kept}, which has that of the run, is broken; set the seed that log.txt tells."
            ) from None
    else:
        seed = np.random.randint(2**31)
    # Waits for all processes, so that the first does not rewrite the file while another reads it.
    return comm.all_gather(seed)[0]


def start_run(cfg: Any, args: argparse.Namespace, output_dir: str, key: str = "OUTPUT_DIR") -> None:
    """Take a run's folder and start its logs, by Detectron2's ``default_setup``.

    Args:
        cfg: of either kind, complete; it is written into the folder.
        args: of the command line.
        output_dir: the folder.
        key: of the config that names the folder, for the sentence.

    Raises:
        UserError: the folder cannot be written, or another process trains there.
    """
    # What Detectron2 does makes PyTorch warn of a CUDA folder without a GPU, and, on its main branch, of tracing.
    for name in ("torch.utils.cpp_extension", "torch.fx._symbolic_trace"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        if comm.is_main_process() and not args.eval_only:
            hold_run_folder(output_dir)
        with log_for_terminal(), _quiet_logging_failures():
            default_setup(cfg, args)
            setup_logger(output_dir, distributed_rank=comm.get_rank(), name="eql_d2")
    except OSError as error:
        raise UserError(f"{key} {output_dir} cannot be written ({error.strerror}); set another.") from None
    for name in LOGGERS:
        for handler in logging.getLogger(name).handlers:
            setattr(handler, "handleError", LogFailure(handler).tell)  # noqa: B010
    _hide_user_errors()


@contextmanager
def _quiet_logging_failures() -> Iterator[None]:
    """What cannot be logged meanwhile is not told by a traceback a line; :class:`LogFailure` tells it afterwards."""
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = before


class LogFailure:
    """Tells once that a log cannot be written, instead of a traceback for each line.

    Args:
        handler: that writes it.
    """

    def __init__(self, handler: logging.Handler) -> None:
        self._stream = getattr(getattr(handler, "stream", None), "name", "the log")
        self._told = False

    def tell(self, record: logging.LogRecord) -> None:
        """As ``logging.Handler.handleError``."""
        if not self._told:
            self._told = True
            print(f"warning: {self._stream} cannot be written ({sys.exc_info()[1]}).", file=sys.stderr)


def _hide_user_errors() -> None:
    """Keep Detectron2's training loop from logging the traceback of a mistake that one sentence explains."""
    logging.getLogger("detectron2.engine.train_loop").addFilter(_is_not_user_error)


def _is_not_user_error(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    # A process that waits for one which ended by a mistake sees the connection close; the mistake is told already.
    return not (isinstance(error, UserError) or is_lost_connection(str(error)))
