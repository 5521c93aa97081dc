"""The text of JSON files as people have them."""

import bz2
import codecs
import gzip
import json
import lzma

import numpy as np
import orjson
import pytest

from eql_d2.data.annotations.file_text import as_json, loads, plain_text

TEXT = '{"name": "Bär"}'


def test_what_needs_nothing_is_the_same_object():
    data = np.frombuffer(TEXT.encode(), np.uint8)
    assert plain_text(data) is data


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(gzip.compress(TEXT.encode())),
        gzip.compress(codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be")),
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-32"),
    ],
    ids=["gzip twice", "gzip of UTF-16", "UTF-8 with a mark", "UTF-16", "UTF-32"],
)
def test_packed_and_encoded_texts(packed):
    assert plain_text(packed) == TEXT.encode()
    assert plain_text(np.frombuffer(packed, np.uint8)) == TEXT.encode()
    assert loads(packed) == {"name": "Bär"}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (bz2.compress(b"{}"), "it is packed by bzip2; unpack it first"),
        (lzma.compress(b"{}"), "it is xz; unpack it first"),
        (b" <!DOCTYPE html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "it is a pointer of Git LFS"),
        (gzip.compress(b"{}")[:-5], "gzip: "),
        (gzip.compress(b"{}" * 9)[:12] + b"\xff" * 20, "gzip: "),
    ],
    ids=["bzip2", "xz", "web page", "pointer of Git LFS", "cut gzip", "broken gzip"],
)
def test_archives_and_damage_are_named(data, what):
    with pytest.raises(ValueError, match=f"^{what}"):
        plain_text(data)


def test_what_is_no_number_becomes_its_name():
    text = b'[NaN, Infinity, -Infinity, "NaN", 1]'
    assert loads(text) == ["NaN", "Infinity", "-Infinity", "NaN", 1]
    assert json.loads(as_json(text)) == loads(text)


@pytest.mark.parametrize("text", [b'{"a": ', b"", b"[1,]", b"\xff\xfd", b"[NaN"])
def test_the_complaint_is_the_strict_parsers_alone(text):
    with pytest.raises(orjson.JSONDecodeError) as error:
        loads(text)
    assert error.value.__suppress_context__
    assert as_json(text) is None


def test_nested_beyond_what_python_can_read():
    """A mistake of the file, not of the program."""
    text = b"[" * 100_000 + b"NaN"
    assert as_json(text) is None
    with pytest.raises(ValueError, match="depth"):
        loads(text)
