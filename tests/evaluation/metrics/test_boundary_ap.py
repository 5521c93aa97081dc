"""Boundary AP: vernier's numbers against the official packages', given overlaps by the paper's definition."""

import sys

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest

from eql_d2.errors import UserError
from eql_d2.evaluation.metrics.engines import COCO_METRIC_NAMES, METRIC_NAMES
from eql_d2.evaluation.metrics.references import run_pycocotools
from tests.evaluation.made_up import SIDE, evaluate_content, fresh, made_up, official

WIDTH = round(0.02 * np.hypot(SIDE, SIDE))  # pixels


def boundary(run_lengths):
    """Run lengths of what an erosion by the boundary's width takes away; outside the image there is nothing."""
    mask = np.pad(mask_utils.decode(run_lengths), WIDTH)
    inside = cv2.erode(mask, np.ones((2 * WIDTH + 1,) * 2, np.uint8))
    return mask_utils.encode(np.asfortranarray((mask - inside)[WIDTH:-WIDTH, WIDTH:-WIDTH]))


@pytest.fixture
def paper_overlaps(monkeypatch):
    """Lets both official packages take the lower of the masks' and the boundaries' overlaps."""
    plain = mask_utils.iou

    def lower(found, objects, iscrowd):
        if not len(found) or not len(objects):
            return plain(found, objects, iscrowd)
        return np.minimum(
            plain(found, objects, iscrowd), plain(*(list(map(boundary, x)) for x in (found, objects)), iscrowd)
        )

    monkeypatch.setattr(mask_utils, "iou", lower)


def case(seed=11):
    content, results = made_up(seed, num_images=15)
    for annotation in content["annotations"][::7]:
        annotation["area"] = 0.0
    return content, results


def test_lvis_rules(paper_overlaps):
    pytest.importorskip("vernier")
    pytest.importorskip("lvis")
    content, results = case()
    for annotation in content["annotations"][1::5]:
        annotation["ignore"] = 1
    for annotation in content["annotations"][2::5]:
        annotation["iscrowd"] = 1
    for image in content["images"][::3]:  # labels that contradict each other
        image["not_exhaustive_category_ids"] += image["neg_category_ids"]
        image["neg_category_ids"] = list(range(1, 7))
    ours = evaluate_content(content, results, "boundary").values
    assert list(ours) == list(METRIC_NAMES)
    assert ours == pytest.approx(official(content, results, "segm"), abs=1e-9, nan_ok=True)
    assert 5 < ours["AP"] < 30


def test_coco_rules(paper_overlaps):
    pytest.importorskip("vernier")
    content, results = case()
    for annotation in content["annotations"][1::5]:
        annotation["ignore"] = 1  # which pycocotools overwrites
    ours = evaluate_content(content, results, "boundary", rules="coco").values
    shapes = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    stats = run_pycocotools(fresh(content), shapes, "segm").stats
    expected = np.where(stats < 0, np.nan, 100 * stats)
    assert [ours[name] for name in COCO_METRIC_NAMES[:6]] == pytest.approx(expected[:6], abs=1e-9, nan_ok=True)
    assert [ours[name] for name in COCO_METRIC_NAMES[9:]] == pytest.approx(expected[8:], abs=1e-9, nan_ok=True)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "vernier", None)
    with pytest.raises(UserError, match=r"^Boundary AP needs vernier; install it: pip install 'eql_d2\[boundary\]'$"):
        evaluate_content(*case(), "boundary")
