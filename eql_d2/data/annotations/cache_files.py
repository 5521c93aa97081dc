"""Cache files made from a source file: where they lie, which content they belong to, how they are written."""

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_CHUNK = 16 << 20
_SECONDS_OF_DOUBT = 2
_ABANDONED_AFTER = 24 * 3600

_sha1 = functools.partial(hashlib.sha1, usedforsecurity=False)  # the fastest of hashlib
_digests: dict[tuple[int, ...], str] = {}


def cache_paths(source: str | Path) -> list[Path]:
    """Where the cache of a file may lie, the best place first.

    Beside the file, else in the user's cache folder; the environment's ``EQL_D2_CACHE`` replaces both.
    """
    path = Path(os.path.realpath(source))
    own_name = f"{path.name}.{_sha1(bytes(path)).hexdigest()[:16]}.cache"
    if os.environ.get("EQL_D2_CACHE"):
        return [Path(os.environ["EQL_D2_CACHE"]).expanduser() / own_name]
    user_folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return [path.with_name(f"{path.name}.cache"), user_folder / "eql_d2" / own_name]


def file_digest(path: str | Path) -> str:
    """What identifies the content of a file: all of its bytes are read, once a process while nothing touches it."""
    with open(path, "rb") as file:
        state = _state(file)
        if state in _digests:
            return _digests[state]
        digest = _digest(lambda offset: os.pread(file.fileno(), _CHUNK, offset), os.fstat(file.fileno()).st_size)
    return _remember(state, digest)


def read_with_digest(path: str | Path, use: Callable[[np.ndarray], Any]) -> tuple[Any, str]:
    """Read a file whole; gives what a function makes of its bytes, and its :func:`file_digest`, computed meanwhile."""
    with open(path, "rb") as file, ThreadPoolExecutor(1) as pool:
        state, data = _state(file), np.fromfile(file, np.uint8)  # large pages: faster than bytes
        digest = pool.submit(_digest, lambda offset: data[offset : offset + _CHUNK], len(data))
        return use(data), _remember(state, digest.result())


def _state(file: BinaryIO) -> tuple[int, ...] | None:
    """What changes whenever a file is written; None while its clock is too coarse to tell."""
    status = os.fstat(file.fileno())
    if time.time() - status.st_ctime < _SECONDS_OF_DOUBT:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _remember(state: tuple[int, ...] | None, digest: str) -> str:
    if state is not None:
        _digests[state] = digest
    return digest


def _digest(chunk_at: Callable[[int], Any], size: int) -> str:
    """SHA-1 of the SHA-1 of each 16 MB, computed by a few threads; as in git, it guards against mistakes only."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        parts = pool.map(lambda offset: _sha1(chunk_at(offset)).digest(), range(0, size, _CHUNK))
        return _sha1(b"".join(parts)).hexdigest()


@contextlib.contextmanager
def one_builder(source: str | Path) -> Iterator[None]:
    """Keep other processes of this machine from making the cache of a file at the same time."""
    with open(source, "rb") as file:
        with contextlib.suppress(OSError):  # a file system without locks: each makes it, the last one stays
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_whole(cache: Path, source: str | Path, write: Callable[[BinaryIO], object]) -> BinaryIO:
    """Write a cache in one piece: other processes see the old file or the new one, never a part of it.

    Args:
        cache: where it will lie.
        source: the file it is made from; who may read that may read the cache.
        write: writes to an empty file.

    Returns:
        The cache, open for reading; it stays the same when another process replaces it.

    Raises:
        OSError: the folder does not take it.
    """
    cache.parent.mkdir(parents=True, exist_ok=True)
    if not cache.parent.stat().st_mode & 0o222:  # meant for reading only, though root could write
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    _remove_abandoned(cache)
    descriptor, partial = tempfile.mkstemp(dir=cache.parent, prefix=f".{cache.name}.", suffix=".partial")
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, os.stat(source).st_mode & 0o666 | 0o600)
            write(file)
        written = open(partial, "rb")  # noqa: SIM115  (stays open)
        os.replace(partial, cache)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    return written


def _remove_abandoned(cache: Path) -> None:
    """Delete what processes that were killed while writing left behind."""
    for partial in cache.parent.iterdir():
        if partial.name.startswith(f".{cache.name}.") and partial.suffix == ".partial":
            with contextlib.suppress(OSError):
                if time.time() - partial.stat().st_mtime > _ABANDONED_AFTER:
                    partial.unlink()
