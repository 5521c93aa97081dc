"""Pictures of findings: the entry that the sentence names, with its box, and the worst of many."""

import re

import numpy as np
import pytest

from eql_d2.analysis.dataset_report import dataset_page
from eql_d2.analysis.finding_pictures import SIDE, draw_case
from eql_d2.data.annotations.findings import MOST_CASES, Case
from eql_d2.data.annotations.rules import RLE
from eql_d2.data.checks.doctor import examine_dataset
from tests.analysis.test_dataset_report import check_stands_alone
from tests.data.small_set import make_content, write_set


def page_of(folder, content):
    check = examine_dataset(write_set(folder, "train.json", content), folder, workers=1)
    return check, dataset_page(check)


def test_the_sentence_leads_to_pictures_of_the_first_case_and_the_worst(tmp_path):
    content = make_content(8)
    for number, annotation in enumerate(content["annotations"]):
        annotation["bbox"] = [28, 4, 8 + number, 8]  # of an image of 32 pixels
    check, page = page_of(tmp_path, content)
    check_stands_alone(page)
    number, finding = next((n, f) for n, (_, f) in enumerate(check.findings) if f.kind.startswith("box that sticks"))
    assert [case.annotation_id for case in finding.cases] == [100, 107, 106, 105]
    assert f'href="#finding-{number}"' in page
    section = page.split(f'id="finding-{number}"')[1].split("<h3")[0]
    assert section.count("<img") == MOST_CASES
    assert "annotation 107 (dog) of image 17, photos/007.jpg: bbox 28, 4, 15, 8" in section


def break_box(content):
    content["annotations"][2]["bbox"] = [400, 4, 8, 8]


def break_polygon(content):
    content["annotations"][2]["segmentation"] = [[4, 4, 9, 9]]


def break_run_lengths(content):
    content["annotations"][2]["segmentation"] = {"size": [24, 32], "counts": [24 * 32 - 5, 2]}


def break_class(content):
    content["annotations"][2]["category_id"] = 77


def break_size(content):
    content["images"][2]["width"] += 1


def make_crowd(content):
    content["annotations"][2]["iscrowd"] = 1


def share_of_image(content):
    for annotation in content["annotations"]:
        annotation["bbox"] = [0.1, 0.1, 0.5, 0.5]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (break_box, "box outside its image"),
        (break_polygon, "annotation with a polygon of too few points"),
        (break_run_lengths, "annotation with an RLE whose counts do not add up to its size"),
        (break_class, "unknown category_id"),
        (break_size, "wrong image size"),
        (make_crowd, "crowd"),
        (share_of_image, "boxes from 0 to 1"),
    ],
)
def test_what_is_left_out_of_training_is_shown(tmp_path, fault, kind):
    content = make_content()
    fault(content)
    check, page = page_of(tmp_path, content)
    number = [finding.kind for _, finding in check.findings].index(kind)
    section = page.split(f'id="finding-{number}"')[1].split("<h3")[0]
    assert re.search(r"photos/00[02]\.jpg", section)
    assert "data:image/jpeg" in section


def test_without_images_there_are_no_pictures(tmp_path):
    content = make_content()
    break_box(content)
    page = dataset_page(examine_dataset(write_set(tmp_path, "train.json", content)))
    assert "Pictures of findings" not in page
    assert "See pictures" not in page


@pytest.mark.parametrize(
    "case",
    [
        Case(),
        Case(bbox=(1e9, -1e9, 5, 5)),
        Case(bbox=(float("inf"), 0, 1, 1)),
        Case(bbox=(3, 3, 0, 0)),
        Case(bbox=(4, 4, 8, 8), segmentation=RLE((24, 32), "rubbish")),
        Case(segmentation=RLE((24, 32), [700, 30, 38])),
        Case(segmentation=[[1, 1], [2, 2, 3], []]),
    ],
)
def test_any_case_makes_a_small_picture(case):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    picture = draw_case(pixels, case, "cat")
    assert SIDE - 2 <= max(picture.shape[:2]) <= SIDE + 2


def test_the_box_is_drawn_where_it_is():
    """On black: red lines around the box, in a picture that is scaled and cut, and grey beyond the image."""
    picture = draw_case(np.zeros((100, 100, 3), np.uint8), Case(bbox=(80, 20, 40, 40)), "").astype(int)
    assert (picture[:, -3:] == 120).all()  # 20 pixels of the box and 8 more are beyond
    red = (picture[..., 0] > 150) & (picture[..., 1] < 90)
    columns = np.flatnonzero(red.sum(axis=0) > 60)
    scale = SIDE / 80  # the view: from x 60 to 128 and from y 0 to 80
    assert columns.min() == pytest.approx((80 - 60) * scale, abs=3)
    assert columns.max() == pytest.approx((120 - 60) * scale, abs=3)
