"""What is wrong or remarkable about a dataset, in sentences that training and the dataset doctor share."""

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from eql_d2.data.annotations.rules import RLE
from eql_d2.errors import UserError

MOST_CASES = 4
_LONGEST_SHAPE = 5000  # numbers or characters: cases are kept with the findings, and are for small pictures


class Case(msgspec.Struct, frozen=True):
    """An entry in which something was found, as far as a picture of it needs.

    Attributes:
        path: of its image below the folder; None of an annotation, whose image has an id.
        image_id: None of an image file that is known by its path.
        annotation_id: None of an image, or of an annotation without id.
        category_id: of the annotation.
        bbox: as the file has it.
        segmentation: as the file has it; None of a very long one.
    """

    path: str | None = None
    image_id: int | None = None
    annotation_id: int | None = None
    category_id: int | None = None
    bbox: tuple[float, ...] | None = None
    segmentation: list[list[float]] | RLE | None = None


def case_of(annotation: Any, image_id: int | None = None) -> Case:
    """The case of an annotation.

    Args:
        annotation: its record, clean, or the fields that were read of it.
        image_id: of its image; None takes what the annotation says.
    """
    is_record = isinstance(annotation, Mapping)

    def value(key: str) -> Any:
        found = annotation.get(key) if is_record else getattr(annotation, key)
        return None if found is UNSET else found

    shape, box = value("segmentation"), value("bbox")
    if isinstance(shape, Mapping):
        shape = RLE(tuple(shape["size"]), shape["counts"])
    parts = [shape.counts] if isinstance(shape, RLE) else shape or ()
    return Case(
        image_id=value("image_id") if image_id is None else image_id,
        annotation_id=value("id"),
        category_id=value("category_id"),
        bbox=None if box is None else tuple(map(float, box)),
        segmentation=shape if shape and sum(map(len, parts)) <= _LONGEST_SHAPE else None,
    )


def annotation_name(annotation_id: int | UnsetType, image_id: int) -> str:
    """What a sentence calls an annotation."""
    name = "an annotation" if annotation_id is UNSET else f"annotation {annotation_id}"
    return f"{name} of image {image_id}"


class Finding(msgspec.Struct, frozen=True):
    """One kind of finding in a dataset.

    Attributes:
        level: "defect" stops training unless the user says ``--ignore``; "remark" is told, and training goes on.
        kind: short name, the same for all cases.
        sentence: the first case.
        count: number of cases.
        cases: some of them, the first and then the worst, where they can be shown.
    """

    level: Literal["defect", "remark"]
    kind: str
    sentence: str
    count: int = 1
    cases: tuple[Case, ...] = ()

    def __str__(self) -> str:
        more = f" (and {self.count - 1} more like this)" if self.count > 1 else ""
        return self.sentence + more


class FindingCounter:
    """Collects findings, of which it keeps the first cases of a kind and the number of cases."""

    def __init__(self) -> None:
        self._of_kind: dict[str, Finding] = {}

    def add(
        self,
        level: Literal["defect", "remark"],
        kind: str,
        sentence: str,
        count: int = 1,
        cases: Iterable[Case] = (),
    ) -> None:
        """Take some cases of a kind.

        Args:
            level, kind, count: see :class:`Finding`.
            sentence: the first case.
            cases: some to be shown; of an iterator no more are taken than are kept.
        """
        earlier = self._of_kind.get(kind)
        known = earlier.cases if earlier else ()
        if len(known) < MOST_CASES:
            known = (*known, *islice(cases, MOST_CASES - len(known)))
        if earlier is None:
            self._of_kind[kind] = Finding(level, kind, sentence, count, known)
        else:
            self._of_kind[kind] = msgspec.structs.replace(earlier, count=earlier.count + count, cases=known)

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
