"""The results of an evaluation on disk: each process writes its part as it goes, the first joins them."""

import logging
import shutil
import uuid
from pathlib import Path
from typing import Any

import orjson
from detectron2.utils import comm

from eql_d2.errors import UserError

logger = logging.getLogger(__name__)


class ResultParts:
    """Writes one JSON list of results, or a file of lines, from all processes, without holding it in memory.

    A process's part lies next to the file, under a name with its rank and a word drawn by chance, so that what
    an interrupted run has left never mixes in; the next run that ends there deletes it. The processes of several
    machines have to share the folder.

    Args:
        path: the file to make.
        head, separator, tail: what it begins with, what is between its records, what it ends with.
    """

    def __init__(self, path: Path, head: bytes = b"[", separator: bytes = b",\n", tail: bytes = b"]") -> None:
        self._path = path
        self._head, self._separator, self._tail = head, separator, tail
        self._part = path.with_name(f"{path.name}.part-{comm.get_rank()}-{uuid.uuid4().hex[:12]}")
        self._file: Any = None

    def write(self, results: list[dict[str, Any]]) -> None:
        """Append results to this process's part of a JSON list.

        Raises:
            UserError: the folder cannot be written.
        """
        if results:
            self.append(orjson.dumps(results)[1:-1])

    def append(self, records: bytes) -> None:
        """Append records as text, with separators between them.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self._part, "wb")  # noqa: SIM115 (stays open until joined or discarded)
            else:
                self._file.write(self._separator)
            self._file.write(records)
        except OSError as error:
            raise self._cannot_write(error) from None

    def discard(self) -> None:
        """Delete this process's part."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._part.unlink(missing_ok=True)

    def join(self, distributed: bool) -> Path | None:
        """Make the file of the parts of all processes, and delete the parts.

        Args:
            distributed: join those of all processes; every process has to call this.

        Returns:
            The file on the first process; None elsewhere, and where parts are out of sight because machines do
            not share the folder: those are left where they are.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            if self._file is not None:
                self._file.close()
            part = (self._part.name, self._part.stat().st_size) if self._file is not None else None
            parts = comm.gather(part, dst=0) if distributed else [part]
            if not parts:
                return None
            written = [part for part in parts if part]
            if not all(self._is_whole(*part) for part in written):
                logger.warning(
                    "%s is not written: the processes' parts %s.part-* are not all in that folder; several machines "
                    "have to share OUTPUT_DIR. The metrics are not affected.",
                    self._path,
                    self._path.name,
                )
                return None
            return self._join([self._path.with_name(name) for name, _ in written])
        except OSError as error:
            raise self._cannot_write(error) from None

    def _is_whole(self, name: str, size: int) -> bool:
        part = self._path.with_name(name)
        return part.exists() and part.stat().st_size == size

    def _join(self, parts: list[Path]) -> Path:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._part.with_name(f"{self._part.name}-all")
        with open(whole, "wb") as target:
            target.write(self._head)
            for number, part in enumerate(parts):
                target.write(self._separator if number else b"")
                with open(part, "rb") as source:
                    shutil.copyfileobj(source, target, 1 << 20)
            target.write(self._tail)
        whole.replace(self._path)
        for left_over in self._path.parent.glob(f"{self._path.name}.part-*"):
            left_over.unlink(missing_ok=True)
        return self._path

    def _cannot_write(self, error: OSError) -> UserError:
        return UserError(f"{self._path} cannot be written ({error.strerror}); free space or set another OUTPUT_DIR.")
