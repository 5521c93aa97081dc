"""Ignore regions: nothing in them is trained as background, by the RPN, the ROI heads and each stage of a Cascade."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from eql_d2.data.training.image_targets import ImageTargets
from eql_d2.errors import UserError
from eql_d2.modeling.rpn import in_ignore_regions

SIZE = (64, 64)
REGION = [32.0, 0.0, 64.0, 64.0]  # the right half


def targets_of(boxes=(), regions=(REGION,), classes=None):
    fields = {
        "gt_boxes": Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        "gt_classes": torch.tensor(classes or [2] * len(boxes), dtype=torch.int64),
    }
    if not regions:
        return Instances(SIZE, **fields)
    return ImageTargets(SIZE, ignore_regions=Boxes(torch.tensor(regions)), **fields)


def proposals_of(boxes):
    proposals = Instances(SIZE)
    proposals.proposal_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    proposals.objectness_logits = torch.zeros(len(boxes))
    return proposals


def all_sampled(cfg):
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 10**5
    cfg.MODEL.RPN.POSITIVE_FRACTION = cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = 0.5
    return cfg


def make_cascade(cfg):
    cfg.MODEL.ROI_HEADS.NAME = "LongTailCascadeROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True


def test_overlap_is_the_share_of_a_box_in_one_region():
    targets = targets_of(regions=([0, 0, 10, 10], [10, 0, 20, 10]))
    boxes = Boxes(
        torch.tensor(
            [
                [0.0, 0, 10, 10],  # 1
                [0, 0, 100, 100],  # 0.01, though it holds the whole region
                [0, 0, 10, 20],  # 0.5: not more
                [0, 0, 10, 19],  # 10 / 19
                [5, 0, 15, 10],  # half in each of two
                [30, 30, 30, 40],  # empty
            ]
        )
    )
    assert in_ignore_regions(boxes, targets, 0.5).tolist() == [True, False, False, True, False, False]
    assert in_ignore_regions(boxes, targets, 0.009).tolist() == [True, True, True, True, True, False]
    assert in_ignore_regions(boxes, targets, 1.0) is None  # off
    assert in_ignore_regions(boxes, Instances(SIZE), 0.5) is None
    assert in_ignore_regions(boxes[:0], targets, 0.5).shape == (0,)


def share_in_region(box):
    x0, y0, x1, y1 = box
    width = max(0.0, min(x1, REGION[2]) - max(x0, REGION[0]))
    height = max(0.0, min(y1, REGION[3]) - max(y0, REGION[1]))
    return width * height / ((x1 - x0) * (y1 - y0))


def anchors_and_features(rpn):
    features = [torch.zeros(1, 64, 64 // stride, 64 // stride) for stride in (4, 8, 16, 32)]
    return rpn.anchor_generator(features)


def test_anchors_in_regions_are_no_background(tiny_cfg):
    """All anchors are sampled; of three images only the first has a region."""
    rpn = build_model(all_sampled(tiny_cfg)).proposal_generator
    anchors = anchors_and_features(rpn)
    objects = [[4.0, 4.0, 20.0, 20.0], [36.0, 36.0, 52.0, 52.0]]
    plain = [targets_of(objects, ()), targets_of(objects, ()), targets_of([], ())]
    with_region = [targets_of(objects), *plain[1:]]
    expected, expected_boxes = RPN.label_and_sample_anchors(rpn_without_regions(rpn), anchors, plain)
    labels, boxes = rpn.label_and_sample_anchors(anchors, with_region)
    assert torch.equal(labels[1], expected[1])
    assert torch.equal(labels[2], expected[2])
    assert all(torch.equal(a, b) for a, b in zip(boxes, expected_boxes, strict=True))
    fates = set()
    for anchor, before, after in zip(Boxes.cat(anchors).tensor.tolist(), expected[0], labels[0], strict=True):
        wanted = -1 if before == 0 and share_in_region(anchor) > 0.5 else int(before)
        assert int(after) == wanted
        fates.add((int(before), int(after)))
    assert {(0, -1), (0, 0), (1, 1)} <= fates


def rpn_without_regions(rpn):
    """The same RPN whose sampling is Detectron2's."""
    plain = RPN.__new__(RPN)
    plain.__dict__.update(rpn.__dict__)
    return plain


def test_an_image_of_one_region_trains_no_background(tiny_cfg):
    """Nothing but the ground truth's own box and what matches it is trained; in a Cascade, in no stage."""
    make_cascade(tiny_cfg)
    torch.manual_seed(0)
    model = build_model(all_sampled(tiny_cfg))
    targets = targets_of([[10.0, 10.0, 40.0, 40.0]], ([-100.0, -100.0, 200.0, 200.0],))
    targets.gt_masks = BitMasks(torch.ones(1, *SIZE, dtype=torch.bool))
    seen = []
    for predictor in model.roi_heads.box_predictor:
        predictor.loss.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[1]))
    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    with EventStorage() as storage:
        losses = model([{"image": image, "instances": targets}])
        assert storage.latest()["rpn/num_neg_anchors"][0] == 0
    assert len(seen[0]) >= 1
    assert all((classes == 2).all() for classes in seen)
    sum(losses.values()).backward()
    assert sum(losses.values()).isfinite()


