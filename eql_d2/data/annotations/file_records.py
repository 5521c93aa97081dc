"""The records of an annotation file as it has them, read one by one and made right where they are not."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from eql_d2.data.annotations.rules import RLE, in_python_terms
from eql_d2.data.annotations.values import Record, clean_annotation, clean_category, clean_image, not_finite

MOST_BITS = 64


class AnnotationFile(msgspec.Struct):
    """The lists of an annotation file."""

    images: list[Raw] | UnsetType = UNSET
    categories: list[Raw] | UnsetType = UNSET
    annotations: list[Raw] | None = None


class ImageFields(msgspec.Struct, gc=False):
    """What is read of a clean image record."""

    id: int
    height: int | float | UnsetType = UNSET
    width: int | float | UnsetType = UNSET
    coco_url: str | UnsetType = UNSET
    file_name: str | UnsetType = UNSET
    neg_category_ids: list[int] | UnsetType = UNSET
    not_exhaustive_category_ids: list[int] | UnsetType = UNSET

    @property
    def is_clean(self) -> bool:
        """Whether no value has to be made right."""
        return (
            type(self.height) is not float
            and type(self.width) is not float
            and "" not in (self.coco_url, self.file_name)
        )


class AnnotationFields(msgspec.Struct, gc=False):
    """What is read of a clean annotation record."""

    image_id: int
    category_id: int
    id: int | UnsetType = UNSET
    bbox: tuple[float, float, float, float] | UnsetType = UNSET
    area: float | UnsetType = UNSET
    segmentation: list[list[float]] | RLE | UnsetType = UNSET
    iscrowd: int = 0
    ignore: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether no value has to be made right."""
        masks = self.segmentation
        if masks is not UNSET and (not masks or (type(masks) is list and ([] in masks or len(masks[0]) == 2))):
            return False
        return (
            self.iscrowd in (0, 1) and self.ignore in (0, 1) and not (type(masks) is RLE and type(masks.counts) is list)
        )


class CategoryFields(msgspec.Struct, gc=False):
    """What is read of a clean category record."""

    id: int
    name: str
    frequency: str | UnsetType = UNSET

    @property
    def is_clean(self) -> bool:
        """Whether no value has to be made right."""
        return self.frequency is UNSET or self.frequency in ("r", "c", "f")


# What a sentence says of a value that cannot be made right.
_FORMS = {
    **dict.fromkeys(("id", "image_id", "category_id"), "a whole number"),
    **dict.fromkeys(("file_name", "name"), "a text"),
    **dict.fromkeys(("iscrowd", "ignore"), "0 or 1"),
    "bbox": "[x, y, width, height] in pixels",
    "segmentation": "polygons, [[x0, y0, x1, y1, ...], ...], or run lengths, with size [height, width] and counts",
}

_CLEANERS: dict[type, Callable[[Record], Record]] = {
    ImageFields: clean_image,
    AnnotationFields: clean_annotation,
    CategoryFields: clean_category,
}


class NotLVISError(Exception):
    """The file is not in the LVIS format; the text says why."""


class NotFiniteError(Exception):
    """A record has a value that is no finite number; the text says which."""


def decode_each(key: str, records: list[Raw], form: type) -> Iterator[tuple[int, Any]]:
    """Read records one by one, and replace the text of those that are not clean.

    Args:
        key: of the list in the file, for messages.
        records: JSON text of each; changed in place.
        form: what is read of each.

    Yields:
        Number and fields of each record, or a :class:`NotFiniteError` in the place of the fields.

    Raises:
        NotLVISError: a record does not fit; the text names it.
    """
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(form).decode
    for number, record in enumerate(records):
        try:
            fields = _clean_fields(record, decode)
            if fields is None:
                records[number], fields = _mended(record, form, decode)
        except NotFiniteError as error:
            yield number, NotFiniteError(f"{key}[{number}] has {error}, which is no number")
            continue
        except msgspec.ValidationError as error:
            raise NotLVISError(f"{key}[{number}]: {in_python_terms(error)}{_form_of_key(str(error))}") from None
        _check_ids(f"{key}[{number}]", fields)
        yield number, fields


def _form_of_key(complaint: str) -> str:
    """What the key that a complaint names has to be, as the end of a sentence."""
    key = re.search(r"\$\.(\w+)", complaint)
    return f" ({key[1]} is {_FORMS[key[1]]})" if key and key[1] in _FORMS else ""


def _clean_fields(record: Raw, decode: Callable[[bytes], Any]) -> Any | None:
    """The fields of a record; None of one whose values have to be made right."""
    try:
        fields = decode(record)
    except msgspec.ValidationError:
        return None
    return fields if fields.is_clean else None


def _mended(record: Raw, form: type, decode: Callable[[bytes], Any]) -> tuple[Raw, Any]:
    """The text of a record with its values made right, and its fields."""
    content = msgspec.json.decode(record)
    if not isinstance(content, dict):
        return record, decode(record)  # raises the error
    clean = _CLEANERS[form](content)
    complaint = not_finite(clean)
    if complaint:
        raise NotFiniteError(complaint)
    text = json.dumps(clean, separators=(",", ":")).encode()  # keeps integers of any length
    return Raw(text), decode(text)


def _check_ids(name: str, fields: Any) -> None:
    """Ids that stand for records in results have to be numbers that all formats can hold."""
    if isinstance(fields, AnnotationFields):
        longest = max(fields.image_id, fields.category_id, 0 if fields.id is UNSET else fields.id)
    else:
        longest = fields.id
        if longest < 0:
            raise NotLVISError(f"{name} has the id {longest}; ids are whole numbers from 0")
    if longest.bit_length() > MOST_BITS:
        raise NotLVISError(f"{name}: an id needs more than 64 bits")
