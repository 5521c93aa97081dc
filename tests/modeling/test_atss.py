"""ATSS against a loop over objects, levels and anchors, and in the detector."""

import math
import statistics

import pytest
import torch
from detectron2.structures import Boxes

from eql_d2.errors import UserError
from eql_d2.modeling.atss import atss_matches
from tests.modeling.test_dense_detectors import K, build, cfg, losses_of, targets  # noqa: F401


def overlap(a, b):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    inter = max(width, 0) * max(height, 0)
    area = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    return inter / (area - inter)


def center(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def by_loop(levels, objects, candidates):
    """Algorithm 1 of the paper."""
    anchors = [anchor for level in levels for anchor in level]
    best = [(-1.0, -1)] * len(anchors)
    for number, box in enumerate(objects):
        picked, start = [], 0
        for level in levels:
            distances = [math.dist(center(anchor), center(box)) for anchor in level]
            picked += [start + i for i in sorted(range(len(level)), key=distances.__getitem__)[:candidates]]
            start += len(level)
        overlaps = [overlap(anchors[i], box) for i in picked]
        least = statistics.mean(overlaps) + statistics.stdev(overlaps)
        for i, value in zip(picked, overlaps, strict=True):
            cx, cy = center(anchors[i])
            inside = min(cx - box[0], cy - box[1], box[2] - cx, box[3] - cy) > 0.01
            if value >= least and inside and value > best[i][0]:
                best[i] = (value, number)
    return [number for _, number in best]


@pytest.mark.parametrize("candidates", [2, 5, 100])
def test_it_is_the_paper_s_algorithm(candidates):
    generator = torch.Generator().manual_seed(candidates)

    def boxes(number, size):
        corners = torch.rand(number, 2, generator=generator, dtype=torch.float64) * 60
        sides = (torch.rand(number, 2, generator=generator, dtype=torch.float64) + 0.5) * size
        return torch.cat([corners, corners + sides], dim=1)

    levels, objects = [boxes(40, 12.0), boxes(12, 25.0), boxes(3, 50.0)], boxes(7, 20.0)
    matches = atss_matches([Boxes(level.float()) for level in levels], Boxes(objects.float()), candidates)
    assert matches.tolist() == by_loop([level.tolist() for level in levels], objects.tolist(), candidates)
    assert (matches >= 0).sum() > 3


def test_without_objects_all_is_background():
    anchors = [Boxes(torch.tensor([[0.0, 0, 8, 8]]))]
    assert atss_matches(anchors, Boxes(torch.zeros(0, 4))).tolist() == [-1]
    assert atss_matches(anchors, Boxes(torch.tensor([[1.0, 1, 9, 9]]))).tolist() == [0]  # one candidate, no deviation


def test_the_detector_trains_with_it(cfg):  # noqa: F811
    plain = build(cfg)
    cfg.MODEL.RETINANET.ASSIGNMENT = "atss"
    model = build(cfg, "efl")
    anchors = model.anchor_generator([torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4)])
    labels, boxes = model.label_anchors(anchors, targets())
    assert not torch.equal(labels[0], plain.label_anchors(anchors, targets())[0][0])
    for of_image, matched, truth in zip(labels, boxes, targets(), strict=True):
        positive = of_image < K
        assert set(of_image[positive].tolist()) == set(truth.gt_classes.tolist())
        for anchor in positive.nonzero().flatten().tolist():
            assert any(torch.equal(matched[anchor], box) for box in truth.gt_boxes.tensor)
    _, grad = losses_of(model)
    assert grad.abs().sum() > 0


def test_mistakes_are_told(cfg):  # noqa: F811
    cfg.MODEL.RETINANET.ASSIGNMENT = "nearest"
    with pytest.raises(UserError, match=r"MODEL\.RETINANET\.ASSIGNMENT is 'nearest'; it must be overlap or atss"):
        build(cfg)
    cfg.MODEL.RETINANET.ASSIGNMENT, cfg.MODEL.RETINANET.ATSS_CANDIDATES = "atss", 0
    with pytest.raises(UserError, match=r"MODEL\.RETINANET\.ATSS_CANDIDATES is 0; it must be at least 1"):
        build(cfg)


def test_a_centre_has_to_lie_a_hundredth_of_a_pixel_inside():
    """As in the authors' code; of three anchors the overlap of one alone reaches mean and deviation."""
    for inside, expected in ((0.015, 0), (0.01, -1), (0.005, -1)):
        anchors = torch.tensor([[-5.0, 0, 5, 10], [50, 50, 60, 60], [70, 70, 80, 80]])
        objects = torch.tensor([[-inside, 0, 10, 10]])
        assert atss_matches([Boxes(anchors)], Boxes(objects), 3).tolist() == [expected, -1, -1]
