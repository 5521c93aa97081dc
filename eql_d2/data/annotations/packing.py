"""Turning an annotation file into its packed form: the same records, those of an image together.

A packed file is
    preamble   magic, size of the whole file, start and CRC-32 of the tail
    text       for each image, in ascending order of ids: the JSON ``[image, [annotation, ...]]``, as in the source;
               values that had to be made right are (see values.py)
    tail       PackedIndex as MessagePack
It is made with little more memory than the source takes: records are parsed one by one, to check them, and stay text.
"""

import struct
import zlib
from typing import BinaryIO

import msgspec
import numpy as np

from eql_d2.data.annotations.findings import Finding
from eql_d2.data.annotations.parsing import ParsedAnnotations

MAGIC = b"EQLD2P06"  # ends in the version of this form, and of the findings in it
PREAMBLE = struct.Struct("<8sQQI")


class PackedIndex(msgspec.Struct):
    """The tail: what is known of N images and A annotations without reading their text.

    Attributes:
        digest: identifies the content of the source.
        findings: what is wrong or remarkable about the file.
        federated: whether its images say which classes they are labelled for (LVIS), or are labelled for all (COCO).
        category_records: JSON of the category records.
        image_ids: (N,) uint64, ascending.
        sizes: (N, 2) float64, width and height.
        annotation_starts: (N + 1,) int64, where each image's annotations start among all.
        categories: (A,) int32, contiguous class of each annotation.
        regions: (A,) bool, annotations that are no instance but a region to ignore (``iscrowd`` or ``ignore``).
        run_lengths: (A,) bool, annotations whose mask is stored as run lengths.
        text_starts: (N + 1,) int64, where each image's text starts in the file.
        checksums: (N,) uint32, CRC-32 of each image's text.
    """

    digest: str
    findings: tuple[Finding, ...]
    federated: bool
    category_records: bytes
    image_ids: bytes
    sizes: bytes
    annotation_starts: bytes
    categories: bytes
    regions: bytes
    run_lengths: bytes
    text_starts: bytes
    checksums: bytes


def write_packed(parsed: ParsedAnnotations, out: BinaryIO, digest: str) -> None:
    """Write the packed form.

    Args:
        parsed: the records of the source.
        out: an empty file, open for writing.
        digest: what identifies the content of the source.
    """
    by_id = parsed.image_ids.argsort()
    image_ids = parsed.image_ids[by_id]
    image_index = np.searchsorted(image_ids, parsed.image_of)
    order = image_index.argsort(kind="stable")  # within an image as in the source
    starts = np.searchsorted(image_index[order], np.arange(len(by_id) + 1))
    text_starts, checksums = _write_text(parsed, out, by_id, order, starts)
    categories = np.searchsorted(np.sort(parsed.category_ids), parsed.category_of)[order]
    index = PackedIndex(
        digest=digest,
        findings=parsed.findings,
        federated=parsed.federated,
        category_records=b"[" + b",".join(parsed.categories) + b"]",
        image_ids=image_ids.tobytes(),
        sizes=parsed.sizes[by_id].tobytes(),
        annotation_starts=starts.astype(np.int64).tobytes(),
        categories=categories.astype(np.int32).tobytes(),
        regions=parsed.regions[order].tobytes(),
        run_lengths=parsed.run_lengths[order].tobytes(),
        text_starts=text_starts.tobytes(),
        checksums=checksums.tobytes(),
    )
    tail = msgspec.msgpack.encode(index)
    tail_start = out.tell()
    out.write(tail)
    out.seek(0)
    out.write(PREAMBLE.pack(MAGIC, tail_start + len(tail), tail_start, zlib.crc32(tail)))


def _write_text(
    parsed: ParsedAnnotations, out: BinaryIO, by_id: np.ndarray, order: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Write the text; returns where each image's starts (and the last one ends), and each one's CRC-32."""
    out.write(bytes(PREAMBLE.size))
    text_starts, checksums = [PREAMBLE.size], []
    for image, start, stop in zip(by_id, starts, starts[1:], strict=False):
        annotations = b",".join([parsed.annotations[i] for i in order[start:stop].tolist()])
        text = b"".join((b"[", parsed.images[image], b",[", annotations, b"]]"))
        out.write(text)
        text_starts.append(text_starts[-1] + len(text))
        checksums.append(zlib.crc32(text))
    return np.array(text_starts, np.int64), np.array(checksums, np.uint32)
