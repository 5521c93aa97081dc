"""What the base class does for every loss, shown by a loss that depends on it."""

import pytest
import torch

from eql_d2.losses import ClassificationLoss
from eql_d2.losses.base import class_statistics, prior_bias


class MatrixProduct(ClassificationLoss):
    """Multiplies matrices, which autocast would do in bfloat16."""

    def __init__(self):
        super().__init__(3, 4)

    def compute(self, logits, gt_classes):
        return {"loss_cls": (logits @ torch.eye(4, dtype=logits.dtype)).sum()}


def test_autocast_is_off_within_a_loss():
    logits = torch.tensor([[1 + 2**-12, 0, 0, 0]])  # more digits than bfloat16 has
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = MatrixProduct()(logits, torch.tensor([0]))["loss_cls"]
    assert value.dtype == torch.float32
    assert value.item() == 1 + 2**-12


def test_a_loss_needs_a_class():
    with pytest.raises(ValueError, match="num_classes is 0; it must be a whole number of at least 1"):
        ClassificationLoss(0, 1)
    assert ClassificationLoss(1, 1).class_columns.tolist() == [0]


def test_the_initial_bias_is_zero_unless_a_loss_says_otherwise():
    assert ClassificationLoss(2, 3).initial_bias().tolist() == [0, 0, 0]


def test_prior_bias_by_hand():
    assert torch.tensor(prior_bias(0.2)).sigmoid().item() == pytest.approx(0.2)
    for outside in (0, 1, -0.1, 1.1):
        with pytest.raises(ValueError, match=f"prior_prob is {outside}; it must lie strictly between 0 and 1"):
            prior_bias(outside)


def test_class_statistics():
    assert class_statistics("counts", (0, 3), 2).tolist() == [0, 3]
    assert class_statistics("counts", (0, 3), 2).dtype == torch.float64
    with pytest.raises(ValueError, match=r"counts has shape \(2,\); num_classes asks for \(3,\)"):
        class_statistics("counts", (0, 3), 3)
    for wrong in ((-1, 2), (float("nan"), 2)):
        with pytest.raises(ValueError, match="counts must not be negative"):
            class_statistics("counts", wrong, 2)
