"""Parsing and checking an annotation file in the LVIS or COCO format, record by record."""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import orjson
from msgspec import UNSET, Raw, UnsetType

from eql_d2.data.annotations.box_forms import box_form
from eql_d2.data.annotations.copies import find_copies
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
from eql_d2.data.annotations.findings import Case, Finding, FindingCounter, case_of
from eql_d2.data.annotations.geometry import box_cases, first_and_worst
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
        kept = self._last_of_each("category", ids)
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
        kept = self._last_of_each("image", all_ids)
        kept = kept[np.frombuffer(good, np.bool_)[kept]] if len(kept) else kept
        self.image_ids = all_ids[kept]
        self.sizes = np.array(sizes, np.float64).reshape(-1, 2)[kept]
        self.images = [records[i] for i in kept]

    def _parse_annotations(self, records: list[Raw]) -> None:
        numbers, ids, image_of, category_of = array("q"), array("Q"), array("Q"), array("Q")
        has_id, good, regions, run_lengths = array("b"), array("b"), array("b"), array("b")
        boxes, areas = array("d"), array("d")
        place = dict(zip(self.image_ids.tolist(), self.sizes.astype(int).tolist(), strict=True))
        for number, annotation in decode_each("annotations", records, AnnotationFields):
            if isinstance(annotation, NotFiniteError):
                self._findings.add("defect", "value that is no number", str(annotation))
                continue
            if not self._names_are_sound(annotation):
                continue
            numbers.append(number)
            image_of.append(annotation.image_id)
            category_of.append(annotation.category_id)
            usable = annotation.id is not UNSET and annotation.id >= 0
            has_id.append(usable)
            ids.append(annotation.id if usable else 0)
            regions.append(bool(annotation.iscrowd or annotation.ignore))
            run_lengths.append(isinstance(annotation.segmentation, RLE))
            complaint = self._annotation_complaint(annotation, place.get(annotation.image_id))
            good.append(complaint is None)
            boxes.extend(annotation.bbox or _NO_BOX)
            areas.append(math.nan if annotation.area is UNSET else annotation.area)
        self._records, self._numbers = records, numbers
        self._ids, self.image_of, self.category_of = (
            np.array(values, np.uint64) for values in (ids, image_of, category_of)
        )
        self._has_id, self.regions = np.array(has_id, np.bool_), np.array(regions, np.bool_)
        kept = np.array(good, np.bool_)
        kept &= self._references_are_known()
        kept &= self._geometry_is_sound(np.array(boxes).reshape(-1, 4), np.array(areas), kept)
        self._tell_of_regions(kept)
        self._tell_of_copies(np.array(boxes).reshape(-1, 4), kept)
        self._remark_on_categories(kept)
        self.annotations = self._with_ids([records[numbers[i]] for i in np.flatnonzero(kept).tolist()], kept)
        del self._records, self._numbers
        self.image_of, self.category_of = self.image_of[kept], self.category_of[kept]
        self.regions, self.run_lengths = self.regions[kept], np.array(run_lengths, np.bool_)[kept]

    def _cases(self, places: Iterable[int]) -> Iterator[Case]:
        """The cases of annotations by their places among those with sound names."""
        return (case_of(msgspec.json.decode(self._records[self._numbers[i]], type=AnnotationFields)) for i in places)

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

    def _with_ids(self, records: list[Raw], kept: np.ndarray) -> list[Raw]:
        """The records, numbered from 1 if any has no id that the official evaluation can use.

        It takes a detection matched to object 0 for an unmatched one.
        """
        if (self._has_id & (self._ids > 0))[kept].all():
            return records
        contents = (orjson.loads(bytes(record)) for record in records)
        return [Raw(orjson.dumps({**content, "id": i})) for i, content in enumerate(contents, start=1)]

    def _tell_of_regions(self, kept: np.ndarray) -> None:
        if kept.any() and self.regions[kept].all():
            sentence = f"all {int(kept.sum())} annotations are crowds (iscrowd or ignore 1), which train nothing; "
            sentence += "where each is one object, as CVAT's brush masks are, write 0"
            self._findings.add("defect", "crowds only", sentence, 1)

    def _tell_of_copies(self, boxes: np.ndarray, kept: np.ndarray) -> None:
        """Tell of objects that are there twice, as after two exports were joined."""
        places = np.flatnonzero(kept & ~self.regions)
        first, copies = find_copies([self.image_of[places], self.category_of[places], *boxes[places].T])
        if len(copies):
            of_copy, of_first = (
                annotation_name(self._ids[i] if self._has_id[i] else UNSET, self.image_of[i])
                for i in (places[copies[0]], places[first[0]])
            )
            sentence = f"{of_copy} has class and box of {of_first}: one object counts twice"
            cases = self._cases(places[copies].tolist())
            self._findings.add("remark", "object that is there twice", sentence, len(copies), cases)

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

    def _last_of_each(self, name: str, ids: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
        """Positions of the last record of each id, in the order of the file; tells of ids that occur twice.

        The official tools let the last record of an id stand for all of them, in silence.

        Args:
            name: of a record, for the sentence.
            ids: of the records.
            places: of these among the annotations; None of other records.
        """
        different, from_the_end, counts = np.unique(ids[::-1], return_index=True, return_counts=True)
        if (counts > 1).any():
            first = counts.argmax()
            way_out = "; number them anew, or leave the ids out" if name == "annotation" else ""
            sentence = f"{name} id {different[first]} occurs {counts[first]} times{way_out}"
            cases = () if places is None else self._cases(places[ids == different[first]].tolist())
            self._findings.add("defect", f"{name} id that occurs twice", sentence, int((counts > 1).sum()), cases)
        return np.sort(len(ids) - 1 - from_the_end)

    def _references_are_known(self) -> np.ndarray:
        """(A,) bool, annotations of known images and categories, the last of each id; tells of the others."""
        has_id = np.flatnonzero(self._has_id)
        kept = ~self._has_id
        kept[has_id[self._last_of_each("annotation", self._ids[has_id], has_id)]] = True
        for key, named, known in (
            ("image_id", self.image_of, self._all_image_ids),
            ("category_id", self.category_of, self.category_ids),
        ):
            unknown = ~np.isin(named, known)
            if unknown.any():
                sentence = f"an annotation names the unknown {key} {named[unknown].min()}"
                cases = self._cases(np.flatnonzero(unknown).tolist())
                self._findings.add("defect", f"unknown {key}", sentence, int(unknown.sum()), cases)
            kept &= ~unknown
        return kept & np.isin(self.image_of, self.image_ids)

    def _geometry_is_sound(self, boxes: np.ndarray, areas: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """(A,) bool, annotations without geometric defect; tells of all faults among the candidates."""
        by_id = self.image_ids.argsort()
        place = np.searchsorted(self.image_ids, self.image_of, sorter=by_id).clip(0, max(len(by_id) - 1, 0))
        sizes = self.sizes[by_id][place] if len(by_id) else np.empty((len(place), 2))
        sound = np.ones(len(candidates), np.bool_)
        for case in box_cases(boxes, areas, sizes[:, 0], sizes[:, 1]):
            faulty = case.annotations & candidates
            if faulty.any():
                first = int(faulty.argmax())
                number = self._ids[first] if self._has_id[first] else UNSET
                name = annotation_name(number, self.image_of[first])
                case._replace(annotations=faulty).tell(self._findings, name, self._cases)
                if case.level == "defect":
                    sound &= ~faulty
        form = box_form(boxes, areas, sizes, candidates & sound & ~self.regions)
        if form is not None:
            chosen = candidates & sound & ~self.regions & np.isfinite(boxes).all(axis=1)
            shown = first_and_worst(chosen, (boxes[:, :2] + boxes[:, 2:] - sizes).max(axis=1))
            self._findings.add(form.level, form.kind, form.sentence, cases=self._cases(shown))
            if form.level == "defect":
                sound[:] = False
        return sound

    def _remark_on_categories(self, kept: np.ndarray) -> None:
        if not kept.any():  # a test set
            return
        without = np.setdiff1d(self.category_ids, self.category_of[kept & ~self.regions])
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


def annotation_name(annotation_id: int | UnsetType, image_id: int) -> str:
    """What a sentence calls an annotation."""
    name = "an annotation" if annotation_id is UNSET else f"annotation {annotation_id}"
    return f"{name} of image {image_id}"
