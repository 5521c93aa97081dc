"""The JSON text of a file as people have them: with a byte order mark, in UTF-16, packed by gzip, with NaN."""

import codecs
import gzip
import json
import zlib
from typing import Any

import orjson

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ARCHIVES = {
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"BZh": "packed by bzip2",
    b"\xfd7zXZ": "xz",
}

_NO_JSON = {
    b"<": "it is a web page or XML",
    b"version https://git-lfs": "it is a pointer of Git LFS; git lfs pull fetches the file itself",
}


_IN_COCO = "export COCO's format there"
# What other JSON of annotation tools has near its start, all of it, and what to do with such a file.
_OTHER_FORMS = (
    ((b'"image_id"', b'"score"'), "a results file, which tools/evaluate.py takes as --results"),
    ((b'"coordinates"', b'"annotations"'), "Create ML's form, which tools/start_project.py converts"),
    ((b'"_via_',), "VIA's own form, which tools/start_project.py reads"),
    ((b'"filename"', b'"regions"'), "VIA's own form, which tools/start_project.py reads"),
    ((b'"shapes"', b'"imagePath"'), "LabelMe's form; tools/start_project.py converts a folder of such files"),
    ((b'"from_name"', b'"to_name"'), "Label Studio's own form, which tools/start_project.py reads"),
    ((b'labels"', b'"image"', b'"id"'), "Label Studio's own form, which tools/start_project.py reads"),
    ((b'"data_row"',), f"Labelbox's own form; {_IN_COCO}"),
    ((b'"classTitle"',), f"Supervisely's own form; {_IN_COCO}"),
    ((b'"label"', b'"items"'), f"Datumaro's own form; {_IN_COCO}"),
    ((b'"FeatureCollection"',), "GeoJSON; convert it to COCO's format"),
)


def other_form(text: Any) -> str:
    """What JSON that is neither LVIS's nor COCO's looks like, in brackets, as a part of a sentence; empty if nothing.

    Args:
        text: the JSON text.
    """
    head = bytes(text[: 1 << 16])
    name = next((name for marks, name in _OTHER_FORMS if all(mark in head for mark in marks)), None)
    return f" (it looks like {name})" if name else ""


def plain_text(data: Any) -> Any:
    """The UTF-8 text of a JSON file: unpacked if it is gzip's, without a byte order mark.

    Args:
        data: what the file holds, bytes or an array of them.

    Returns:
        The same object where there is nothing to do, else bytes.

    Raises:
        ValueError: it is a web page, another kind of archive, or gzip's and damaged; the text says what.
    """
    head = bytes(data[:8])
    if head.startswith(b"\x1f\x8b"):
        try:
            return plain_text(gzip.decompress(bytes(data)))
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"gzip: {error}") from None
    for magic, name in _ARCHIVES.items():
        if head.startswith(magic):
            raise ValueError(f"it is {name}; unpack it first")
    start = bytes(data[:100]).lstrip().lower()
    for beginning, name in _NO_JSON.items():
        if start.startswith(beginning):
            raise ValueError(name)
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            text = bytes(data)[len(mark) :]
            return text if encoding == "utf-8" else text.decode(encoding).encode()
    return data


def loads(data: Any) -> Any:
    """Parse a JSON file; NaN and Infinity, which are not JSON but often written, become texts of that name.

    Args:
        data: what the file holds.

    Raises:
        ValueError: it is truncated or not JSON.
    """
    text = plain_text(data)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        try:
            return json.loads(bytes(text), parse_constant=str)
        except (ValueError, RecursionError):
            raise error from None


def as_json(data: Any) -> bytes | None:
    """The text of a file that would be JSON but for NaN and Infinity, with texts of that name; None for another."""
    try:
        return orjson.dumps(json.loads(bytes(data), parse_constant=str))
    except (ValueError, TypeError, RecursionError):
        return None
