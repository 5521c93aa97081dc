"""Selection of detections against Detectron2's own, to the last bit."""

import pytest
import torch
from detectron2.layers import batched_nms
from detectron2.modeling.roi_heads import fast_rcnn
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import nms

from eql_d2.modeling import inference


def random_case(seed, rows, num_classes, *, agnostic=False, levels=None):
    """Boxes around a few objects, so that suppression matters; ``levels`` makes ties of scores."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(5, 2, generator=generator) * 80 + 10
    columns = 1 if agnostic else num_classes
    center = centers[torch.randint(5, (rows, 1), generator=generator)] + torch.randn(
        rows, columns, 2, generator=generator
    )
    size = 10 + 10 * torch.rand(rows, columns, 2, generator=generator)
    boxes = torch.cat([center - size, center + size], dim=2).reshape(rows, columns * 4)
    scores = torch.rand(rows, num_classes + 1, generator=generator) ** 4
    if levels:
        scores = (scores * levels).round() / levels
    return boxes, scores


def assert_equal(boxes, scores, score_thresh=1e-4, nms_thresh=0.5, topk=300):
    arguments = ([boxes], [scores], [(100, 90)], score_thresh, nms_thresh, topk)
    (ours,), (our_rows,) = inference.fast_rcnn_inference(*arguments)
    (theirs,), (their_rows,) = fast_rcnn.fast_rcnn_inference(*arguments)
    assert torch.equal(ours.scores, theirs.scores)
    assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
    assert torch.equal(ours.pred_classes, theirs.pred_classes)
    assert torch.equal(our_rows, their_rows)
    return ours


@pytest.mark.parametrize("agnostic", [False, True])
def test_many_candidates(agnostic):
    boxes, scores = random_case(0, 300, 200, agnostic=agnostic)
    assert (scores > 1e-4).sum() > 2 * inference.FIRST_CANDIDATES
    assert len(assert_equal(boxes, scores)) == 300


def test_the_set_grows_until_enough_survive():
    """One class and heavy overlap: nearly all of the best candidates suppress each other."""
    boxes, scores = random_case(1, 9000, 1)
    assert 0 < len(assert_equal(boxes, scores, nms_thresh=0.1)) < 40
    assert_equal(boxes, scores, nms_thresh=0.3, topk=40)


def test_crowd_of_the_best_does_not_hide_the_rest():
    """The best 7000 candidates are one object; the 200 others, far worse, are all to be found."""
    generator = torch.Generator().manual_seed(0)
    crowd = torch.tensor([0.0, 0.0, 9.0, 9.0]) + 0.1 * torch.rand(7000, 4, generator=generator)
    index = torch.arange(200)
    corner = torch.stack([20 + 3.5 * (index % 20), 10 + 8.0 * (index // 20)], dim=1)
    boxes = torch.cat([crowd, torch.cat([corner, corner + torch.tensor([3.0, 7.0])], dim=1)])
    scores = torch.cat([0.5 + 0.4 * torch.rand(7000, generator=generator), 0.1 * torch.rand(200, generator=generator)])
    kept = assert_equal(boxes, torch.stack([scores, 1 - scores], dim=1), score_thresh=0.0, topk=150)
    assert len(kept) == 150
    assert (kept.scores > 0.4).sum() == 1


@pytest.mark.parametrize("levels", [1, 3, 50])
def test_ties_go_by_row_then_class(levels):
    """Detectron2's order of ties is that of an unstable sort; ours is defined, and the scores are the same."""
    boxes, scores = random_case(2, 200, 60, levels=levels)
    arguments = ([boxes], [scores], [(100, 90)], 1e-4, 0.5, 300)
    (ours,), (rows,) = inference.fast_rcnn_inference(*arguments)
    (theirs,), _ = fast_rcnn.fast_rcnn_inference(*arguments)
    assert torch.equal(ours.scores, theirs.scores)
    order = [
        (-s, r, c) for s, r, c in zip(ours.scores.tolist(), rows.tolist(), ours.pred_classes.tolist(), strict=True)
    ]
    assert order == sorted(order)
    assert len(set(ours.scores.tolist())) < 60


@pytest.mark.parametrize("topk", [-1, 0, 1, 10])
def test_number_kept(topk):
    boxes, scores = random_case(3, 40, 10)
    kept = assert_equal(boxes, scores, topk=topk)
    assert len(kept) == topk or (topk == -1 and len(kept) > 10)


def test_nothing_to_select():
    boxes, scores = random_case(4, 30, 5)
    assert len(assert_equal(boxes, scores * 0)) == 0
    assert len(assert_equal(boxes[:0], scores[:0])) == 0


