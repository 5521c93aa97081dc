"""Turning an annotation file into its packed form: the same records, those of an image together.

A packed file is
    preamble   magic, size of the whole file, start and CRC-32 of the tail
    text       for each image, in ascending order of ids: the JSON ``[image, [annotation, ...]]``, as in the source
    tail       PackedIndex as MessagePack
It is made with little more memory than the source takes: records are parsed one by one, to check them, and stay text.
"""

import struct
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from msgspec import UNSET, Raw, UnsetType

from eql_d2.data.annotation_rules import (
    RLE,
    broken_file,
    id_complaint,
    in_python_terms,
    not_lvis_format,
    segmentation_complaint,
)

MAGIC = b"EQLD2P01"  # ends in the version of this form
PREAMBLE = struct.Struct("<8sQQI")
_FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


class PackedIndex(msgspec.Struct):
    """The tail: what is known of N images and A annotations without reading their text.

    Attributes:
        digest: identifies the content of the source.
        complaint: why the file is no dataset; None where nothing is wrong.
        category_records: JSON of the category records.
        image_ids: (N,) int64, ascending.
        sizes: (N, 2) float64, width and height.
        annotation_starts: (N + 1,) int64, where each image's annotations start among all.
        categories: (A,) int32, contiguous class of each annotation.
        text_starts: (N + 1,) int64, where each image's text starts in the file.
        checksums: (N,) uint32, CRC-32 of each image's text.
    """

    digest: str
    complaint: str | None
    category_records: bytes
    image_ids: bytes
    sizes: bytes
    annotation_starts: bytes
    categories: bytes
    text_starts: bytes
    checksums: bytes


class _File(msgspec.Struct):
    images: list[Raw] | UnsetType = UNSET
    categories: list[Raw] | UnsetType = UNSET
    annotations: list[Raw] = []


class _Image(msgspec.Struct, gc=False):
    id: int
    height: int | float | UnsetType = UNSET
    width: int | float | UnsetType = UNSET
    coco_url: str | UnsetType = UNSET
    file_name: str | UnsetType = UNSET
    neg_category_ids: list[int] | UnsetType = UNSET
    not_exhaustive_category_ids: list[int] | UnsetType = UNSET