@pytest.mark.parametrize("cascade", [False, True])
def test_an_image_of_one_region_without_objects(tiny_cfg, cascade):
    """No RoI is left at all: the losses are zero, and every parameter has a gradient."""
    if cascade:
        make_cascade(tiny_cfg)
    torch.manual_seed(0)
    model = build_model(all_sampled(tiny_cfg))
    targets = targets_of(regions=([-100.0, -100.0, 200.0, 200.0],))
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    with EventStorage():
        losses = model([{"image": image, "instances": targets}])
    assert sum(losses.values()) == 0
    sum(losses.values()).backward()
    without_gradient = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without_gradient == []


@pytest.mark.parametrize("append_ground_truth", [True, False])
def test_sampled_proposals(tiny_cfg, append_ground_truth):
    """Four images: object and region; region only; neither; objects only. All that may be sampled is."""
    tiny_cfg.MODEL.ROI_HEADS.PROPOSAL_APPEND_GT = append_ground_truth
    all_sampled(tiny_cfg)
    heads = build_model(tiny_cfg).roi_heads
    background_left, background_right = [0.0, 40, 10, 60], [50.0, 5, 60, 25]
    across = [22.0, 40, 42, 60]  # half in the region: background
    hit = [36.0, 30, 56, 50]
    boxes = [background_left, background_right, across, hit]
    object_right = [36.0, 30, 56, 48]  # IoU with the hit 0.9
    targets = [targets_of([object_right]), targets_of(), targets_of(regions=()), targets_of([object_right], ())]
    with EventStorage():
        sampled = heads.label_and_sample_proposals([proposals_of(boxes) for _ in targets], targets)
    own = {tuple(object_right): 2} if append_ground_truth else {}
    background = heads.num_classes
    expected = [
        {tuple(background_left): background, tuple(across): background, tuple(hit): 2, **own},
        {tuple(background_left): background, tuple(across): background},
        {tuple(box): background for box in boxes},
        {tuple(box): 2 if box == hit else background for box in boxes} | own,
    ]
    for proposals, wanted in zip(sampled, expected, strict=True):
        pairs = zip(proposals.proposal_boxes.tensor.tolist(), proposals.gt_classes.tolist(), strict=True)
        assert {tuple(box): index for box, index in pairs} == wanted
        assert len(proposals) == len(wanted)


def test_later_stages_lose_background_in_regions(tiny_cfg):
    make_cascade(tiny_cfg)
    heads = build_model(tiny_cfg).roi_heads
    object_right = [36.0, 30, 56, 50]
    boxes = [[0.0, 40, 10, 60], [50.0, 5, 60, 25], [36.0, 30, 56, 43]]  # the last overlaps by 0.65
    targets = [targets_of([object_right]), targets_of(), targets_of([object_right], ())]
    for stage, is_match in ((1, True), (2, False)):  # at IoU 0.6 and 0.7
        with EventStorage():
            labelled = heads._match_and_label_boxes([proposals_of(boxes) for _ in targets], stage, targets)
        last = 2 if is_match else 6
        assert [p.gt_classes.tolist() for p in labelled] == [[6, 2] if is_match else [6], [6], [6, 6, last]]
        assert labelled[0].proposal_boxes.tensor.tolist() == [boxes[0], boxes[2]][: 1 + is_match]
        assert all(len(p.gt_boxes) == len(p) for p in labelled)


def test_a_share_of_one_switches_it_off(tiny_cfg):
    all_sampled(tiny_cfg)
    tiny_cfg.MODEL.ROI_HEADS.IGNORE_OVERLAP = tiny_cfg.MODEL.RPN.IGNORE_OVERLAP = 1.0
    model = build_model(tiny_cfg)
    labels, _ = model.proposal_generator.label_and_sample_anchors(
        anchors_and_features(model.proposal_generator), [targets_of(regions=([-100.0, -100.0, 200.0, 200.0],))]
    )
    assert (labels[0] == 0).all()


@pytest.mark.parametrize("node", ["ROI_HEADS", "RPN"])
@pytest.mark.parametrize("overlap", [-0.1, 1.5])
def test_a_share_out_of_range_is_named(tiny_cfg, node, overlap):
    tiny_cfg.MODEL[node].IGNORE_OVERLAP = overlap
    with pytest.raises(UserError, match=rf"MODEL\.{node}\.IGNORE_OVERLAP is {overlap}; it must lie between 0 and 1"):
        build_model(tiny_cfg)
