"""Masks as run lengths: the one rule for those of annotations, results and ensembles, and their compressed form."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

_LONGEST_NUMBER = 12  # characters, of five bits each


def total_pixels(compressed: Sequence[str | bytes]) -> np.ndarray:
    """How many pixels the runs of compressed run lengths cover, as COCO's ``rleFrString`` reads them.

    A number is written in characters of five bits and one that says whether it goes on; from the fourth on it is the
    difference to the last but one.

    Args:
        compressed: N counts.

    Returns:
        (N,) int64; -1 of a text that is none.
    """
    texts = [counts.encode("utf-8", "replace") if isinstance(counts, str) else counts for counts in compressed]
    totals = np.full(len(texts), -1, np.int64)
    filled = np.array([index for index, text in enumerate(texts) if text], np.int64)
    if not len(filled):
        return totals
    values = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - 48
    stops = np.cumsum([len(texts[index]) for index in filled])
    mask_of_character = np.repeat(np.arange(len(filled)), np.diff(stops, prepend=0))
    ends = (values & 32) == 0
    broken = (values < 0) | (values > 63)
    broken[stops - 1] |= ~ends[stops - 1]
    ends[stops - 1] = True  # a broken text does not go on in the next one
    starts = np.concatenate(([0], np.flatnonzero(ends[:-1]) + 1))
    lengths = np.diff(np.append(starts, len(values)))
    place = np.arange(len(values)) - np.repeat(starts, lengths)
    broken |= place >= _LONGEST_NUMBER
    parts = (values & 31) << (5 * np.minimum(place, _LONGEST_NUMBER - 1))
    numbers = np.add.reduceat(parts, starts)
    negative = values[starts + lengths - 1] & 16 > 0
    numbers -= np.where(negative, np.int64(1) << (5 * np.minimum(lengths, _LONGEST_NUMBER)), 0)
    owners = mask_of_character[starts]
    runs = _sums_of_differences(numbers, owners)
    is_broken = np.zeros(len(filled), bool)
    is_broken[mask_of_character[broken]] = True
    is_broken[owners[runs < 0]] = True
    first_of_mask = np.flatnonzero(np.diff(owners, prepend=-1))
    totals[filled] = np.where(is_broken, -1, np.add.reduceat(runs, first_of_mask))
    return totals


def _sums_of_differences(numbers: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Runs from their numbers: of each owner the first three as they are, the others plus the run before the last."""
    first = np.flatnonzero(np.diff(owners, prepend=-1))
    place = np.arange(len(owners)) - first[owners]
    chain = owners * 3 + np.where(place == 0, 0, 2 - place % 2)
    order = np.argsort(chain, kind="stable")
    sums = np.cumsum(numbers[order])
    starts = np.flatnonzero(np.diff(chain[order], prepend=-1))
    before = np.repeat(sums[starts] - numbers[order][starts], np.diff(np.append(starts, len(order))))
    runs = np.empty_like(numbers)
    runs[order] = sums - before
    return runs


def run_lengths_complaint(
    segmentation: Mapping[str, Any], height: int, width: int, texts_later: bool = False
) -> str | None:
    """What is wrong with run lengths in an image, if anything.

    Args:
        segmentation: a JSON value, with ``size`` (height, width) and ``counts``, compressed to a text or not.
        height: of the image in pixels.
        width: of the image in pixels.
        texts_later: whether compressed counts are taken as they are, for :func:`total_pixels` to look at many.
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not (isinstance(size, (list, tuple)) and len(size) == 2 and all(type(side) is int for side in size)):
        return f"an RLE without a size [height, width] (it has {size!r})"
    if [*size] != [height, width]:
        hint = ": height comes first" if [*size] == [width, height] else ""
        return f"an RLE of another size than its image ({[*size]}, where the image has {[height, width]}{hint})"
    if isinstance(counts, (str, bytes)):
        return None if texts_later else counts_complaint(counts, height * width)
    if not isinstance(counts, list) or any(type(count) is not int for count in counts):
        return "an RLE whose counts are neither a text nor a list of whole numbers"
    return counts_complaint(counts, height * width)


def counts_complaint(counts: str | bytes | list[int], num_pixels: int) -> str | None:
    """What is wrong with the counts of a mask, compressed or not, of an image of a number of pixels."""
    if isinstance(counts, list):
        fits = min(counts, default=0) >= 0 and sum(counts) == num_pixels
    else:
        fits = total_pixels([counts])[0] == num_pixels
    if fits:
        return None
    hint = next((f" ({hint})" for form, hint in _OTHER_FORMS if isinstance(counts, str) and form.match(counts)), "")
    return f"an RLE whose counts do not add up to its size{hint}"


# Texts that are taken for compressed counts, and are none.
_OTHER_FORMS = (
    (re.compile("b['\"]"), "they are Python's text of bytes; write counts.decode()"),
    (re.compile(r"[\[(]?\s*\d+(\s*[,\s]\s*\d+)+\s*[\])]?\s*$"), "they are a text of numbers; write a list of them"),
    (re.compile("eJ[A-Za-z0-9+/]"), "they are packed by zlib, as Open Images does; unpack them"),
)


def compressed(segmentation: dict[str, Any]) -> dict[str, Any]:
    """Run lengths with their counts as a compressed text.

    Args:
        segmentation: ``size`` and ``counts``, a list that adds up to it or a text already.
    """
    if not isinstance(segmentation["counts"], list):
        return segmentation
    rle = mask_api.frPyObjects(segmentation, *segmentation["size"])
    return {"size": segmentation["size"], "counts": rle["counts"].decode()}