class _Annotation(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    id: int | UnsetType = UNSET
    bbox: tuple[float, float, float, float] | UnsetType = UNSET
    segmentation: list[list[float]] | RLE | UnsetType = UNSET


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class ParsedAnnotations:
    """The records of an annotation file as JSON text, with their ids.

    Args:
        path: the file, for messages.
        data: (n,) uint8, what it holds.

    Attributes:
        complaint: why the file is good for counting classes but not as a dataset; None if it is good for both.

    Raises:
        UserError: the file is truncated, not JSON or not in the LVIS format.
    """

    def __init__(self, path: str | Path, data: np.ndarray) -> None:
        self._complaints: list[str] = []
        try:
            self._parse(data)
        except msgspec.ValidationError as error:
            raise not_lvis_format(path, in_python_terms(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise broken_file(path, error) from None
        except OverflowError:
            raise not_lvis_format(path, "an id needs more than 64 bits") from None
        except _NotLVISError as error:
            raise not_lvis_format(path, str(error)) from None

    @property
    def complaint(self) -> str | None:
        """The first complaint, and how many more there are."""
        if not self._complaints:
            return None
        more = len(self._complaints) - 1
        return self._complaints[0] + (f" (and {more} more like this)" if more else "")

    def _parse(self, data: np.ndarray) -> None:
        if bytes(data[:100]).lstrip()[:1] == b"[":
            raise _NotLVISError("it holds a list, not a dictionary")
        file = msgspec.json.decode(data, type=_File)
        missing = [key for key in ("images", "categories") if getattr(file, key) is UNSET]
        if missing:
            raise _NotLVISError(f"{' and '.join(missing)} missing")
        self.categories, self.images, self.annotations = file.categories, file.images, file.annotations
        categories = _decode_each("categories", self.categories, _Category)
        self.category_ids = np.array([category.id for category in categories], np.int64)
        self._parse_images()
        self._parse_annotations()
        complaint = id_complaint(
            self.image_ids, self.category_ids, self.annotation_ids, self.image_of, self.category_of
        )
        if complaint:
            raise _NotLVISError(complaint)

    def _parse_images(self) -> None:
        known = set(self.category_ids.tolist())
        ids, sizes, missing = array("q"), array("d"), set()
        for image in _decode_each("images", self.images, _Image):
            ids.append(image.id)
            for key in ("width", "height"):
                value = getattr(image, key)
                if value is UNSET:
                    self._complaints.append(f"image {image.id} has no {key}")
                sizes.append(0 if value is UNSET else value)
            if image.coco_url is UNSET and image.file_name is UNSET:
                self._complaints.append(f"image {image.id} has neither coco_url nor file_name")
            for key in _FEDERATED:
                listed = getattr(image, key)
                if listed is UNSET:
                    missing.add(key)
                elif not known.issuperset(listed):
                    unknown = min(set(listed) - known)
                    self._complaints.append(f"{key} of image {image.id} has the unknown category {unknown}")
        if missing and self.annotations:
            raise _NotLVISError(f"{' and '.join(sorted(missing))} missing")
        self.image_ids = np.array(ids, np.int64)
        self.sizes = np.array(sizes, np.float64).reshape(-1, 2)

    def _parse_annotations(self) -> None:
        ids, image_of, category_of = array("q"), array("q"), array("q")
        for annotation in _decode_each("annotations", self.annotations, _Annotation):
            image_of.append(annotation.image_id)
            category_of.append(annotation.category_id)
            if annotation.id is not UNSET:
                ids.append(annotation.id)
            complaint = _annotation_complaint(annotation)
            if complaint:
                name = f"annotation {annotation.id}" if annotation.id is not UNSET else "an annotation"
                self._complaints.append(f"{name} of image {annotation.image_id} has {complaint}")
        self.annotation_ids, self.image_of, self.category_of = (
            np.array(values, np.int64) for values in (ids, image_of, category_of)
        )

    def write(self, out: BinaryIO, digest: str) -> None:
        """Write the packed form.

        Args:
            out: an empty file, open for writing.
            digest: what identifies the content of the source.
        """
        by_id = self.image_ids.argsort()
        image_ids = self.image_ids[by_id]
        image_index = np.searchsorted(image_ids, self.image_of)
        order = image_index.argsort(kind="stable")  # within an image as in the source
        starts = np.searchsorted(image_index[order], np.arange(len(by_id) + 1))
        text_starts, checksums = self._write_text(out, by_id, order, starts)
        categories = np.searchsorted(np.sort(self.category_ids), self.category_of)[order]
        index = PackedIndex(
            digest=digest,
            complaint=self.complaint,
            category_records=b"[" + b",".join(self.categories) + b"]",
            image_ids=image_ids.tobytes(),
            sizes=self.sizes[by_id].tobytes(),
            annotation_starts=starts.astype(np.int64).tobytes(),
            categories=categories.astype(np.int32).tobytes(),
            text_starts=text_starts.tobytes(),
            checksums=checksums.tobytes(),
        )
        tail = msgspec.msgpack.encode(index)
        tail_start = out.tell()
        out.write(tail)
        out.seek(0)
        out.write(PREAMBLE.pack(MAGIC, tail_start + len(tail), tail_start, zlib.crc32(tail)))

    def _write_text(
        self, out: BinaryIO, by_id: np.ndarray, order: np.ndarray, starts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Write the text; returns where each image's starts (and the last one ends), and each one's CRC-32."""
        out.write(bytes(PREAMBLE.size))
        text_starts, checksums = [PREAMBLE.size], []
        for image, start, stop in zip(by_id, starts, starts[1:], strict=False):
            annotations = b",".join([self.annotations[i] for i in order[start:stop].tolist()])
            text = b"".join((b"[", self.images[image], b",[", annotations, b"]]"))
            out.write(text)
            text_starts.append(text_starts[-1] + len(text))
            checksums.append(zlib.crc32(text))
        return np.array(text_starts, np.int64), np.array(checksums, np.uint32)


class _NotLVISError(Exception):
    """The file is not in the LVIS format; the text says why."""


def _decode_each(key: str, records: list[Raw], form: type) -> Iterator[Any]:
    """Parse records one by one, naming the one that does not fit."""
    decode = msgspec.json.Decoder(form).decode
    for number, record in enumerate(records):
        try:
            yield decode(record)
        except msgspec.ValidationError as error:
            raise _NotLVISError(f"{key}[{number}]: {in_python_terms(error)}") from None


def _annotation_complaint(annotation: _Annotation) -> str | None:
    if annotation.bbox is UNSET:
        return "no bbox"
    if annotation.segmentation is UNSET:
        return "no segmentation"
    return segmentation_complaint(annotation.segmentation)
