"""What has to be right of a dataset before training or evaluation starts."""

import logging
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog

from eql_d2.data.annotations.box_forms import BOX_FORMS
from eql_d2.data.annotations.cache import PackedAnnotations, open_annotations
from eql_d2.data.annotations.evaluation_rules import evaluation_finding
from eql_d2.data.annotations.findings import defects_error
from eql_d2.data.annotations.image_paths import missing_images, path_of
from eql_d2.data.annotations.lvis_format import check_annotations, check_files_exist, check_paths
from eql_d2.data.registration import ignore_defects_of, is_federated
from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

NO_MASK = "annotation without segmentation"
# Kinds of findings without which a set can train but not be evaluated on.
NEEDED_TO_EVALUATE = ("annotation without area",)
# Remarks that say of a test set, too, that its results will mean nothing.
TOLD_OF_ALL = BOX_FORMS


def check_dataset(name: str, ignore_defects: bool = False, evaluated: bool = False, groups_known: bool = True) -> None:
    """Make sure early that a dataset can be used, and tell what is remarkable about it.

    Args:
        name: of a registered dataset; one without annotation file is checked only if it is evaluated.
        ignore_defects: leave defective entries out, from now on, instead of raising an error.
        evaluated: whether metrics will be computed on it.
        groups_known: whether the groups rare, common and frequent come from training data.

    Raises:
        UserError: a file or folder is missing, the annotations have defects, or the evaluation would refuse them.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("prepare"):
        metadata.prepare()
    if not (metadata.get("json_file") and metadata.get("image_root")):
        if evaluated:
            raise UserError(
                f"Dataset {name!r} names no annotation file (json_file in its metadata), which its evaluation needs; "
                "describe it under DATASETS.CUSTOM, or leave it out of DATASETS.TEST."
            )
        return
    if evaluated and metadata.get("image_numbers") == {}:
        raise UserError(
            f"Records of dataset {name!r} have no image_id of their own, which their evaluation needs; give each one."
        )
    described_in = metadata.get("described_in")
    if described_in and not Path(metadata.image_root).is_dir() and Path(metadata.json_file).exists():
        raise UserError(
            f"Image folder {metadata.image_root} does not exist; it is the images of dataset {name} in {described_in}: "
            "correct it there, or put the images in their place."
        )
    check_files_exist(metadata.json_file, metadata.image_root)
    if metadata.get("ignore_regions"):
        open_annotations(metadata.ignore_regions)
    annotations = open_annotations(metadata.json_file)
    check_annotations(annotations, is_federated(name), ignore_defects)
    if not metadata.get("images_outside"):
        check_paths(annotations, metadata.image_root)
    missing = missing_images(annotations, metadata.image_root)
    if missing and (evaluated or not ignore_defects):  # metrics on a part of the set would be of another set
        error = defects_error(metadata.json_file, [missing], ignorable=not evaluated)
        if error:
            place = f" (the images of dataset {name} in {described_in})" if described_in else ""
            raise UserError(f"{str(error).removesuffix('.')}{place}.")
    if ignore_defects:
        ignore_defects_of(name)
    if evaluated:
        _check_for_evaluation(name, annotations, groups_known)
    for finding in (*annotations.findings, *([missing] if missing else [])):
        if finding.level == "defect" or not evaluated or finding.kind in TOLD_OF_ALL:
            logger.warning("%s: %s%s", name, finding, " (left out)" if finding.level == "defect" else "")


def _check_for_evaluation(name: str, annotations: PackedAnnotations, groups_known: bool) -> None:
    for finding in annotations.findings:
        if finding.kind in NEEDED_TO_EVALUATE:
            raise UserError(f"Annotation file {annotations.source}: {finding}; add it, or evaluate on another set.")
    refused = evaluation_finding(annotations, is_federated(name), groups_known)
    if refused:
        raise UserError(f"Annotation file {annotations.source}: {refused}; mend it, or evaluate on another set.")


def without_masks(name: str) -> int:
    """How many annotations of a registered dataset have no mask, so that masks cannot be evaluated on it."""
    json_file = MetadataCatalog.get(name).get("json_file")
    findings = open_annotations(json_file).findings if json_file else ()
    return next((finding.count for finding in findings if finding.kind == NO_MASK), 0)


def check_masks_are_polygons(name: str) -> None:
    """Make sure that ``INPUT.MASK_FORMAT`` polygon suits a registered dataset to train on.

    Raises:
        UserError: an object of its classes has a mask stored as run lengths; the sentence names its image.
    """
    metadata = MetadataCatalog.get(name)
    if not metadata.get("json_file"):
        return
    annotations = open_annotations(metadata.json_file)
    known = metadata.get("thing_dataset_id_to_contiguous_id", {})
    classes = [place for place, record in enumerate(annotations.category_records) if record["id"] in known]
    objects = ~annotations.regions & np.isin(annotations.categories, classes)
    faulty = np.flatnonzero(annotations.run_lengths & objects)
    if not len(faulty):
        return
    place = annotations.place_of(int(faulty[0]))
    root = Path(metadata.get("image_root") or "")
    path = root / path_of(annotations.image_record(place), annotations.federated, root)
    others = f" (and {len(faulty) - 1} masks more)" if len(faulty) > 1 else ""
    raise UserError(
        f"INPUT.MASK_FORMAT is polygon, but image {path} of dataset {name} has a mask stored as run lengths{others}; "
        "set it to bitmask."
    )