def test_nan_and_infinite_rows_are_left_out():
    boxes, scores = random_case(5, 50, 8)
    boxes[3, 5] = torch.nan
    boxes[7, 0] = torch.inf
    scores[11, 2] = torch.nan
    assert_equal(boxes, scores)
    # The last column, background, counts as well.
    scores[12, -1] = torch.inf
    assert_equal(boxes, scores)


def test_several_images():
    cases = [random_case(seed, rows, 7) for seed, rows in ((6, 20), (7, 0), (8, 33))]
    instances, rows = inference.fast_rcnn_inference(
        [boxes for boxes, _ in cases], [scores for _, scores in cases], [(100, 90)] * 3, 0.01, 0.5, 20
    )
    assert [len(i) for i in instances] == [20, 0, 20]
    assert [len(r) for r in rows] == [20, 0, 20]


def test_inputs_are_left_alone():
    boxes, scores = random_case(9, 50, 8, agnostic=True)
    before = boxes.clone(), scores.clone()
    assert_equal(boxes - 200, scores)  # clipping has something to do
    assert torch.equal(boxes, before[0])
    assert torch.equal(scores, before[1])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(0, 60),
    num_classes=st.integers(1, 30),
    agnostic=st.booleans(),
    levels=st.sampled_from([None, 2, 20]),
    nms_thresh=st.sampled_from([0.1, 0.5, 0.9]),
    topk=st.sampled_from([-1, 3, 100]),
    first=st.sampled_from([1, 7, 50]),
)
def test_any_case_equals_one_suppression_of_everything(
    seed, rows, num_classes, agnostic, levels, nms_thresh, topk, first
):
    """With a tiny first set growing happens often; classes are suppressed one by one in both."""
    boxes, scores = random_case(seed, rows, num_classes, agnostic=agnostic, levels=levels)
    arguments = ([boxes], [scores], [(100, 90)], 0.05, nms_thresh, topk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "batched_nms", nms_class_by_class)
        patch.setattr(inference, "FIRST_CANDIDATES", 10**9)
        (expected,), (expected_rows,) = inference.fast_rcnn_inference(*arguments)
        patch.setattr(inference, "FIRST_CANDIDATES", first)
        (grown,), (grown_rows,) = inference.fast_rcnn_inference(*arguments)
    assert torch.equal(grown.scores, expected.scores)
    assert torch.equal(grown.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(grown_rows, expected_rows)


def nms_class_by_class(boxes, scores, classes, threshold):
    """The definition: go through the boxes from the best on, drop those that overlap a kept one of their class."""
    kept = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        box = boxes[index]
        for other in kept:
            if classes[other] != classes[index]:
                continue
            corner = torch.minimum(box[2:], boxes[other][2:]) - torch.maximum(box[:2], boxes[other][:2])
            intersection = corner.clamp(min=0).prod()
            union = (box[2:] - box[:2]).prod() + (boxes[other][2:] - boxes[other][:2]).prod() - intersection
            if intersection / union > threshold:
                break
        else:
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)


def borderline_pairs(num_classes):
    """A better and a worse box for each class, whose overlap is the threshold 0.5 but for rounding."""
    generator = torch.Generator().manual_seed(11)
    corner = torch.rand(num_classes, 2, generator=generator) * 50
    size = torch.rand(num_classes, 2, generator=generator) * 30 + 5
    better = torch.cat([corner, corner + size], dim=1)
    worse = torch.cat([corner, corner + size * torch.tensor([1.0, 0.5])], dim=1)
    return torch.stack([better, worse], dim=1).flatten(0, 1)


@pytest.mark.parametrize("ties", [False, True])
def test_a_part_of_many_candidates_is_suppressed_with_the_rounding_of_all(ties):
    """torchvision moves the classes of few boxes apart and then suppresses once, which rounds differently."""
    pairs, rest = borderline_pairs(400), random_case(10, 9000, 1)[0]
    boxes, classes = (
        torch.cat([pairs, rest]),
        torch.cat([torch.arange(400).repeat_interleave(2), torch.full((9000,), 400)]),
    )
    scores = torch.linspace(0.9, 0.5, len(boxes))
    if ties:  # all that is not in the pairs ties at the end of the first candidates
        scores[800:] = 0.4
    (_, rows), _ = select_both(boxes, scores, classes, 401, topk=200)
    expected = nms_of_torchvision(boxes, scores, classes)[:200]
    assert torch.equal(rows, expected)
    few = batched_nms_of_few(pairs, scores[:800], classes[:800])[:200]
    assert not torch.equal(few, expected)  # else the test could not fail


def nms_of_torchvision(boxes, scores, classes):
    """Suppression class by class, in the order of the scores."""
    clipped = boxes.clone()
    clipped[:, 0::2].clamp_(0, 90)
    clipped[:, 1::2].clamp_(0, 100)
    kept = [
        members[nms(clipped[members], scores[members], 0.5)]
        for members in ((classes == c).nonzero().squeeze(1) for c in classes.unique())
    ]
    kept = torch.cat(kept).sort().values
    return kept[scores[kept].sort(descending=True, stable=True).indices]


