"""Values of annotation files as tools write them, made into what the format says.

The one place where that happens: what reads a file calls it, and all that follows sees a clean record. What cannot be
made right stays as it is, for whoever checks the record next to name it.
"""

import math
from collections.abc import Iterable
from typing import Any

from eql_d2.data.annotations.run_lengths import compressed, counts_complaint

Record = dict[str, Any]

# Keys whose values are numbers, or lists of them.
NUMBERS = ("id", "image_id", "category_id", "width", "height", "bbox", "area", "segmentation")
FLAG_WORDS = {"true": 1, "yes": 1, "false": 0, "no": 0}
FREQUENCY_WORDS = {"rare": "r", "common": "c", "frequent": "f"}


def clean_image(record: Record) -> Record:
    """An image record with whole numbers for its id and size, and no path, size or list that says nothing."""
    clean = _without_nothing(
        record, ("coco_url", "file_name", "width", "height", "neg_category_ids", "not_exhaustive_category_ids")
    )
    if not isinstance(clean.get("coco_url", ""), str):
        del clean["coco_url"]  # false, 0 or a list is no URL
    for key in ("id", "width", "height"):
        _replace(clean, key, whole)
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        _replace(clean, key, lambda ids: [whole(i) for i in ids] if isinstance(ids, list) else ids)
    return clean


def clean_category(record: Record) -> Record:
    """A category record with a whole number for its id, a text for its name, and r, c or f for its frequency."""
    clean = _without_nothing(record, ("frequency",))
    _replace(clean, "id", whole)
    _replace(clean, "name", lambda name: f"{name}" if isinstance(name, (int, float)) else name)
    _replace(clean, "frequency", lambda word: FREQUENCY_WORDS.get(str(word).strip().lower(), word))
    return clean


def clean_annotation(record: Record) -> Record:
    """An annotation record with whole numbers for ids, numbers for box and area, and one form of masks and flags."""
    clean = _without_nothing(record, ("id", "bbox", "area", "segmentation", "iscrowd", "ignore"))
    for key in ("id", "image_id", "category_id"):
        _replace(clean, key, whole)
    if type(clean.get("id", 0)) is not int:
        del clean["id"]  # a UUID, say: nothing refers to it, and the file's annotations are numbered anew
    _replace(clean, "area", number)
    _replace(clean, "bbox", lambda box: [number(value) for value in box] if isinstance(box, list) else box)
    _replace(clean, "segmentation", _clean_segmentation)
    if not clean.get("segmentation", True):
        del clean["segmentation"]
    for key in ("iscrowd", "ignore"):
        _replace(clean, key, _flag)
    return clean


def clean_content(content: Record) -> Record:
    """A parsed annotation file with clean records, annotations numbered from 1 if any has no id of its own from 1 on.

    The official evaluation takes a detection matched to object 0 for an unmatched one.
    """
    clean = dict(content)
    for key, mend in (("images", clean_image), ("categories", clean_category), ("annotations", clean_annotation)):
        if isinstance(clean.get(key), list):
            clean[key] = [mend(record) if isinstance(record, dict) else record for record in clean[key]]
    annotations = [a for a in clean.get("annotations") or [] if isinstance(a, dict)]
    ids = [annotation.get("id") for annotation in annotations]
    if any(i is None or (type(i) is int and i < 1) for i in ids):
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
    return clean


def clean_result(record: Record) -> Record:
    """A result record (of a results file) of the same kind."""
    clean = clean_annotation(record)
    _replace(clean, "score", number)
    return clean


def whole(value: Any) -> Any:
    """An int where a value says one (7, 7.0, "7"), else the value."""
    value = number(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def number(value: Any) -> Any:
    """A number where a text says one, else the value."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def not_finite(record: Record) -> str | None:
    """The first value of a clean record that is NaN or infinite, as "area NaN"; None where there is none."""
    for key in NUMBERS:
        for value in _flat(record.get(key)):
            if isinstance(value, float) and not math.isfinite(value):
                return f"{key} {'NaN' if math.isnan(value) else 'Infinity' if value > 0 else '-Infinity'}"
    return None


def _flat(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        value = [value.get("size"), value.get("counts")]
    if isinstance(value, list):
        for entry in value:
            yield from _flat(entry)
    else:
        yield value


def _without_nothing(record: Record, keys: Iterable[str]) -> Record:
    """A copy without keys that say nothing: null or an empty text."""
    nothing = {key for key in keys if key in record and (record[key] is None or record[key] == "")}
    if record.get("bbox") == []:
        nothing.add("bbox")
    return {key: value for key, value in record.items() if key not in nothing}


def _replace(record: Record, key: str, change: Any) -> None:
    if key in record:
        record[key] = change(record[key])


def _flag(value: Any) -> Any:
    """0 or 1 from true, "0", 1.0, "no" and the like."""
    if isinstance(value, str):
        value = FLAG_WORDS.get(value.strip().lower(), value)
    value = whole(value)
    return int(bool(value)) if isinstance(value, int) else value


def _clean_segmentation(segmentation: Any) -> Any:
    """Polygons as lists of numbers, run lengths in their compressed form where they are sound."""
    if isinstance(segmentation, list) and len(segmentation) == 1 and isinstance(segmentation[0], dict):
        segmentation = segmentation[0]  # run lengths, in a list as polygons are
    if isinstance(segmentation, dict):
        return _clean_run_lengths(segmentation)
    if not isinstance(segmentation, list):
        return segmentation
    if segmentation and all(isinstance(number(value), (int, float)) for value in segmentation):
        segmentation = [segmentation]  # one polygon, without the list of polygons around it
    elif _is_points(segmentation):
        segmentation = [segmentation]
    polygons = ([x for point in polygon for x in point] if _is_points(polygon) else polygon for polygon in segmentation)
    return [
        [number(value) for value in polygon] if isinstance(polygon, list) else polygon
        for polygon in polygons
        if polygon != []
    ]


def _is_points(polygon: Any) -> bool:
    """Whether it is three points or more, each a pair of x and y."""
    return (
        isinstance(polygon, list)
        and len(polygon) >= 3
        and all(isinstance(point, list) and len(point) == 2 for point in polygon)
        and all(isinstance(number(value), (int, float)) for point in polygon for value in point)
    )


def _clean_run_lengths(segmentation: Record) -> Record:
    clean = dict(segmentation)
    for key in ("size", "counts"):
        _replace(clean, key, lambda values: [whole(v) for v in values] if isinstance(values, list) else values)
    size, counts = clean.get("size"), clean.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)):
        return clean
    if isinstance(counts, list) and all(type(count) is int for count in counts):
        return clean if counts_complaint(counts, size[0] * size[1]) else compressed(clean)
    return clean
