"""Objects that a file has twice."""

from collections.abc import Sequence

import numpy as np

_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, as in multiplicative hashing


def find_copies(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are equal to an earlier one.

    Args:
        columns: of N values each, integers or floats of 64 bits.

    Returns:
        For each copy the place of the row before it that it is equal to, and its own, in ascending order.
    """
    hashes = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        hashes = (hashes ^ np.ascontiguousarray(column).view(np.uint64)) * _MIX
        hashes ^= hashes >> np.uint64(32)
    order = hashes.argsort(kind="stable")
    same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    first, copies = order[same], order[same + 1]
    for column in columns:
        equal = column[first] == column[copies]
        first, copies = first[equal], copies[equal]
    by_place = copies.argsort()
    return first[by_place], copies[by_place]
