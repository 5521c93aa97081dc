"""Where the faults of boxes and masks begin: values on both sides of every bound."""

import numpy as np
import pytest

from eql_d2.data.annotations.geometry import box_cases, mask_cases

WIDTH, HEIGHT = 100, 80


def found(cases):
    return [case.kind for case in cases if case.annotations[0]]


def of_box(box, area=50.0):
    return found(box_cases(np.array([box], float), np.array([area]), np.array([WIDTH]), np.array([HEIGHT])))


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ([10, 10, 20, 20], None),
        ([10, 10, -0.1, 20], "box of negative size"),
        ([10, 10, 20, -0.1], "box of negative size"),
        ([10, 10, 0, 20], "box without area"),
        ([10, 10, 20, 0], "box without area"),
        ([99.9, 10, 1, 20], None),
        ([100, 10, 1, 20], "box outside its image"),
        ([10, 79.9, 20, 1], None),
        ([10, 80, 20, 1], "box outside its image"),
        ([-20, 10, 20, 20], "box outside its image"),
        ([10, -20, 20, 20], "box outside its image"),
        ([-2, -2, 20, 20], None),
        ([-2.1, 10, 20, 20], "box that sticks out of its image"),
        ([10, -2.1, 20, 20], "box that sticks out of its image"),
        ([82, 62, 20, 20], None),
        ([82.1, 10, 20, 20], "box that sticks out of its image"),
        ([10, 62.1, 20, 20], "box that sticks out of its image"),
        ([float("nan")] * 4, None),
    ],
)
def test_boxes(box, kind):
    assert of_box(box) == ([kind] if kind else [])


def test_areas_of_boxes():
    wrong = ["area that is negative or larger than its image"]
    assert [of_box([10, 10, 20, 20], area) for area in (0, 8081, -0.1, 8081.1)] == [[], [], wrong, wrong]


def of_mask(extents, mask_area=400.0, area=400.0, is_region=False):
    """Of a box from 100, 200 with a width of 20 and a height of 10, which is given the extents of a mask."""
    measures = np.array([extents], float), np.array([mask_area])
    return found(mask_cases(np.array([[100.0, 200, 20, 10]]), np.array([area]), *measures, np.array([is_region])))


@pytest.mark.parametrize("side", range(4))
def test_masks_that_leave_their_boxes(side):
    """By a tenth of the longer side and two pixels more."""
    outwards = [-1, -1, 1, 1][side]
    for beyond, leaves in ((-3, False), (4.0, False), (4.1, True)):
        extents = [100.0, 200, 120, 210]
        extents[side] += outwards * beyond
        assert of_mask(extents) == (["mask that leaves its box"] if leaves else [])
        assert of_mask(extents, is_region=True) == []


def test_areas_of_masks():
    """They may differ by half of the larger one and ten pixels."""
    inside = [100, 200, 120, 210]
    for area, mask_area, differs in (
        (400, 190, False),
        (400, 189, True),
        (190, 400, False),
        (189, 400, True),
        (0, 20, False),
        (0, 21, True),
    ):
        assert of_mask(inside, mask_area, area) == (["area that is not its mask's"] if differs else [])
        assert of_mask(inside, mask_area, area, is_region=True) == []
    assert of_mask([90, 200, 120, 210], 0, 500) == ["mask without area"]
