"""Annotation files, each parsed once and then read from a packed cache.

The cache lies beside the annotation file (``lvis_v1_train.json.cache``) or, where that folder cannot be written, in
the user's cache folder; the environment variable ``EQL_D2_CACHE`` names another folder. It belongs to the content of
the annotation file, and is made again when that changes or when the cache itself is damaged.
"""

import logging
import os
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import orjson

from eql_d2.data.annotations.cache_files import cache_paths, file_digest, one_builder, read_with_digest, write_whole
from eql_d2.data.annotations.packing import MAGIC, PREAMBLE, PackedIndex, write_packed
from eql_d2.data.annotations.parsing import ParsedAnnotations
from eql_d2.data.annotations.rules import not_lvis_format, unreadable_file
from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

_decode_image = msgspec.json.Decoder(tuple[dict[str, Any], msgspec.Raw]).decode


class PackedAnnotations:
    """The records of an annotation file, each image's read from the packed file when they are asked for.

    Nothing but the index is held in memory, so that all processes of a machine share the system's one copy of the
    text. The file stays open: who reads from it goes on with the same annotations when the cache is made anew.

    Args:
        source: the annotation file.
        file: its packed form, open for reading.
        cache: path of the packed form; None for a file without a name.

    Attributes:
        digest: identifies the content of the annotation file.
        findings: what is wrong or remarkable about the file; annotations and images with a defect are left out here.
        federated: whether its images say which classes they are labelled for (LVIS), or are labelled for all (COCO).
        image_ids: (N,) uint64, ascending.
        sizes: (N, 2) float64, width and height of the images in pixels.
        annotation_starts: (N + 1,) int64, where each image's annotations start among all.
        categories: (A,) int32, contiguous class of each annotation, in [0, K).
        regions: (A,) bool, annotations that are no instance but a region to ignore (``iscrowd`` or ``ignore``).
        run_lengths: (A,) bool, annotations whose mask is stored as run lengths.

    Raises:
        ValueError: the packed file is damaged; the text says how.
    """

    def __init__(self, source: str | Path, file: BinaryIO, cache: Path | None) -> None:
        self.source, self.cache = source, cache
        self._file = file
        index = _read_index(file)
        self.digest, self.findings = index.digest, index.findings
        self.federated = index.federated
        self._category_records = index.category_records
        self.image_ids = np.frombuffer(index.image_ids, np.uint64)
        self.sizes = np.frombuffer(index.sizes, np.float64).reshape(-1, 2)
        self.annotation_starts = np.frombuffer(index.annotation_starts, np.int64)
        self.categories = np.frombuffer(index.categories, np.int32)
        self.regions = np.frombuffer(index.regions, np.bool_)
        self.run_lengths = np.frombuffer(index.run_lengths, np.bool_)
        self._text_starts = np.frombuffer(index.text_starts, np.int64)
        self._checksums = np.frombuffer(index.checksums, np.uint32)

    def __len__(self) -> int:
        """N, the number of images."""
        return len(self.image_ids)

    def __reduce__(self) -> tuple:
        return _reopen, (self.source, self.cache, self.digest)  # a few bytes: the annotations stay where they are

    @property
    def category_records(self) -> list[dict[str, Any]]:
        """The category records of the file, in ascending order of ids."""
        return sorted(orjson.loads(self._category_records), key=lambda record: record["id"])

    def records(self, index: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The records of one image as the annotation file has them, with values made right: ids are those of the file.

        Args:
            index: place of the image in ``image_ids``.

        Returns:
            The image record and its annotation records, in the order of the file.

        Raises:
            UserError: the text cannot be read, nor be restored from the annotation file.
        """
        text = self._whole_text(index)
        try:
            return tuple(orjson.loads(text))
        except orjson.JSONDecodeError as error:
            raise not_lvis_format(self.source, f"{error} in the records of image {self.image_ids[index]}") from None

    def image_record(self, index: int) -> dict[str, Any]:
        """The record of one image alone, for which its annotations are not parsed; see :meth:`records`."""
        return _decode_image(self._whole_text(index))[0]

    def place_of(self, annotation: int) -> int:
        """The place in ``image_ids`` of the image of an annotation, which is named by its place among all."""
        return int(np.searchsorted(self.annotation_starts, annotation, side="right")) - 1

    def ids_of(self, annotation: int) -> tuple[int, int]:
        """The ids of an annotation, which is named by its place among all, and of its image."""
        place = self.place_of(annotation)
        image, records = self.records(place)
        return records[annotation - int(self.annotation_starts[place])]["id"], image["id"]

    def ground_truth(self, image_id: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The records of the image of an id, see :meth:`records`.

        Raises:
            KeyError: there is no such image.
        """
        known = 0 <= image_id < 2**64
        index = int(np.searchsorted(self.image_ids, np.uint64(image_id))) if known else len(self)
        if index == len(self) or self.image_ids[index] != image_id:
            raise KeyError(image_id)
        return self.records(index)

    def _whole_text(self, index: int) -> bytes:
        """The JSON of an image's records, mended if need be."""
        text = self._text(index)
        if text is None:
            self._mend(index)
            text = self._text(index)
        if text is None:
            raise UserError(
                f"Cache {self.cache} of annotation file {self.source} is damaged again after it was made anew; set "
                "EQL_D2_CACHE to a folder on another disk."
            )
        return text

    def _text(self, index: int) -> bytes | None:
        """The JSON of an image's records; None where it is damaged."""
        start, stop = self._text_starts[index : index + 2].tolist()
        text = os.pread(self._file.fileno(), stop - start, start)  # moves no file position: processes share it
        return text if zlib.crc32(text) == self._checksums[index] else None

    def _mend(self, index: int) -> None:
        """Go on with another cache of the same annotations, where the text of an image is whole."""
        logger.warning("Cache %s of annotation file %s is damaged; making it again.", self.cache, self.source)
        try:
            with one_builder(self.source):
                other = _from_cache(self.source, self.digest)  # another process may have mended it
                if other is None or other._text(index) is None:
                    other = _build(self.source)
        except OSError as error:
            raise unreadable_file(self.source, error) from None
        _check_unchanged(other, self.digest)
        self._file, self.cache = other._file, other.cache


_opened: dict[str, PackedAnnotations] = {}


def open_annotations(path: str | Path) -> PackedAnnotations:
    """Open an annotation file, by its cache where that is up to date.

    The cache is made at the first use, by one process while the others wait. A file that changes later is read anew;
    what was opened before keeps its annotations, and a warning says so.

    Args:
        path: JSON in the LVIS or COCO format.

    Raises:
        UserError: the file is missing, truncated, not JSON or not in the LVIS format.
    """
    try:
        opened = _opened_or_cached(path)
        if opened is None:
            with one_builder(path):
                opened = _opened_or_cached(path)  # another process may have made it meanwhile
                opened = _build(path) if opened is None else opened
    except OSError as error:
        raise unreadable_file(path, error) from None
    _opened[os.path.abspath(path)] = opened
    return opened


def _opened_or_cached(path: str | Path) -> PackedAnnotations | None:
    """The annotations of a file, if they need no parsing."""
    earlier = _opened.get(os.path.abspath(path))
    if earlier is None and not any(cache.exists() for cache in cache_paths(path)):
        return None
    digest = file_digest(path)
    if earlier is not None and earlier.digest == digest:
        return earlier
    _warn_of_change(path)
    return _from_cache(path, digest)


def _warn_of_change(path: str | Path) -> None:
    """Log a warning if a file is no longer what this process opened before."""
    earlier = _opened.get(os.path.abspath(path))
    if earlier is not None and earlier.digest != file_digest(path):
        logger.warning("Annotation file %s changed; what was read before goes on with the old annotations.", path)


def _reopen(path: str | Path, cache: Path | None, digest: str) -> PackedAnnotations:
    """The same annotations in another process."""
    opened = _open_cache(path, cache) if cache is not None else None
    if opened is None or opened.digest != digest:
        opened = open_annotations(path)
    _check_unchanged(opened, digest)
    return opened


def _check_unchanged(annotations: PackedAnnotations, digest: str) -> None:
    if annotations.digest != digest:
        raise UserError(f"Annotation file {annotations.source} changed while a job was using it; start the job again.")


def _from_cache(path: str | Path, digest: str) -> PackedAnnotations | None:
    """The annotations of a content from the cache; None where there is no good one."""
    candidates = (_open_cache(path, cache) for cache in cache_paths(path))
    return next((opened for opened in candidates if opened is not None and opened.digest == digest), None)


def _open_cache(path: str | Path, cache: Path) -> PackedAnnotations | None:
    """The annotations of one cache file; None where it is missing or damaged."""
    try:
        file = open(cache, "rb")  # noqa: SIM115  (stays open)
    except OSError:
        return None
    try:
        return PackedAnnotations(path, file, cache)
    except (ValueError, OSError) as error:
        file.close()
        logger.warning("Cache %s of annotation file %s is not used: %s.", cache, path, error)
        return None


def _build(path: str | Path) -> PackedAnnotations:
    """Parse an annotation file and write its cache, to the first folder that takes it."""
    start = time.perf_counter()
    parsed, digest = read_with_digest(path, lambda data: ParsedAnnotations(path, data))
    reasons = []
    for cache in cache_paths(path):
        try:
            file = write_whole(cache, path, lambda file: write_packed(parsed, file, digest))
        except OSError as error:
            reasons.append(f"{cache.parent}: {error.strerror}")
            continue
        logger.info("Read %s in %.1f s; its cache is %s.", path, time.perf_counter() - start, cache)
        return PackedAnnotations(path, file, cache)
    logger.warning("No cache of %s (%s); set EQL_D2_CACHE to a folder for it.", path, ", ".join(reasons))
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115  (stays open)
        write_packed(parsed, file, digest)
        file.flush()
    except OSError as error:
        raise UserError(
            f"The cache of annotation file {path} is as large as the file, and {tempfile.gettempdir()} does not take "
            f"it either ({error.strerror}); set EQL_D2_CACHE to a folder that does."
        ) from None
    return PackedAnnotations(path, file, None)


def _read_index(file: BinaryIO) -> PackedIndex:
    """The tail of a packed file.

    Raises:
        ValueError: it is no whole packed file.
    """
    size = os.fstat(file.fileno()).st_size
    preamble = os.pread(file.fileno(), PREAMBLE.size, 0)
    if len(preamble) < PREAMBLE.size:
        raise ValueError("it is truncated")
    magic, whole_size, tail_start, checksum = PREAMBLE.unpack(preamble)
    if magic != MAGIC:
        raise ValueError("it has another form")
    if size != whole_size or tail_start > size:
        raise ValueError("it is truncated")
    tail = os.pread(file.fileno(), size - tail_start, tail_start)
    if zlib.crc32(tail) != checksum:
        raise ValueError("its index is damaged")
    return msgspec.msgpack.decode(tail, type=PackedIndex)
