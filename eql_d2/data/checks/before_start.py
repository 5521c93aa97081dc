"""What has to be right of a dataset before training or evaluation starts."""

import logging

from detectron2.data import MetadataCatalog

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.findings import defects_error
from eql_d2.data.annotations.image_paths import missing_images
from eql_d2.data.annotations.lvis_format import check_annotations, check_files_exist
from eql_d2.data.registration import EVALUATORS, ignore_defects_of
from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

# Kinds of findings without which a set can train but not be evaluated on.
NEEDED_TO_EVALUATE = ("annotation without id", "annotation without area")


def check_dataset(name: str, ignore_defects: bool = False, evaluated: bool = False) -> None:
    """Make sure early that a dataset can be used, and tell what is remarkable about it.

    Args:
        name: of a dataset registered by this project; others are not checked.
        ignore_defects: leave defective entries out, from now on, instead of raising an error.
        evaluated: whether metrics will be computed on it.

    Raises:
        UserError: a file or folder is missing, or the annotations have defects.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") not in EVALUATORS:
        return
    if metadata.get("prepare"):
        metadata.prepare()
    check_files_exist(metadata.json_file, metadata.image_root)
    if metadata.get("ignore_regions"):
        open_annotations(metadata.ignore_regions)
    annotations = open_annotations(metadata.json_file)
    check_annotations(annotations, metadata.get("federated", True), ignore_defects)
    missing = missing_images(annotations, metadata.image_root)
    if missing and (evaluated or not ignore_defects):  # metrics on a part of the set would be of another set
        error = defects_error(metadata.json_file, [missing], ignorable=not evaluated)
        if error:
            raise error
    if ignore_defects:
        ignore_defects_of(name)
    for finding in (*annotations.findings, *([missing] if missing else [])):
        if evaluated and finding.kind in NEEDED_TO_EVALUATE:
            raise UserError(f"Annotation file {metadata.json_file}: {finding}; add it, or evaluate on another set.")
        if finding.level == "defect" or not evaluated:
            logger.warning("%s: %s%s", name, finding, " (left out)" if finding.level == "defect" else "")
