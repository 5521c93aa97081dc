"""Annotation files that are made from others: where they lie, and whether they still belong to their sources."""

import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from eql_d2.data.annotations.cache_files import cache_paths, one_builder, write_whole
from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

_HEAD = 4096  # bytes that hold the digest
_DIGEST = re.compile(rb'"digest": ?"([0-9a-f]{40})"')


def made_file(source: Path, key: str) -> Path:
    """Where the file made from a source lies or will lie: beside it, else in the cache folder.

    Args:
        source: the file it is made from.
        key: what tells several files of one source apart.
    """
    beside, *others = cache_paths(source)
    path = others[0] if others and not _takes_files(source.parent) else beside
    return path.with_name(f"{path.name.removesuffix('.cache')}.{key}.json")


def _takes_files(folder: Path) -> bool:
    if not folder.exists():
        return True  # nor is there anything to convert
    return os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)


def ensure_made(path: Path, source: Path, digest: str, write: Callable[[BinaryIO], object]) -> Path:
    """Make a file from a source, unless it is there with the same digest.

    Of several processes one makes it while the others wait.

    Args:
        path: of :func:`made_file`.
        source: the file it is made from.
        digest: 40 hexadecimal digits that identify all it is made from.
        write: writes the file, the digest in its first 4096 bytes.

    Raises:
        UserError: the folder cannot be written.
    """
    if digest_in(path) == digest:
        return path
    with one_builder(source):
        if digest_in(path) != digest:  # another process may have made it meanwhile
            start = time.perf_counter()
            logger.info("Converting %s to %s.", source, path)
            try:
                write_whole(path, source, write).close()
            except OSError as error:
                raise UserError(
                    f"Annotation file {path} cannot be written ({error.strerror}); set EQL_D2_CACHE to a folder for it."
                ) from None
            logger.info("Converted %s in %.0f s.", source, time.perf_counter() - start)
    return path


def digest_in(path: Path) -> str | None:
    """The digest that an annotation file was written with; None where there is none."""
    try:
        with open(path, "rb") as file:
            found = _DIGEST.search(file.read(_HEAD))
    except OSError:
        return None
    return found[1].decode() if found else None
