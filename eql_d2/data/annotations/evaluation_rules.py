"""What evaluation asks of the records of an annotation file, and of results: shared by all who have to say so early."""

import math
from collections.abc import Container
from typing import Any

from eql_d2.data.annotations.cache import PackedAnnotations
from eql_d2.data.annotations.findings import MOST_CASES, Case, Finding, case_of
from eql_d2.data.annotations.rules import FEDERATED_KEYS
from eql_d2.data.annotations.run_lengths import run_lengths_complaint

LETTERS = ("", "r", "c", "f")


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_box(value: Any) -> bool:
    """Whether a JSON value is four finite numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def complaint_about_number(value: Any, name: str) -> str | None:
    """What is wrong with a number, as the end of a sentence."""
    return None if is_number(value) else f"has the {name} {value!r}, not a finite number"


def complaint_about_box(box: Any) -> str | None:
    """What is wrong with a box XYWH, as the end of a sentence."""
    if not is_box(box):
        return f"has the bbox {box!r}, not four finite numbers"
    return f"has a bbox of negative size, {box}" if min(box[2:]) < 0 else None


def complaint_about_mask(segmentation: Any, image: dict[str, Any], texts_later: bool = False) -> str | None:
    """What is wrong with polygons or run lengths in an image, as the end of a sentence.

    Args:
        segmentation: the JSON value.
        image: its record.
        texts_later: as of :func:`run_lengths_complaint`.
    """
    if isinstance(segmentation, dict):
        complaint = run_lengths_complaint(segmentation, image["height"], image["width"], texts_later)
        return complaint and f"has {complaint}"
    if isinstance(segmentation, str) and segmentation:
        return "has a text for its segmentation; write the list or the dictionary itself"
    if not isinstance(segmentation, list) or not segmentation:
        return "has no segmentation"
    if any(isinstance(part, dict) for part in segmentation):
        return "has a list of several run lengths for its mask; merge them into one"
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) % 2 or len(polygon) < 6:
            points = len(polygon) / 2 if isinstance(polygon, list) else 0
            return f"has a polygon of {points:g} points; it takes three or more"
        if not _are_finite(polygon):
            return "has a polygon with a coordinate that is no finite number"
    return None


def _are_finite(values: list[Any]) -> bool:
    try:
        return math.isfinite(sum(values))
    except TypeError:
        return False


def complaint_about_image(image: dict[str, Any], federated: bool) -> str | None:
    """What an image record lacks, as the end of a sentence."""
    keys = ("height", "width", *(FEDERATED_KEYS if federated else ()))
    missing = [key for key in keys if image.get(key) is None]
    if missing:
        return f"has no {' and no '.join(missing)}"
    wrong = next((key for key in keys[:2] if type(image[key]) is not int or image[key] < 1), None)
    return f"has the {wrong} {image[wrong]!r}, not a positive whole number" if wrong else None


def complaint_about_frequency(category: dict[str, Any]) -> str | None:
    """What is wrong with the group that a category record names, as the end of a sentence."""
    frequency = category.get("frequency") or ""
    return None if frequency in LETTERS else f"has the frequency {frequency!r}; it must be r, c or f"


def complaint_about_annotation(
    annotation: Any, seen: set[int], images: Container[int], categories: Container[int]
) -> str | None:
    """What is wrong with an annotation record, as the end of a sentence.

    Args:
        annotation: the record.
        seen: ids of the annotations before, to which its own is added.
        images: known ids.
        categories: known ids.
    """
    if not isinstance(annotation, dict):
        return f"is a {type(annotation).__name__}, not a dictionary"
    missing = [key for key in ("id", "image_id", "category_id", "bbox", "area") if key not in annotation]
    if missing:
        return f"has no {' and no '.join(missing)}"
    number = annotation["id"]
    if type(number) is not int or number < 1:
        # The official packages take a detection matched to object 0 for an unmatched one.
        return "has not a positive whole number for its id, which the official evaluation needs; number from 1"
    if number in seen:
        return "is there twice; ids have to differ"
    seen.add(number)
    for key, known in (("image_id", images), ("category_id", categories)):
        if type(annotation[key]) is not int or annotation[key] not in known:
            return f"names the unknown {key} {annotation[key]}"
    for key in ("iscrowd", "ignore"):
        if not isinstance(annotation.get(key), (int, float, type(None))):
            return f"has the {key} {annotation[key]!r}; it is 0 or 1"
    complaint = complaint_about_box(annotation["bbox"]) or complaint_about_number(annotation["area"], "area")
    if complaint is None and annotation["area"] < 0:
        return f"has the area {annotation['area']}, which is negative"
    return complaint


def evaluation_finding(annotations: PackedAnnotations, federated: bool, groups_known: bool) -> Finding | None:
    """The defect of a file that can be trained on, and would be refused by evaluation.

    Args:
        annotations: of the dataset.
        federated: whether it is evaluated by LVIS's rules, and not by COCO's.
        groups_known: whether the groups rare, common and frequent come from training data.
    """
    complaints: list[str] = []
    cases: list[Case] = []
    for category in () if groups_known else annotations.category_records:
        complaint = complaint_about_frequency(category)
        if complaint:
            complaints.append(f"category {category['id']} {complaint}")
    categories = {category["id"] for category in annotations.category_records}
    images = set(annotations.image_ids.tolist())
    seen: set[int] = set()
    for index in range(len(annotations)):
        image, records = annotations.records(index)
        complaint = complaint_about_image(image, federated and len(annotations.categories) > 0)
        if complaint:
            complaints.append(f"image {image['id']} {complaint}")
            cases.append(Case(image_id=image["id"]))
        for annotation in records:
            complaint = complaint_about_annotation(annotation, seen, images, categories)
            if complaint:
                complaints.append(f"annotation {annotation['id']} of image {image['id']} {complaint}")
                cases.append(case_of(annotation, image["id"]))
    if not complaints:
        return None
    sentence = f"{complaints[0]}, which evaluation needs"
    return Finding("defect", "what evaluation refuses", sentence, len(complaints), tuple(cases[:MOST_CASES]))
