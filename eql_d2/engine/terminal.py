"""What of a run's log the terminal shows: what someone who waits reads; everything is in the log file."""

import contextlib
import io
import logging
import re
import sys
from collections.abc import Iterator

from detectron2.utils import comm

LOGGERS = ("detectron2", "fvcore", "eql_d2")
# Of Detectron2's messages: the start, losses, time that a training took, progress and tables of evaluators; not its
# lines to be copied into a spreadsheet.
SHOWN = ("detectron2.utils.events", "detectron2.engine.hooks", "detectron2.engine.train_loop", "detectron2.evaluation.")
HIDDEN = "detectron2.evaluation.testing"
_COLOUR_CODE = re.compile(r"\x1b\[[0-9;]*m")


class TerminalHandler(logging.Handler):
    """Shows a run's messages where standard output is now.

    It shows warnings and errors, one-line messages of this project, and :data:`SHOWN`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", datefmt="%m/%d %H:%M:%S"))

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is for the terminal."""
        if record.levelno >= logging.WARNING or hasattr(record, "for_terminal"):
            return super().filter(record) is not False
        ours = record.name.startswith("eql_d2") and "\n" not in record.getMessage()
        return (ours and record.levelno >= logging.INFO) or (record.name.startswith(SHOWN) and record.name != HIDDEN)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message; colours only where they are shown."""
        try:
            text = self.format(record)
            if record.levelno >= logging.WARNING:
                text = text.replace("] ", f"] {record.levelname}: ", 1)
            sys.stdout.write((text if sys.stdout.isatty() else without_colour(text)) + "\n")
            sys.stdout.flush()
        except Exception:  # as every handler: a log that cannot be written ends no run
            self.handleError(record)


class _PlainFormatter(logging.Formatter):
    """Another formatter's text without colour codes."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        return without_colour(self._formatter.format(record))


def without_colour(text: str) -> str:
    """A text without a terminal's colour codes."""
    return _COLOUR_CODE.sub("", text)


@contextlib.contextmanager
def log_for_terminal() -> Iterator[None]:
    """Let the loggers that are set up inside the block write their files in plain text, and to the terminal by
    :class:`TerminalHandler`."""
    placeholder = io.StringIO()
    with contextlib.redirect_stdout(placeholder):
        yield
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if getattr(handler, "stream", None) is placeholder:
                logger.removeHandler(handler)
            elif not isinstance(handler, TerminalHandler) and not isinstance(handler.formatter, _PlainFormatter):
                handler.setFormatter(_PlainFormatter(handler.formatter or logging.Formatter()))
        shown = any(isinstance(handler, TerminalHandler) for handler in logger.handlers)
        if comm.is_main_process() and not shown:
            logger.addHandler(TerminalHandler())
