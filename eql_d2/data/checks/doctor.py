"""All checks of a dataset, one after the other."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from eql_d2.data.annotations.cache import PackedAnnotations, open_annotations
from eql_d2.data.annotations.evaluation_rules import evaluation_finding
from eql_d2.data.annotations.findings import MOST_CASES, Finding, annotation_name
from eql_d2.data.annotations.image_paths import image_paths, images_present, leaving_finding, missing_finding
from eql_d2.data.category_counts import count_annotations
from eql_d2.data.checks.before_start import NEEDED_TO_EVALUATE
from eql_d2.data.checks.image_findings import deep_images, duplicate_images, unreadable_images, wrong_sizes
from eql_d2.data.checks.image_reading import ImageFacts, find_equal_files, read_images
from eql_d2.data.checks.mask_findings import annotation_cases, mask_findings
from eql_d2.data.checks.split_findings import (
    classes_without_training,
    different_classes,
    overlap_of_content,
    overlap_of_names,
)
from eql_d2.data.open_images.converted import ensure_converted
from eql_d2.data.open_images.source import source_of_entry
from eql_d2.errors import UserError
from eql_d2.long_tail import CategoryCounts


@dataclass
class CheckedSet:
    """An annotation file with its images, and what was found in it.

    Attributes:
        name: "train" or "val".
        annotation_file: the file.
        image_root: folder of the images; None if they were not looked at.
        annotations: of the file; None if it cannot be read, as is everything that follows.
        counts: how often each class occurs.
        present: (N,) bool, which images are there; None if they were not looked for.
        facts: what reading the images showed; empty if they were not looked for.
    """

    name: str
    annotation_file: Path
    image_root: Path | None
    annotations: PackedAnnotations | None = None
    counts: CategoryCounts | None = None
    present: np.ndarray | None = None
    facts: list[ImageFacts] = field(default_factory=list)

    @cached_property
    def paths(self) -> list[str]:
        """Paths of the N images below the folder, in the order of ``annotations.image_ids``."""
        return image_paths(self.readable[0], self.image_root)

    @property
    def readable(self) -> tuple[PackedAnnotations, CategoryCounts]:
        """The annotations and counts of a file that can be read."""
        assert self.annotations is not None and self.counts is not None
        return self.annotations, self.counts


@dataclass
class DatasetCheck:
    """The outcome of :func:`examine_dataset`.

    Attributes:
        sets: one or two, the set to train on first.
        decoded: whether images were decoded, not only looked for.
        findings: each with the name of the set it is in, or "train, val".
    """

    sets: list[CheckedSet]
    decoded: bool
    findings: list[tuple[str, Finding]] = field(default_factory=list)

    @property
    def num_defects(self) -> int:
        """Number of kinds of defects, counted in each set."""
        return sum(finding.level == "defect" for _, finding in self.findings)


def examine_dataset(
    annotation_file: str | Path,
    image_root: str | Path | None = None,
    *,
    val_annotation_file: str | Path | None = None,
    val_image_root: str | Path | None = None,
    decode: bool = True,
    workers: int | None = None,
    images_outside: bool = False,
) -> DatasetCheck:
    """Check an annotation file, its images, and a validation set beside it.

    Args:
        annotation_file: JSON in the LVIS or COCO format, or CSV of Open Images' boxes, beside its other files.
        image_root: folder of its images; None to look at the annotations alone.
        val_annotation_file: annotations of the set to validate on, if there is one.
        val_image_root: folder of its images.
        decode: read and decode every image, not only look for it.
        workers: processes that read images; None for one a CPU.
        images_outside: whether images may lie outside their folder (``DATASETS.IMAGES_OUTSIDE``).

    Returns:
        What was found. A broken annotation file is a finding, too.

    Raises:
        UserError: a file or folder does not exist.
    """
    sets = [CheckedSet("train", Path(annotation_file), Path(image_root) if image_root else None)]
    if val_annotation_file is not None:
        val_root = Path(val_image_root) if val_image_root else None
        sets.append(CheckedSet("val", Path(val_annotation_file), val_root))
    for part in sets:
        _require_files(part)
    check = DatasetCheck(sets, decode and any(part.image_root for part in sets))
    for part in sets:
        check.findings += [(part.name, finding) for finding in _annotation_findings(part)]
    for part in sets:
        if part.image_root and part.annotations is not None:
            leaving = None if images_outside else leaving_finding(part.paths, part.image_root)
            missing = _look_for_images(part, part.image_root)
            check.findings += [(part.name, finding) for finding in (leaving or missing,) if finding]
    _read_images(sets, decode, workers)
    for part in sets:
        check.findings += [(part.name, finding) for finding in _image_findings(part) if finding]
    if len(sets) == 2 and all(part.annotations is not None for part in sets):
        check.findings += [("train, val", finding) for finding in _split_findings(*sets) if finding]
    check.findings.sort(key=lambda item: item[1].level)  # defects first
    return check


def _require_files(part: CheckedSet) -> None:
    """A misspelt name is no finding."""
    if not part.annotation_file.is_file():
        raise UserError(f"Annotation file {part.annotation_file} does not exist; check the path.")
    if part.image_root and not part.image_root.is_dir():
        raise UserError(f"Image folder {part.image_root} does not exist; check the path.")


def _in_known_format(part: CheckedSet) -> Path:
    """The annotation file, or what is made of one of Open Images, as training makes it."""
    if part.annotation_file.suffix.lower() != ".csv":
        return part.annotation_file
    if part.image_root is None:
        raise UserError(f"Boxes of Open Images, as in {part.annotation_file}, need their image folder; name it.")
    entry = {"name": part.name, "annotations": str(part.annotation_file), "images": str(part.image_root)}
    return ensure_converted(source_of_entry(entry, "the command line"))


def _annotation_findings(part: CheckedSet) -> Iterator[Finding]:
    """What is wrong within an annotation file; opens it."""
    try:
        readable = _in_known_format(part)
        part.annotations = open_annotations(readable)
        part.counts = count_annotations(str(readable))
    except UserError as error:
        part.annotations = None
        yield Finding("defect", "unusable annotation file", str(error), 1)
        return
    for finding in (*part.annotations.findings, *mask_findings(part.annotations)):
        hinders = part.name == "val" and finding.kind in NEEDED_TO_EVALUATE
        yield msgspec.structs.replace(finding, level="defect") if hinders else finding
    refused = part.name == "val" and evaluation_finding(part.annotations, part.annotations.federated, True)
    if refused and not any(finding.kind in NEEDED_TO_EVALUATE for finding in part.annotations.findings):
        yield refused
    if part.name == "train" and not len(part.annotations.categories):
        sentence = f"{part.annotation_file.name} has no usable annotation: nothing to train on"
        yield Finding("defect", "no annotations", sentence)
    crowds = np.flatnonzero(part.annotations.regions)
    if 0 < len(crowds) < len(part.annotations.regions):
        name = annotation_name(*part.annotations.ids_of(int(crowds[0])))
        sentence = f"{name} is a crowd (iscrowd or ignore 1): it trains nothing"
        shown = tuple(annotation_cases(part.annotations, crowds[:MOST_CASES].tolist()))
        yield Finding("remark", "crowd", sentence, len(crowds), shown)


def _look_for_images(part: CheckedSet, image_root: Path) -> Finding | None:
    part.present = images_present(part.paths, image_root)
    return missing_finding(part.paths, part.present, image_root)


def _read_images(sets: list[CheckedSet], decode: bool, workers: int | None) -> None:
    """Read the images of all sets that are there, in one go."""
    wanted: list[tuple[CheckedSet, int]] = []
    files: list[str] = []
    for part in sets:
        if part.image_root is not None and part.present is not None:
            there = np.flatnonzero(part.present).tolist()
            wanted += [(part, i) for i in there]
            files += [os.path.join(part.image_root, part.paths[i]) for i in there]
            part.facts = [ImageFacts()] * len(part.paths)
    all_facts = (read_images if decode else find_equal_files)(files, workers)
    for (part, i), facts in zip(wanted, all_facts, strict=True):
        part.facts[i] = facts


def _image_findings(part: CheckedSet) -> Iterator[Finding | None]:
    if part.facts:
        yield unreadable_images(part.paths, part.facts)
        yield wrong_sizes(part.paths, part.facts, part.readable[0].sizes)
        yield duplicate_images(part.paths, part.facts)
        yield deep_images(part.paths, part.facts)


def _split_findings(train: CheckedSet, val: CheckedSet) -> Iterator[Finding | None]:
    train_annotations, train_counts = train.readable
    val_annotations, val_counts = val.readable
    if train.facts and val.facts:
        yield overlap_of_content(train.paths, train.facts, val.paths, val.facts)
    else:
        yield overlap_of_names(train_annotations, train.paths, val_annotations, val.paths)
    yield different_classes(train_counts, val_counts) or classes_without_training(train_counts, val_counts)
