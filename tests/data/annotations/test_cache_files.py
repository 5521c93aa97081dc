"""What a content is known by: all of its bytes, which are read again only if nothing can have touched the file."""

import os
import time
from types import SimpleNamespace

import pytest

from eql_d2.data.annotations import cache_files
from eql_d2.data.annotations.cache_files import file_digest, read_with_digest, write_whole


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a.json").write_bytes(b"first")
    return tmp_path / "a.json"


def write_later(path, content):
    """Other content in the same file, at a time that the file system tells from the last one."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        path.write_bytes(content)


def test_a_change_that_leaves_the_size_is_noticed(path, monkeypatch):
    monkeypatch.setattr(cache_files, "_SECONDS_OF_DOUBT", 0)  # as if the writing was long ago
    first = file_digest(path)
    write_later(path, b"other")
    assert file_digest(path) != first
    write_later(path, b"first")
    assert file_digest(path) == first


def test_an_old_file_is_read_once(path, monkeypatch):
    monkeypatch.setattr(cache_files, "_SECONDS_OF_DOUBT", 0)
    read, first = [], file_digest(path)
    monkeypatch.setattr(cache_files, "_digest", lambda *arguments: read.append(arguments))
    assert file_digest(path) == first
    assert not read


def test_a_clock_too_coarse_to_tell_two_writes_apart(path, monkeypatch):
    """Both writes fall into the same second, and the file system keeps no finer times."""
    second = int(time.time())

    def coarse(descriptor):
        real = fstat(descriptor)
        times = {"st_ctime": second, "st_ctime_ns": second * 10**9, "st_mtime_ns": second * 10**9}
        return SimpleNamespace(st_dev=real.st_dev, st_ino=real.st_ino, st_size=real.st_size, **times)

    fstat = os.fstat
    monkeypatch.setattr(os, "fstat", coarse)
    first = file_digest(path)
    path.write_bytes(b"other")
    assert file_digest(path) != first


def test_reading_and_digest_in_one(path):
    content, digest = read_with_digest(path, bytes)
    assert content == b"first"
    assert digest == file_digest(path)


def test_the_digest_is_of_all_chunks(path, monkeypatch):
    digests = set()
    monkeypatch.setattr(cache_files, "_CHUNK", 4)
    for content in (b"abcdefghi", b"abcdefghj", b"abcdxfghi", b"xbcdefghi", b"abcdefgh", b"efghabcdi"):
        path.write_bytes(content)
        digests.add(file_digest(path))
        assert read_with_digest(path, len)[1] == file_digest(path)
    assert len(digests) == 6


@pytest.mark.parametrize(("mode", "of_cache"), [(0o757, 0o646), (0o640, 0o640), (0o400, 0o600)])
def test_who_may_read_the_file_may_read_the_cache(path, tmp_path, mode, of_cache):
    path.chmod(mode)
    write_whole(tmp_path / "cache", path, lambda file: file.write(b"made")).close()
    assert (tmp_path / "cache").stat().st_mode & 0o777 == of_cache
