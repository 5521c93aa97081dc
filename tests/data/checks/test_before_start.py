"""What is said of a dataset before the first iteration."""

from functools import partial

import numpy as np
import pytest
from pycocotools import mask as mask_api

from eql_d2.data.checks.before_start import check_masks_are_polygons
from eql_d2.data.checks.doctor import examine_dataset
from eql_d2.data.registration import register_lvis_format, set_class_metadata
from eql_d2.errors import UserError
from tests.data.small_set import HEIGHT, WIDTH, make_content, write_set

MASK = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
MASK[4:12, 4:12] = 1
RUN_LENGTHS = {"size": [HEIGHT, WIDTH], "counts": mask_api.encode(MASK)["counts"].decode()}


def registered(folder, changes, **options):
    """Register four images, objects 0 and 2 of cats, 1 and 3 of dogs, with some annotations changed."""
    content = make_content(4)
    for number, values in changes.items():
        content["annotations"][number].update(values)
    path = write_set(folder, "train.json", content)
    register_lvis_format("masks_test", path, folder, federated=False, **options)
    set_class_metadata("masks_test")
    return partial(check_masks_are_polygons, "masks_test")


def test_run_lengths_do_not_suit_polygons(tmp_path):
    check = registered(tmp_path, {1: {"segmentation": RUN_LENGTHS}, 3: {"segmentation": RUN_LENGTHS}})
    with pytest.raises(UserError) as error:
        check()
    assert str(error.value) == (
        f"INPUT.MASK_FORMAT is polygon, but image {tmp_path}/photos/001.jpg of dataset masks_test has a mask stored as "
        "run lengths (and 1 masks more); set it to bitmask."
    )


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({1: {"segmentation": RUN_LENGTHS, "iscrowd": 1}}, {}),  # COCO's crowds are no objects
        ({1: {"segmentation": RUN_LENGTHS}}, {"categories": ["cat"]}),  # of a class that is left out
    ],
)
def test_run_lengths_that_train_nothing_are_no_hindrance(tmp_path, changes, options):
    registered(tmp_path, changes, **options)()


def test_crowds_are_counted_once(tmp_path):
    content = make_content(4)
    for number in (1, 2):
        content["annotations"][number]["iscrowd"] = 1
    findings = [finding for _, finding in examine_dataset(write_set(tmp_path, "train.json", content)).findings]
    crowds = next(finding for finding in findings if finding.kind == "crowd")
    assert str(crowds) == (
        "annotation 101 of image 11 is a crowd (iscrowd or ignore 1): it trains nothing (and 1 more like this)"
    )


def test_nothing_to_train_on_is_a_defect(tmp_path):
    path = write_set(tmp_path, "train.json", {**make_content(2), "annotations": []})
    check = examine_dataset(path, val_annotation_file=path)  # a test set may have none
    kinds = [(where, finding.kind) for where, finding in check.findings if finding.level == "defect"]
    assert ("train", "no annotations") in kinds and ("val", "no annotations") not in kinds
