"""What a file has twice: ids and objects."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from eql_d2.data.annotations.findings import Case, FindingCounter

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


def last_of_each(
    name: str, ids: np.ndarray, findings: FindingCounter, cases_of: Callable[[int], Iterable[Case]] = lambda _: ()
) -> np.ndarray:
    """Positions of the last record of each id, in the order of the file; tells of ids that occur twice.

    The official tools let the last record of an id stand for all of them, in silence.

    Args:
        name: of a record, for the sentence.
        ids: of the records.
        findings: where it is told.
        cases_of: the cases of an id.
    """
    different, from_the_end, counts = np.unique(ids[::-1], return_index=True, return_counts=True)
    if (counts > 1).any():
        first = counts.argmax()
        way_out = "; number them anew, or leave the ids out" if name == "annotation" else ""
        sentence = f"{name} id {different[first]} occurs {counts[first]} times{way_out}"
        kind = f"{name} id that occurs twice"
        findings.add("defect", kind, sentence, int((counts > 1).sum()), cases_of(different[first]))
    return np.sort(len(ids) - 1 - from_the_end)
