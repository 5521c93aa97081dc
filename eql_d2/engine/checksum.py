"""A checkpoint's checksum, in the file itself: renamed and copied with it, written or absent with it.

PyTorch's checkpoints are ZIP archives, which may end in a comment; there the SHA-256 of all that is before it stands.
Every reader of ZIP archives, PyTorch included, passes over a comment.
"""

import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

_END_RECORD = b"PK\x05\x06"  # of a ZIP archive: 22 bytes, the last two of them the length of the comment
_END_LENGTH = 22
_MARK = b"sha256:"
_COMMENT_LENGTH = len(_MARK) + 64
_BLOCK = 1 << 22


def seal(path: Path) -> None:
    """Write the checksum of a complete checkpoint into it.

    Args:
        path: as ``torch.save`` leaves it.

    Raises:
        OSError: the disk does not take it.
    """
    with open(path, "r+b") as file:
        size = file.seek(0, 2)
        file.seek(size - _END_LENGTH)
        if file.read(_END_LENGTH)[:4] != _END_RECORD:  # PyTorch's old format; it stays without
            return
        digest = _digest(file, size - 2)
        file.seek(size - 2)
        file.write(_COMMENT_LENGTH.to_bytes(2, "little") + _MARK + digest.encode())


def damage_of(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint; None if nothing is.

    A file without a checksum, of another program or an older version, is judged by the archive's own CRC-32 sums.

    Args:
        path: local file.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            if not size:
                return "it is empty"
            kept = _kept_digest(file, size)
            if kept is not None:
                same = kept == _digest(file, size - _COMMENT_LENGTH - 2)
                return None if same else "its bytes are not those that were written"
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        return f"{broken} in it is damaged" if broken else None
    except FileNotFoundError:
        return "it does not exist"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError):
        return "it is truncated or no checkpoint"


def is_sealed(path: Path) -> bool:
    """Whether a file has a checksum of :func:`seal`."""
    with open(path, "rb") as file:
        return _kept_digest(file, file.seek(0, 2)) is not None


def _kept_digest(file: BinaryIO, size: int) -> str | None:
    if size < _END_LENGTH + _COMMENT_LENGTH:
        return None
    file.seek(size - _END_LENGTH - _COMMENT_LENGTH)
    tail = file.read()
    comment = tail[_END_LENGTH:]
    is_ours = tail[:4] == _END_RECORD and comment.startswith(_MARK)
    if not is_ours:
        return None
    has_length = int.from_bytes(tail[_END_LENGTH - 2 : _END_LENGTH], "little") == _COMMENT_LENGTH
    return comment[len(_MARK) :].decode(errors="replace") if has_length else ""


def _digest(file: BinaryIO, length: int) -> str:
    """SHA-256 of the first bytes of an open file."""
    digest = hashlib.sha256()
    file.seek(0)
    while length:
        block = file.read(min(_BLOCK, length))
        if not block:
            raise EOFError
        digest.update(block)
        length -= len(block)
    return digest.hexdigest()
