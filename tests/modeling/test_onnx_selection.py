"""Selection in ONNX's operators, as PyTorch runs it, against the selection that it stands in for."""

import pytest
import torch

from eql_d2.modeling import inference
from eql_d2.modeling.onnx_selection import select_of_proposals
from tests.modeling.test_inference import random_case

SIZE = torch.tensor([100, 90])


@pytest.mark.parametrize("topk", [-1, 0, 1, 25])
@pytest.mark.parametrize("levels", [None, 8])
@pytest.mark.parametrize("agnostic", [False, True])
def test_it_selects_the_same(agnostic, levels, topk):
    """Also where scores are equal, and of rows with NaN nothing."""
    boxes, scores = random_case(1, 40, 6, agnostic=agnostic, levels=levels)
    scores[3, 2] = boxes[5, 1] = torch.nan
    arguments = (boxes, scores, SIZE, 0.05, 0.5, topk, 1000)
    expected, selected = (select(*arguments) for select in (inference.select_of_proposals, select_of_proposals))
    assert len(expected[0]) == topk or (topk == -1 and len(expected[0]) > 25)
    for one, other in zip(expected, selected, strict=True):
        assert torch.equal(one, other)


def test_nothing_to_select():
    boxes, scores = random_case(1, 10, 6)
    for rows in (0, 10):
        assert [len(of) for of in select_of_proposals(boxes[:rows], scores[:rows] * 0, SIZE, 0.05, 0.5, 9, 9)] == [
            0
        ] * 4
