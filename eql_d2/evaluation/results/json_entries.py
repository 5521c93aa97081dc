"""The entries of a large JSON list, one by one, without holding the list."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from eql_d2.errors import UserError

WINDOW = 16 << 20  # bytes read at a time; no entry may be longer than four of them
# Where an entry can end. This may occur within an entry, too; what it ends then is not JSON.
END_OF_ENTRY = re.compile(rb"\}\s*(?:,\s*\{|\])")
SPACE = re.compile(rb"\s*")


def json_entries(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, dict[str, Any], bool]]:
    """Read a JSON list of dictionaries; NaN and Infinity, which are not JSON but often written, pass.

    Args:
        file: open at its start.
        path: its name, for messages.

    Yields:
        Of each entry the offset and the length in bytes, the content, and whether it is strict JSON.

    Raises:
        UserError: the file is truncated, or not such a list.
    """
    if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        file.seek(0)
    window = _Window(file)
    window.base = file.tell()
    if window.next_byte() != b"[":
        raise UserError(f"Results file {path} is not a JSON list of results{_kind_of(file)}.")
    window.position += 1
    number = 0
    while window.next_byte() != b"]":
        if number and window.next_byte() == b",":
            window.position += 1
            window.next_byte()
        elif number:
            raise _broken(path, number)
        found = window.entry()
        if found is None:
            raise _broken(path, number)
        content, length, strict = found
        if not isinstance(content, dict):
            raise UserError(f"Results file {path}: result {number} (counted from 0) is not a dictionary.")
        yield window.base + window.position, length, content, strict
        window.position += length
        number += 1
    window.position += 1
    if window.next_byte():
        raise UserError(f"Results file {path} goes on after the end of its list.")


def _kind_of(file: BinaryIO) -> str:
    file.seek(0)
    head = file.read(4)
    in_utf_16 = "in UTF-16; write it in UTF-8"
    kinds = {b"\x1f\x8b": "packed by gzip; unpack it", b"PK": "a zip archive; unpack it"}
    kinds |= {codecs.BOM_UTF16_LE: in_utf_16, codecs.BOM_UTF16_BE: in_utf_16}
    return next((f", but {kind} first" for magic, kind in kinds.items() if head.startswith(magic)), "")


def _broken(path: Path, number: int) -> UserError:
    return UserError(
        f"Results file {path} is truncated or not JSON: result {number} (counted from 0) cannot be read; write it anew."
    )


class _Window:
    """The part of a file in memory, and the place in it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._text = b""
        self.base = self.position = 0

    def _read_on(self) -> bool:
        more = self._file.read(WINDOW)
        self._text = self._text[self.position :] + more
        self.base += self.position
        self.position = 0
        return bool(more)

    def next_byte(self) -> bytes:
        """Skip space; the byte that follows it, nothing at the end of the file."""
        while True:
            space = SPACE.match(self._text, self.position)
            self.position = space.end() if space else self.position
            if self.position < len(self._text) or not self._read_on():
                return self._text[self.position : self.position + 1]

    def entry(self) -> tuple[Any, int, bool] | None:
        """Content, length and strictness of the entry here; None if there is no whole one."""
        while True:
            found = _parse_entry(self._text, self.position)
            if found or len(self._text) - self.position > 4 * WINDOW or not self._read_on():
                return found


def _parse_entry(window: bytes, position: int) -> tuple[Any, int, bool] | None:
    for attempt, end in enumerate(END_OF_ENTRY.finditer(window, position)):
        text = window[position : end.start() + 1]
        try:
            return orjson.loads(text), len(text), True
        except orjson.JSONDecodeError:
            if attempt == 3:
                break
    # Python's own reader is slow, finds the end of an entry by itself, and lets NaN through.
    for size in (1 << 16, len(window)):
        decoded = window[position : position + size].decode("utf-8", errors="ignore")
        try:
            content, length = json.JSONDecoder().raw_decode(decoded)
            return content, len(decoded[:length].encode()), False
        except json.JSONDecodeError:
            continue
    return None
