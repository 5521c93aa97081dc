"""What is wrong or remarkable about a dataset, in sentences that training and the dataset doctor share."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from eql_d2.errors import UserError


class Finding(msgspec.Struct, frozen=True):
    """One kind of finding in a dataset.

    Attributes:
        level: "defect" stops training unless the user says ``--ignore``; "remark" is told, and training goes on.
        kind: short name, the same for all cases.
        sentence: the first case.
        count: number of cases.
    """

    level: Literal["defect", "remark"]
    kind: str
    sentence: str
    count: int = 1

    def __str__(self) -> str:
        more = f" (and {self.count - 1} more like this)" if self.count > 1 else ""
        return self.sentence + more


class FindingCounter:
    """Collects findings, of which it keeps the first case of a kind and the number of cases."""

    def __init__(self) -> None:
        self._of_kind: dict[str, Finding] = {}

    def add(self, level: Literal["defect", "remark"], kind: str, sentence: str, count: int = 1) -> None:
        """Take some cases of a kind.

        Args:
            level, kind, count: see :class:`Finding`.
            sentence: the first case.
        """
        earlier = self._of_kind.get(kind)
        if earlier is None:
            self._of_kind[kind] = Finding(level, kind, sentence, count)
        else:
            self._of_kind[kind] = msgspec.structs.replace(earlier, count=earlier.count + count)

    def findings(self) -> tuple[Finding, ...]:
        """Defects first, otherwise in the order of their first cases."""
        return tuple(sorted(self._of_kind.values(), key=lambda finding: finding.level != "defect"))


def defects_error(path: str | Path, findings: Iterable[Finding], ignorable: bool = True) -> UserError | None:
    """The error for a dataset with defects; None where there are none.

    Args:
        path: the annotation file.
        findings: of the dataset.
        ignorable: whether ``--ignore`` helps.
    """
    defects = [finding for finding in findings if finding.level == "defect"]
    if not defects:
        return None
    kinds = len(defects) - 1
    others = f", and {kinds} other kind{'s' * (kinds > 1)} of defect" if kinds else ""
    way_out = ", and --ignore leaves such entries out" if ignorable else ""
    return UserError(f"Annotation file {path}: {defects[0]}{others}; tools/check_dataset.py lists them all{way_out}.")
