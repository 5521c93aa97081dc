"""Boxes that are no x, y, width, height in pixels: recognised with their evidence, and good ones left in peace."""

import numpy as np
import pytest

from eql_d2.data.annotations.box_forms import BOX_FORMS, box_form, form_by_masks

WIDTH, HEIGHT = 640, 480


def objects(number=40, seed=0, of_image=(WIDTH, HEIGHT)):
    """x0, y0, x1, y1 of objects that lie in an image and are 5 pixels or more large."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.7, (number, 2))
    high = low + rng.uniform(0.05, 0.3, (number, 2))
    return np.concatenate([low, high], axis=1) * [*of_image, *of_image]


def as_sizes(corners):
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def areas_of(corners):
    return (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])


def judged(boxes, areas=None, size=(WIDTH, HEIGHT), chosen=None):
    number = len(boxes)
    areas = np.full(number, np.nan) if areas is None else areas
    chosen = np.ones(number, bool) if chosen is None else chosen
    return box_form(np.asarray(boxes, float), areas, np.tile(size, (number, 1)), chosen)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("with_areas", [False, True])
def test_boxes_as_they_should_be(seed, with_areas):
    corners = objects(seed=seed)
    assert judged(as_sizes(corners), areas_of(corners) if with_areas else None) is None


def test_good_boxes_in_one_corner_are_no_percentages():
    assert judged(as_sizes(objects(of_image=(90, 90)))[:19]) is None  # fewer than tell a share
    assert judged(as_sizes(objects(of_image=(40, 40)))) is None  # nothing beyond 50
    assert judged(as_sizes(objects(of_image=(100, 100))), size=(199, 480)) is None  # the images are as small


def test_shares_of_the_image():
    boxes = as_sizes(objects()) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    finding = judged(boxes)
    assert (finding.level, finding.kind) == ("defect", BOX_FORMS[0])
    assert finding.sentence == (
        "no bbox of the 40 is larger than one pixel: they look like shares of the image, from 0 to 1; write x, y, "
        "width and height in pixels"
    )
    assert judged([[0.5, 0.5, 1, 1]]).kind == BOX_FORMS[0]  # one object is enough
    assert judged([[0, 0, 1, 1]]) is None  # a box of one pixel
    assert judged([[0.5, 0.5, 0.5, 0.5]], size=(4, 4)) is None  # may be, of four pixels
    assert judged([*boxes.tolist(), [10, 10, 20, 20]]) is None


def test_percentages():
    boxes = as_sizes(objects()) / [WIDTH / 100, HEIGHT / 100, WIDTH / 100, HEIGHT / 100]
    finding = judged(boxes)
    assert (finding.level, finding.kind) == ("remark", BOX_FORMS[1])
    assert "no bbox of the 40 reaches beyond 100, in images of 480 pixels and more" in finding.sentence
    assert judged([*boxes.tolist(), [90, 90, 12, 12]]) is None  # to 102


@pytest.mark.parametrize("with_areas", [False, True])
def test_corners_that_leave_the_image_as_sizes(with_areas):
    corners = objects()
    sticking_out = (corners[:, :2] + corners[:, 2:] > [WIDTH + 2, HEIGHT + 2]).any(axis=1).mean()
    finding = judged(corners, areas_of(corners) if with_areas else None)
    assert (finding.level, finding.kind) == ("remark", BOX_FORMS[2])
    assert f"in 100% of the annotations, and {sticking_out:.0%} leave their image" in finding.sentence


def test_corners_in_one_quarter_are_told_by_their_areas():
    corners = objects(of_image=(WIDTH / 2.5, HEIGHT / 2.5))
    assert judged(corners) is None  # as sizes they fit the image
    assert judged(corners, areas_of(corners)).kind == BOX_FORMS[2]
    assert judged(corners, corners[:, 2] * corners[:, 3]) is None  # the areas are those of sizes


@pytest.mark.parametrize(("wrong", "told"), [(2, True), (3, False)])
def test_nineteen_of_twenty_have_to_fit(wrong, told):
    """40 boxes: 5 % may be of another form."""
    corners = objects()
    corners[:wrong] = [500, 400, 30, 30]  # ends before it begins
    finding = judged(corners)
    assert (finding is not None) == told
    assert not told or "in 95% of the annotations" in finding.sentence


def test_a_corner_may_be_one_pixel_off_and_a_fifth_has_to_leave_the_image():
    inside = np.tile([[10.0, 10, 200, 200]], (8, 1))
    leaving = np.array([[600.0, 300, WIDTH + 1, HEIGHT + 1]] * 2)
    assert "20% leave" in judged([*inside, *leaving]).sentence
    assert judged([*inside, *inside[:1], *leaving]) is None  # 2 of 11
    leaving[:, 2] += 1
    assert judged([*inside, *leaving]) is None


def test_what_does_not_count_is_not_looked_at():
    corners = objects()
    good = as_sizes(corners)
    chosen = np.arange(80) >= 40
    assert judged([*corners, *good], chosen=chosen) is None
    assert judged([*corners, *good], chosen=~chosen).kind == BOX_FORMS[2]
    corners[3] = np.nan
    assert judged(corners).kind == BOX_FORMS[2]
    assert judged(np.full((3, 4), np.nan)) is None
    assert judged(np.empty((0, 4))) is None


def test_corners_by_masks():
    corners = objects(of_image=(200, 200))
    assert form_by_masks(as_sizes(corners), corners) is None
    finding = form_by_masks(corners, corners)
    assert (finding.level, finding.kind) == ("remark", BOX_FORMS[2])
    assert "in 100% of the annotations, by their masks" in finding.sentence
    half = np.concatenate([corners[:20], as_sizes(corners)[20:]])
    assert form_by_masks(half, corners).kind != BOX_FORMS[2]  # more than half are needed
    half[20] = corners[20]
    assert "in 52% of" in form_by_masks(half, corners).sentence


def test_masks_that_say_nothing_are_not_looked_at():
    """Without a mask, or with one of no width or height."""
    corners = objects(8, of_image=(200, 200))
    extents = corners.copy()
    extents[:6] = np.nan
    extents[6, 2] = extents[6, 0]
    boxes = as_sizes(corners)
    boxes[7] = corners[7]  # the only one that counts
    assert "in 100% of the annotations, by their masks" in form_by_masks(boxes, extents).sentence
    extents[7, 3] = extents[7, 1] - 1
    assert form_by_masks(boxes, extents) is None


@pytest.mark.parametrize(
    ("scale", "word"), [(2.01, "larger"), (1.99, None), (0.49, "smaller"), (0.51, None), (0, "smaller")]
)
def test_boxes_of_another_size_than_their_masks(scale, word):
    """Four times the area is twice the side."""
    corners = objects(of_image=(200, 200))
    boxes = as_sizes(corners)
    boxes[:10, 2:] *= scale  # a quarter of them
    finding = form_by_masks(boxes, corners)
    assert (finding is None) == (word is None)
    if finding:
        assert (finding.level, finding.kind) == ("remark", "boxes of other sizes than masks")
        assert f"bbox is 4 times {word} than the box around its mask, or more, in 25% of" in finding.sentence
        boxes[9] = as_sizes(corners)[9]
        assert form_by_masks(boxes, corners) is None


def centred(corners):
    return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)


def test_centres_leave_their_image():
    wide = objects()
    wide[:20, 2] = WIDTH - 1  # at the right border
    assert judged(as_sizes(wide)) is None
    finding = judged(centred(wide))
    assert (finding.level, finding.kind) == ("remark", "boxes that look like centres")
    assert judged(centred(objects(of_image=(200, 200)))) is None  # all inside either way


@pytest.mark.parametrize(
    ("boxes_of", "form"),
    [
        (centred, "the centre x, y with width and height"),
        (lambda corners: as_sizes(corners)[:, [1, 0, 3, 2]], "y, x, height, width"),
        (lambda corners: corners[:, [1, 0, 3, 2]], "y0, x0, y1, x1"),
    ],
)
def test_other_forms_by_masks(boxes_of, form):
    corners = objects(of_image=(200, 200))
    assert f"bbox looks like {form} in" in form_by_masks(boxes_of(corners), corners).sentence


def test_masks_that_are_shares_of_the_image():
    extents = np.array([[0.1, 0.2, 0.5, 0.6], [0.3, 0.3, 1.0, 1.0]])
    finding = form_by_masks(np.array([[10.0, 20, 40, 40], [30, 30, 70, 70]]), extents)
    assert (finding.kind, "no mask of the 2 is larger than one pixel" in finding.sentence) == (
        "masks from 0 to 1",
        True,
    )
    one_of_many_pixels = np.array([[0.1, 0.2, 0.5, 0.6], [0.3, 0.3, 1.5, 1.5]])
    assert form_by_masks(np.array([[10.0, 20, 40, 40], [30, 30, 70, 70]]), one_of_many_pixels).kind != finding.kind
