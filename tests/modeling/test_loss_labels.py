"""What the box predictor tells a loss beyond classes: objects, number of positives, overlap of predictions."""

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from eql_d2.modeling import build_box_predictor
from eql_d2.modeling.loss_labels import mean_number_of_positives, number_objects, overlap_of_predictions
from tests.modeling.test_box_predictor import FEATURES, make_proposals

K = 6


def image_of(rows):
    """RoIs of an image, (class, x of the ground truth's box) each."""
    instances = Instances((64, 64))
    instances.proposal_boxes = Boxes(torch.tensor([[0.0, 0.0, 9.0, 9.0]] * len(rows)))
    instances.gt_classes = torch.tensor([c for c, _ in rows])
    instances.gt_boxes = Boxes(torch.tensor([[x, 1.0, x + 5, 7.0] for _, x in rows]))
    return instances


def test_objects_are_told_apart_by_image_box_and_class():
    rows = [image_of([(2, 1.0), (2, 3.0), (K, 1.0), (2, 1.0), (3, 1.0)]), image_of([(2, 1.0), (K, 2.0)])]
    numbers = number_objects(rows, K).tolist()
    assert [numbers[2], numbers[6]] == [-1, -1]
    assert numbers[0] == numbers[3]
    assert len({numbers[i] for i in (0, 1, 4, 5)}) == 4


def test_an_image_without_ground_truth_has_none():
    background = Instances((64, 64))
    background.proposal_boxes = Boxes(torch.rand(3, 4))
    background.gt_classes = torch.full((3,), K)
    assert number_objects([background], K).tolist() == [-1, -1, -1]


def test_overlap_is_that_of_the_own_class_s_box():
    transform = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    gt_boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 10]])
    deltas = torch.zeros(3, 2, 4)
    deltas[1, 1, 0] = 0.5  # class 1's box is moved by half a width, onto its target
    classes = torch.tensor([0, 1, 2])
    quality = overlap_of_predictions(deltas.flatten(1), boxes, gt_boxes, classes, transform, 2)
    assert quality.tolist() == pytest.approx([1, 1, 0])
    agnostic = overlap_of_predictions(torch.zeros(3, 4), boxes, gt_boxes, classes, transform, 2)
    assert agnostic.tolist() == pytest.approx([1, 1 / 3, 0])
    broken = overlap_of_predictions(torch.full((3, 4), torch.nan), boxes, gt_boxes, classes, transform, 2)
    assert broken.tolist() == [0, 0, 0]


def count_positives(folder):
    rank = torch.distributed.get_rank()
    number = mean_number_of_positives(torch.tensor([0, 1, 2, K][: 3 * rank]), K)
    torch.save(number, folder / f"{rank}.pth")


def test_positives_are_averaged_over_processes(tmp_path, two_processes):
    assert mean_number_of_positives(torch.tensor([K, 0, 3]), K) == 2
    assert mean_number_of_positives(torch.tensor([K]), K) == 1
    two_processes(count_positives, tmp_path)
    assert [torch.load(tmp_path / f"{rank}.pth").item() for rank in (0, 1)] == [1.5, 1.5]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("EBLPredictor", {"gt_instances"}),
        ("EFLPredictor", {"normalizer"}),
        ("EQFLPredictor", {"normalizer", "quality"}),
        ("SoftmaxPredictor", set()),
    ],
)
def test_the_predictor_tells_each_loss_what_it_asks_for(tiny_cfg, name, labels, monkeypatch):
    tiny_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = name
    predictor = build_box_predictor(tiny_cfg, FEATURES)
    proposals = make_proposals(K)
    told = {}
    compute = predictor.loss.compute

    def note(logits, gt_classes, gt_instances=None, normalizer=None, quality=None):
        given = {"gt_instances": gt_instances, "normalizer": normalizer, "quality": quality}
        told.update({key: value for key, value in given.items() if value is not None})
        return compute(logits, gt_classes, **told)

    predictor.loss.forward = lambda logits, gt_classes, **given: note(logits, gt_classes, **given)
    with EventStorage():
        predictor.losses(predictor(torch.randn(8, 8)), proposals)
    assert set(told) == labels
    if "gt_instances" in told:
        assert torch.equal(told["gt_instances"], number_objects(proposals, K))
    if "quality" in told:
        foreground = torch.cat([p.gt_classes for p in proposals]) < K
        assert (told["quality"][foreground] > 0).all()
        assert (told["quality"][~foreground] == 0).all()
