"""Colours that tell neighbours apart, masks where they belong, labels that do not hide each other."""

import numpy as np
import pytest

from eql_d2.drawing.contact_sheet import contact_sheet
from eql_d2.drawing.instances import MASK_OPACITY, PALETTE, InstanceColors, draw_instances, scale_for

RED = np.array([[255, 0, 0]], dtype=np.uint8)


def unlike(colors):
    return len({tuple(color) for color in colors.tolist()}) == len(colors)


def test_neighbours_have_different_colours():
    crowd = np.array([[0, 0, 100, 100]] * len(PALETTE), dtype=float)
    assert unlike(InstanceColors().assign(crowd, np.zeros(len(PALETTE), dtype=int)))
    apart = np.array([[0, 0, 10, 10], [14, 0, 24, 10]], dtype=float)
    assert unlike(InstanceColors().assign(apart, np.zeros(2, dtype=int), margin=5))
    many = np.array([[0, 0, 100, 100]] * 40, dtype=float)
    assert InstanceColors().assign(many, np.zeros(40, dtype=int)).shape == (40, 3)


def test_two_neighbours_have_colours_far_apart():
    boxes = np.array([[0, 0, 10, 10]] * 2, dtype=float)
    first, second = InstanceColors().assign(boxes, np.zeros(2, dtype=int)).astype(int)
    assert np.abs(first - second).sum() > 300


def test_a_video_keeps_colours():
    memory = InstanceColors()
    boxes, classes = np.array([[0, 0, 10, 10], [50, 50, 70, 70]], dtype=float), np.array([0, 1])
    first = memory.assign(boxes, classes)
    # The other order, both moved a little, and a new one of the same class as the first.
    moved = np.array([[52, 51, 72, 71], [2, 1, 12, 11], [30, 30, 40, 40]], dtype=float)
    second = memory.assign(moved, np.array([1, 0, 0]))
    assert np.array_equal(second[:2], first[::-1])
    # An object of another class in the same place is a new one.
    third = memory.assign(moved[:1], np.array([0]), margin=0)
    assert third.shape == (1, 3)


def test_nothing_to_draw():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    drawn = draw_instances(image, np.zeros((0, 4)), [], np.zeros((0, 3), np.uint8), np.zeros((0, 20, 30), bool))
    assert np.array_equal(drawn, image)


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.5])
def test_a_mask_tints_its_inside_alone(scale):
    image = np.full((200, 300, 3), 100, dtype=np.uint8)
    mask = np.zeros((1, 200, 300), dtype=bool)
    mask[0, 60:160, 50:250] = True
    box = np.array([[50.0, 60, 250, 160]])
    drawn = draw_instances(image, box, ["x"], RED, mask, scale)
    assert drawn.shape == (200 * scale, 300 * scale, 3)
    inside, outside = drawn[int(120 * scale), int(150 * scale)], drawn[int(190 * scale), int(20 * scale)]
    assert inside.tolist() == pytest.approx((1 - MASK_OPACITY) * 100 + MASK_OPACITY * RED[0], abs=1)
    assert outside.tolist() == [100, 100, 100]
    assert np.array_equal(image, np.full_like(image, 100))


def test_labels_of_one_place_stay_apart():
    """Of boxes in one place the first have labels, each whole; the others have none."""
    image = np.zeros((400, 400, 3), dtype=np.uint8)
    count = 40
    boxes = np.tile(np.array([180.0, 200, 220, 230]), (count, 1))
    colors = np.stack([np.arange(count) + 100] * 3, axis=1).astype(np.uint8)
    drawn = draw_instances(image, boxes, ["a label"] * count, colors)
    areas = [(drawn == color).all(axis=2).sum() for color in colors]
    alone = draw_instances(image, boxes[:1], ["a label"], colors[:1])
    whole = (alone == colors[0]).all(axis=2).sum()
    labelled = [area for area in areas if area > 0.2 * whole]
    assert 5 <= len(labelled) < count
    assert areas[0] >= 0.75 * whole


def test_labels_stay_in_the_picture():
    image = np.zeros((100, 200, 3), dtype=np.uint8)
    corners = np.array([[0, 0, 5, 5], [195, 0, 200, 5], [0, 95, 5, 100], [195, 95, 200, 100]], dtype=float)
    for box in corners:
        drawn = draw_instances(image, box[None], ["label"], RED)
        assert (drawn == RED[0]).all(axis=2).sum() > 300


def test_small_pictures_are_enlarged():
    assert scale_for(480, 640) == 1.5
    assert scale_for(128, 128, smallest=640) == 5
    assert scale_for(3000, 4000) == 1


def test_contact_sheet_shows_each_tile():
    tiles = [np.full((h, w, 3), shade, np.uint8) for h, w, shade in ((40, 50, 10), (50, 30, 60), (20, 50, 120))] * 2
    sheet = contact_sheet(tiles, ["a.jpg", "a_very_long_name_that_has_no_room.jpg", "c.jpg"] * 2, side=50)
    for tile in tiles[:3]:
        assert (sheet == tile[0, 0]).all(axis=2).sum() >= 2 * tile.shape[0] * tile.shape[1]
