"""Numbers that the methods' first codes gave for the inputs below, in float64.

EQL: tztztztztz/eql.detectron2 at 29224acf. EQLv2 and BAGS: tztztztztz/eqlv2 at 907fad90. Their state was
float64 as well.
"""

import math

import pytest
import torch

from eql_d2.losses import BalancedGroupSoftmax, EqualizationLoss, EqualizationLossV2

NUM_CLASSES = 6
GT_CLASSES = torch.tensor([0, 5, 3, 1, 6, 4, 2, 0, 5])


def make_logits(width: int, step: int = 0) -> torch.Tensor:
    rows = [[3 * math.sin(1 + 7 * i + 3 * j + 11 * step) for j in range(width)] for i in range(len(GT_CLASSES))]
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


def loss_and_gradient_norm(loss, logits):
    value = loss(logits, GT_CLASSES)["loss_cls"]
    value.backward()
    return value.item(), logits.grad.norm().item()


def test_eql():
    frequencies = [0.3, 0.0002, 0.001, 0.05, 0.00177, 0.0017]
    loss = EqualizationLoss(NUM_CLASSES, frequencies, lambda_=0.00177)
    expected = (4.8748628333278425, 0.4261824540094934)
    assert loss_and_gradient_norm(loss, make_logits(6)) == pytest.approx(expected, rel=1e-12)


def test_eqlv2():
    loss = EqualizationLossV2(NUM_CLASSES).double()
    expected = [
        (8.867594693882953, 0.5711831431682721),
        (6.860980200794512, 1.0774498820097143),
        (5.941974381901523, 0.5559232081913931),
        (5.673426345250016, 0.6351056564498153),
    ]
    for step, values in enumerate(expected):
        logits = make_logits(7, step)
        assert loss_and_gradient_norm(loss, logits) == pytest.approx(values, rel=1e-12)
    ratios = [1.1323788145404, 0.6643637164947, 0.7366288841277, 0.7106092334241, 1.3913526241023, 0.9107266938803]
    assert loss.pos_neg_ratio.tolist() == pytest.approx(ratios, rel=1e-11)
    scores = [1.5924107601438, 3.0492864805425, 1.3673949198196, 3.2473878209026, 1.2009793800416, 3.3749578626069]
    assert loss.scores(make_logits(7)).sum(dim=0).tolist() == pytest.approx([*scores, 4.4771895790108], rel=1e-12)


def test_bags_without_a_choice_of_others():
    loss = BalancedGroupSoftmax(NUM_CLASSES, [3, 5000, 10, 99, 100, 1000], others_ratio=1000)
    assert loss.num_logits == 12
    expected = (10.390428755778922, 0.7282899458384442)
    assert loss_and_gradient_norm(loss, make_logits(12)) == pytest.approx(expected, rel=1e-12)
    scores = [1.9740881259540, 3.5802197871379, 1.3494330384498, 1.7978033871761, 3.3915707899443, 0.3085808718935]
    assert loss.scores(make_logits(12)).sum(dim=0).tolist() == pytest.approx([*scores, 4.5744210601852], rel=1e-12)