def batched_nms_of_few(boxes, scores, classes):
    """What torchvision does with a thousand boxes at most."""
    return nms(boxes + classes[:, None] * (boxes.max() + 1), scores, 0.5)


def test_a_score_equal_to_the_threshold_is_no_candidate():
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 40, 40], [50, 50, 60, 60]])
    scores = torch.tensor([0.25, 0.5, 0.75])
    kept = assert_equal(boxes, torch.stack([scores, 1 - scores], dim=1), score_thresh=0.5)
    assert kept.scores.tolist() == [0.75]
    (ours, rows), (theirs, _) = select_both(boxes, scores, torch.zeros(3, dtype=torch.int64), 1, 10, score_thresh=0.5)
    assert torch.equal(ours.scores, theirs.scores)
    assert rows.tolist() == [2]


def test_one_too_few_survivors_of_the_first_candidates(monkeypatch):
    """The eight best are one object, so that one box is missing at the first try."""
    monkeypatch.setattr(inference, "FIRST_CANDIDATES", 1)
    boxes = torch.tensor([[0.0, 0, 9, 9]] * 8 + [[20, 20, 40, 40], [50, 50, 60, 60]])
    scores = torch.linspace(0.9, 0.1, 10)
    ours, rows = inference.select_detections(
        boxes, scores, torch.zeros(10, dtype=torch.int64), (100, 90), 0.0, 0.5, topk=2
    )
    assert rows.tolist() == [0, 8]
    assert ours.scores.tolist() == scores[[0, 8]].tolist()


# --- detections that have one class each --------------------------------------------------------------------


def random_detections(seed, count, num_classes):
    generator = torch.Generator().manual_seed(seed)
    boxes, _ = random_case(seed, count, 1)
    return boxes, torch.rand(count, generator=generator), torch.randint(num_classes, (count,), generator=generator)


def select_both(boxes, scores, classes, num_classes, topk, score_thresh=1e-8, nms_thresh=0.5):
    """Ours, and Detectron2's selection from the score matrix that its test-time augmentation makes."""
    ours = inference.select_detections(boxes, scores, classes, (100, 90), score_thresh, nms_thresh, topk)
    matrix = torch.zeros(len(boxes), num_classes + 1)
    matrix[torch.arange(len(boxes)), classes] = scores
    return ours, fast_rcnn.fast_rcnn_inference_single_image(boxes, matrix, (100, 90), score_thresh, nms_thresh, topk)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 300),
    num_classes=st.integers(1, 20),
    topk=st.sampled_from([-1, 0, 5, 300]),
    spoilt=st.booleans(),
)
def test_detections_equal_the_selection_from_a_matrix(seed, count, num_classes, topk, spoilt):
    boxes, scores, classes = random_detections(seed, count, num_classes)
    if spoilt and count > 4:
        boxes[0, 1], scores[1], scores[2], scores[3], boxes[4, 2] = torch.nan, torch.inf, 0, torch.nan, -torch.inf
    (ours, rows), (theirs, _) = select_both(boxes, scores, classes, num_classes, topk)
    assert torch.equal(ours.scores, theirs.scores)
    assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
    assert torch.equal(ours.pred_classes, theirs.pred_classes)
    assert torch.equal(scores[rows], ours.scores)
    assert torch.equal(classes[rows], ours.pred_classes)


def test_more_detections_than_are_tried_first():
    boxes, scores, classes = random_detections(0, 3 * inference.FIRST_CANDIDATES, 40)
    for topk in (300, -1):
        (ours, _), (theirs, _) = select_both(boxes, scores, classes, 40, topk)
        assert torch.equal(ours.scores, theirs.scores)
        assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)


def test_ties_of_detections_go_by_their_order():
    boxes, scores, classes = random_detections(1, 200, 50)
    scores = (scores * 3).round() / 3
    (ours, rows), (theirs, _) = select_both(boxes, scores, classes, 50, 300)
    assert torch.equal(ours.scores, theirs.scores)
    order = [(-s, r) for s, r in zip(ours.scores.tolist(), rows.tolist(), strict=True)]
    assert order == sorted(order)


@pytest.mark.parametrize("count", [0, 1, 1000, 1001, 3000])
def test_suppression_for_a_trace_is_detectron2_s(count):
    """By an offset of the classes, or class by class where there are more than 1000 boxes."""
    generator = torch.Generator().manual_seed(count)
    boxes, scores = random_case(count, count, 1)
    classes = torch.randint(5, (count,), generator=generator)
    arguments = (boxes, scores[:, 0], classes, 0.5)
    kept = inference.traceable_batched_nms(*arguments)
    assert torch.equal(kept, batched_nms(*arguments))
    assert len(kept) < count or count < 2
