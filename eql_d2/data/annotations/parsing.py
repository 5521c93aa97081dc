"""Parsing and checking an annotation file in the LVIS or COCO format, record by record."""

import math
from array import array
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
from msgspec import UNSET, Raw

from eql_d2.data.annotations.columns import AnnotationColumns, ImageColumns
from eql_d2.data.annotations.copies import last_of_each
from eql_d2.data.annotations.file_records import (
    AnnotationFields,
    AnnotationFile,
    CategoryFields,
    ImageFields,
    NotFiniteError,
    NotLVISError,
    decode_each,
)
from eql_d2.data.annotations.file_text import as_json, other_form, plain_text
from eql_d2.data.annotations.findings import Case, Finding, FindingCounter, annotation_name, case_of
from eql_d2.data.annotations.rules import (
    FEDERATED_KEYS,
    RLE,
    broken_file,
    in_python_terms,
    not_lvis_format,
    segmentation_complaint,
)
from eql_d2.data.annotations.values import whole

_NO_BOX = (math.nan,) * 4


class ParsedAnnotations:
    """The records of an annotation file as JSON text, with their ids; those with a defect are left out.

    Args:
        path: the file, for messages.
        data: (n,) uint8, what it holds.

    Attributes:
        findings: what is wrong or remarkable about the file.

    Raises:
        UserError: the file is truncated, not JSON, or neither in the LVIS nor in the COCO format.
    """

    def __init__(self, path: str | Path, data: np.ndarray) -> None:
        self._findings = FindingCounter()
        try:
            self._parse(data)
        except msgspec.ValidationError as error:
            raise not_lvis_format(path, in_python_terms(error)) from None
        except (msgspec.DecodeError, ValueError) as error:  # also of a wrong encoding
            raise broken_file(path, error) from None
        except NotLVISError as error:
            raise not_lvis_format(path, str(error)) from None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Defects first."""
        return self._findings.findings()

    def _parse(self, data: np.ndarray) -> None:
        if not len(data):
            raise ValueError("it is empty")
        text = plain_text(data)
        if bytes(text[:100]).lstrip()[:1] == b"[":
            raise NotLVISError(f"it holds a list, not a dictionary{other_form(text)}")
        try:
            file = msgspec.json.decode(text, type=AnnotationFile)
        except msgspec.ValidationError as error:
            raise NotLVISError(f"{in_python_terms(error)}{other_form(text)}") from None
        except msgspec.DecodeError:
            text = as_json(text)  # NaN is not JSON
            if text is None:
                raise
            file = msgspec.json.decode(text, type=AnnotationFile)
        if file.images is UNSET or file.categories is UNSET:
            missing = [key for key in ("images", "categories") if getattr(file, key) is UNSET]
            raise NotLVISError(f"{' and '.join(missing)} missing{other_form(text)}")
        self._parse_categories(file.categories)
        self._parse_images(file.images, bool(file.annotations))
        self._parse_annotations(file.annotations or [])

    def _parse_categories(self, records: list[Raw]) -> None:
        categories = [_sound(fields) for _, fields in decode_each("categories", records, CategoryFields)]
        ids = np.array([category.id for category in categories], np.uint64)
        kept = last_of_each("category", ids, self._findings)
        self.category_ids = ids[kept]
        self.categories = [records[i] for i in kept]
        names = [categories[i].name for i in kept]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            sentence = f"the name {twice[0]!r} belongs to several categories, which stay apart"
            self._findings.add("remark", "category name that occurs twice", sentence, len(twice))
        self._names = names

    def _parse_images(self, records: list[Raw], has_annotations: bool) -> None:
        known = set(self.category_ids.tolist())
        ids, sizes, good = array("Q"), array("d"), array("b")
        federated: Counter[str] = Counter()
        for number, image in decode_each("images", records, ImageFields):
            if isinstance(image, NotFiniteError):
                image = self._image_of_no_size(records[number], image)
            ids.append(image.id)
            sizes.extend(0 if side is UNSET else side for side in (image.width, image.height))
            complaint = _image_complaint(image)
            good.append(complaint is None)
            if complaint:
                sentence = f"image {image.id} has {complaint}"
                self._findings.add("defect", f"image with {complaint}", sentence, cases=[_case_of_image(image)])
            for key in FEDERATED_KEYS:
                listed = getattr(image, key)
                federated[key] += listed is not UNSET
                if listed is not UNSET and not known.issuperset(listed):
                    unknown = min(set(listed) - known)
                    sentence = f"{key} of image {image.id} has the unknown category {unknown}"
                    kind = f"unknown category in {key}"
                    self._findings.add("defect", kind, sentence, cases=[_case_of_image(image)])
        self.federated = not has_annotations or any(federated.values())
        if has_annotations and self.federated:
            missing = [key for key in FEDERATED_KEYS if federated[key] < len(records)]
            if missing:
                raise NotLVISError(f"{' and '.join(missing)} missing in some images")
        all_ids = np.array(ids, np.uint64)
        self._all_image_ids = np.unique(all_ids)
        kept = last_of_each("image", all_ids, self._findings)
        kept = kept[np.frombuffer(good, np.bool_)[kept]] if len(kept) else kept
        self.image_ids = all_ids[kept]
        self.sizes = np.array(sizes, np.float64).reshape(-1, 2)[kept]
        self.images = [records[i] for i in kept]

    def _parse_annotations(self, records: list[Raw]) -> None:
        named, ids, image_of, category_of = [], array("Q"), array("Q"), array("Q")
        has_id, good, regions, run_lengths = array("b"), array("b"), array("b"), array("b")
        boxes, areas = array("d"), array("d")
        size_of = dict(zip(self.image_ids.tolist(), self.sizes.astype(int).tolist(), strict=True))
        for number, annotation in decode_each("annotations", records, AnnotationFields):
            if isinstance(annotation, NotFiniteError):
                self._findings.add("defect", "value that is no number", str(annotation))
                continue
            if not self._names_are_sound(annotation):
                continue
            named.append(records[number])
            image_of.append(annotation.image_id)
            category_of.append(annotation.category_id)
            usable = annotation.id is not UNSET and annotation.id >= 0
            has_id.append(usable)
            ids.append(annotation.id if usable else 0)
            regions.append(bool(annotation.iscrowd or annotation.ignore))
            run_lengths.append(isinstance(annotation.segmentation, RLE))
            good.append(self._annotation_complaint(annotation, size_of.get(annotation.image_id)) is None)
            boxes.extend(annotation.bbox or _NO_BOX)
            areas.append(math.nan if annotation.area is UNSET else annotation.area)
        columns = AnnotationColumns(
            records=named,
            ids=np.array(ids, np.uint64),
            has_id=np.array(has_id, np.bool_),
            image_of=np.array(image_of, np.uint64),
            category_of=np.array(category_of, np.uint64),
            regions=np.array(regions, np.bool_),
            boxes=np.array(boxes).reshape(-1, 4),
            areas=np.array(areas),
            findings=self._findings,
        )
        images = ImageColumns(self.image_ids, self.sizes, self._all_image_ids)
        kept = columns.sound(np.array(good, np.bool_), images, self.category_ids)
        self.annotations = columns.numbered(kept)
        self.image_of, self.category_of = columns.image_of[kept], columns.category_of[kept]
        self.regions, self.run_lengths = columns.regions[kept], np.array(run_lengths, np.bool_)[kept]
        self._remark_on_categories()

    def _names_are_sound(self, annotation: AnnotationFields) -> bool:
        """Whether image and category could be those of a file, whose ids are from 0; tells of the others."""
        for key in ("image_id", "category_id"):
            value = getattr(annotation, key)
            if value < 0:
                self._findings.add("defect", f"unknown {key}", f"an annotation names the unknown {key} {value}")
                return False
        return True

    def _image_of_no_size(self, record: Raw, error: NotFiniteError) -> ImageFields:
        """What stands for an image whose width or height is NaN; tells of it."""
        fields = msgspec.json.decode(record)
        image = msgspec.convert({"id": whole(fields.get("id"))}, ImageFields)
        self._findings.add("defect", "value that is no number", str(error))
        return image

    def _annotation_complaint(self, annotation: AnnotationFields, size: tuple[int, int] | None) -> str | None:
        """What makes an annotation useless; tells of it, and remarks on what is missing."""
        segmentation = None if annotation.segmentation is UNSET else annotation.segmentation
        complaint = None
        if annotation.bbox is UNSET:
            complaint = "no bbox"
        elif segmentation:
            complaint = segmentation_complaint(segmentation, size)
        if complaint:
            kind = "a polygon of too few points" if complaint.startswith("a polygon of") else complaint.split(" (")[0]
            sentence = f"{annotation_name(annotation.id, annotation.image_id)} has {complaint}"
            self._findings.add("defect", f"annotation with {kind}", sentence, cases=map(case_of, [annotation]))
            return complaint
        for key, value, consequence in (
            ("segmentation", segmentation or None, "it trains boxes, not masks"),
            ("area", annotation.area, "the set can train, not evaluate"),
        ):
            if value is UNSET or value is None:
                sentence = f"{annotation_name(annotation.id, annotation.image_id)} has no {key}: {consequence}"
                kind = f"annotation without {key}"
                self._findings.add("remark", kind, sentence, cases=map(case_of, [annotation]))
        return None

    def _remark_on_categories(self) -> None:
        if not len(self.annotations):  # a test set
            return
        without = np.setdiff1d(self.category_ids, self.category_of[~self.regions])
        if len(without):
            name = self._names[int(np.flatnonzero(self.category_ids == without[0])[0])]
            sentence = f"category {without[0]} ({name!r}) has no instance: nothing to learn or measure it by"
            self._findings.add("remark", "category without instances", sentence, len(without))


def _sound(fields: CategoryFields | NotFiniteError) -> CategoryFields:
    if isinstance(fields, NotFiniteError):
        raise NotLVISError(str(fields))
    return fields


def _image_complaint(image: ImageFields) -> str | None:
    for key in ("width", "height"):
        value = getattr(image, key)
        if value is UNSET:
            return f"no {key}"
        if value <= 0:
            return f"a {key} that is not positive"
        if type(value) is float:
            return f"a {key} that is no whole number"
    return "neither coco_url nor file_name" if image.coco_url is UNSET and image.file_name is UNSET else None


def _case_of_image(image: ImageFields) -> Case:
    return Case(path=None if image.file_name is UNSET else image.file_name, image_id=image.id)
