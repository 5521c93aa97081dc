"""What is remarkable about the masks of an annotation file; too slow for every start of training."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
from msgspec import UNSET
from tqdm import tqdm

from eql_d2.data.annotations.box_forms import BOX_FORMS, form_by_masks
from eql_d2.data.annotations.cache import PackedAnnotations
from eql_d2.data.annotations.findings import Case, Finding, FindingCounter, annotation_name, case_of
from eql_d2.data.annotations.geometry import MaskMeasures, first_and_worst, mask_cases

_PROGRESS_AFTER = 10_000  # images


def mask_findings(annotations: PackedAnnotations) -> tuple[Finding, ...]:
    """Remarks on masks without area, and on those that do not fit their box or their area.

    Args:
        annotations: of the dataset.
    """
    measures, boxes, areas, names = MaskMeasures(), [], [], []
    places = tqdm(
        range(len(annotations)),
        "measuring masks",
        unit="image",
        disable=len(annotations) < _PROGRESS_AFTER,
        leave=False,
    )
    for place in places:
        image, records = annotations.records(place)
        for record in records:
            measures.add(record.get("segmentation") or ())
            boxes.append(record["bbox"])
            area = record.get("area")
            areas.append(math.nan if area is None else area)
            names.append((record.get("id", UNSET), image["id"]))
    counter = FindingCounter()

    def case_at(places: Iterable[int]) -> Iterator[Case]:
        return annotation_cases(annotations, places)

    if names:
        extents, mask_areas = measures.result()
        form = None if _told_already(annotations) else form_by_masks(np.array(boxes, float), extents)
        columns = np.array(boxes, float), np.array(areas, float), extents, mask_areas
        if form:
            right = np.concatenate([extents[:, :2], extents[:, 2:] - extents[:, :2]], axis=1)
            apart = np.abs(columns[0] - right).max(axis=1)
            counter.add(form.level, form.kind, form.sentence, cases=case_at(first_and_worst(apart > 0, apart)))
        cases = mask_cases(*columns, annotations.regions)
        for case in cases:
            if case.annotations.any():
                case.tell(counter, annotation_name(*names[int(case.annotations.argmax())]), case_at)
    return counter.findings()


def annotation_cases(annotations: PackedAnnotations, places: Iterable[int]) -> Iterator[Case]:
    """The cases of annotations by their places among all of a file."""
    for place in places:
        image = annotations.place_of(place)
        record, of_image = annotations.records(image)
        yield case_of(of_image[place - int(annotations.annotation_starts[image])], record["id"])


def _told_already(annotations: PackedAnnotations) -> bool:
    return any(finding.kind in BOX_FORMS for finding in annotations.findings)
