"""The annotations of a file as columns, and what is wrong with them together: ids, references, geometry, copies."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
import orjson
from msgspec import UNSET, Raw

from eql_d2.data.annotations.box_forms import box_form
from eql_d2.data.annotations.copies import find_copies, last_of_each
from eql_d2.data.annotations.file_records import AnnotationFields
from eql_d2.data.annotations.findings import Case, FindingCounter, annotation_name, case_of
from eql_d2.data.annotations.geometry import box_cases, first_and_worst


@dataclass
class ImageColumns:
    """The images of a file that annotations may belong to.

    Attributes:
        ids: (I,) uint64, of the sound ones.
        sizes: (I, 2) float64, their widths and heights.
        all_ids: uint64, of all of the file, each once.
    """

    ids: np.ndarray
    sizes: np.ndarray
    all_ids: np.ndarray


@dataclass
class AnnotationColumns:
    """The annotations of a file that name an image and a category, in the order of the file.

    Attributes:
        records: their JSON texts.
        ids: (A,) uint64, 0 of one without.
        has_id: (A,) bool.
        image_of, category_of: (A,) uint64, the ids that they name.
        regions: (A,) bool, crowds and ignored ones.
        boxes: (A, 4) float64, x, y, width, height in pixels; NaN of one without.
        areas: (A,) float64 in pixels; NaN of one without.
        findings: where faults are told.
    """

    records: list[Raw]
    ids: np.ndarray
    has_id: np.ndarray
    image_of: np.ndarray
    category_of: np.ndarray
    regions: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    findings: FindingCounter

    def sound(self, candidates: np.ndarray, images: ImageColumns, category_ids: np.ndarray) -> np.ndarray:
        """(A,) bool, the candidates in which no defect is found; tells of all faults."""
        kept = candidates & self._references_are_known(images, category_ids)
        kept &= self._geometry_is_sound(images, kept)
        self._tell_of_regions(kept)
        self._tell_of_copies(kept)
        return kept

    def numbered(self, kept: np.ndarray) -> list[Raw]:
        """The records that are kept, numbered from 1 if any has no id that the official evaluation can use.

        It takes a detection matched to object 0 for an unmatched one.
        """
        records = [self.records[i] for i in np.flatnonzero(kept).tolist()]
        if (self.has_id & (self.ids > 0))[kept].all():
            return records
        contents = (orjson.loads(bytes(record)) for record in records)
        return [Raw(orjson.dumps({**content, "id": i})) for i, content in enumerate(contents, start=1)]

    def _cases(self, places: Iterable[int]) -> Iterator[Case]:
        return (case_of(msgspec.json.decode(self.records[i], type=AnnotationFields)) for i in places)

    def _name(self, place: int) -> str:
        return annotation_name(self.ids[place] if self.has_id[place] else UNSET, self.image_of[place])

    def _references_are_known(self, images: ImageColumns, category_ids: np.ndarray) -> np.ndarray:
        """(A,) bool, annotations of sound images and known categories, the last of each id; tells of the others."""
        has_id = np.flatnonzero(self.has_id)
        ids = self.ids[has_id]
        kept = ~self.has_id
        last = last_of_each("annotation", ids, self.findings, lambda i: self._cases(has_id[ids == i].tolist()))
        kept[has_id[last]] = True
        for key, named, known in (
            ("image_id", self.image_of, images.all_ids),
            ("category_id", self.category_of, category_ids),
        ):
            unknown = ~np.isin(named, known)
            if unknown.any():
                sentence = f"an annotation names the unknown {key} {named[unknown].min()}"
                cases = self._cases(np.flatnonzero(unknown).tolist())
                self.findings.add("defect", f"unknown {key}", sentence, int(unknown.sum()), cases)
            kept &= ~unknown
        return kept & np.isin(self.image_of, images.ids)

    def _geometry_is_sound(self, images: ImageColumns, candidates: np.ndarray) -> np.ndarray:
        """(A,) bool, annotations without geometric defect; tells of all faults among the candidates."""
        by_id = images.ids.argsort()
        place = np.searchsorted(images.ids, self.image_of, sorter=by_id).clip(0, max(len(by_id) - 1, 0))
        sizes = images.sizes[by_id][place] if len(by_id) else np.empty((len(place), 2))
        sound = np.ones(len(candidates), np.bool_)
        for case in box_cases(self.boxes, self.areas, sizes[:, 0], sizes[:, 1]):
            faulty = case.annotations & candidates
            if faulty.any():
                case._replace(annotations=faulty).tell(self.findings, self._name(int(faulty.argmax())), self._cases)
                if case.level == "defect":
                    sound &= ~faulty
        chosen = candidates & sound & ~self.regions
        form = box_form(self.boxes, self.areas, sizes, chosen)
        if form is not None:
            chosen &= np.isfinite(self.boxes).all(axis=1)
            shown = first_and_worst(chosen, (self.boxes[:, :2] + self.boxes[:, 2:] - sizes).max(axis=1))
            self.findings.add(form.level, form.kind, form.sentence, cases=self._cases(shown))
            if form.level == "defect":
                sound[:] = False
        return sound

    def _tell_of_regions(self, kept: np.ndarray) -> None:
        if kept.any() and self.regions[kept].all():
            sentence = f"all {int(kept.sum())} annotations are crowds (iscrowd or ignore 1), which train nothing; "
            sentence += "where each is one object, as CVAT's brush masks are, write 0"
            self.findings.add("defect", "crowds only", sentence, 1)

    def _tell_of_copies(self, kept: np.ndarray) -> None:
        """Tell of objects that are there twice, as after two exports were joined."""
        places = np.flatnonzero(kept & ~self.regions)
        first, copies = find_copies([self.image_of[places], self.category_of[places], *self.boxes[places].T])
        if len(copies):
            of_copy, of_first = self._name(places[copies[0]]), self._name(places[first[0]])
            sentence = f"{of_copy} has class and box of {of_first}: one object counts twice"
            cases = self._cases(places[copies].tolist())
            self.findings.add("remark", "object that is there twice", sentence, len(copies), cases)
