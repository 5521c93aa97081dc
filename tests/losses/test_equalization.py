"""EQL against a plain loop, hand-computed values and the numbers of the paper."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eql_d2.long_tail import LVIS_COUNT_FILES
from eql_d2.losses import EqualizationLoss, SigmoidCrossEntropy, lambda_for_tail_ratio, tail_ratio


def equalization_loss_by_loop(logits, gt_classes, frequencies, lambda_, exclude_background=True, verified=None):
    """The definition, one number at a time: Σ_ij (1 - E(i) T(f_j) (1 - y_ij)) BCE(z_ij, y_ij) / R."""
    rows, classes = logits.shape
    total = 0.0
    for i in range(rows):
        is_foreground = gt_classes[i] < classes
        for j in range(classes):
            y = 1.0 if gt_classes[i] == j else 0.0
            excluded = 1.0 if is_foreground or not exclude_background else 0.0
            tail = 1.0 if frequencies[j] < lambda_ else 0.0
            if verified is not None and verified[i][j]:
                tail = 0.0
            probability = 1 / (1 + math.exp(-logits[i, j].item()))
            cross_entropy = -(y * math.log(probability) + (1 - y) * math.log(1 - probability))
            total += (1 - excluded * tail * (1 - y)) * cross_entropy
    return total / rows


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(12, 5, generator=generator, dtype=torch.float64) * 2
    gt_classes = torch.tensor([0, 1, 2, 3, 4, 5, 5, 0, 4, 4, 5, 2])
    frequencies = torch.tensor([0.3, 0.05, 0.0017, 0.00177, 0.0001], dtype=torch.float64)
    return logits, gt_classes, frequencies


@pytest.mark.parametrize("exclude_background", [True, False])
@pytest.mark.parametrize("with_labels", [False, True])
def test_equals_the_loop(batch, exclude_background, with_labels):
    logits, gt_classes, frequencies = batch
    verified = torch.rand(12, 5, generator=torch.Generator().manual_seed(2)) < 0.4 if with_labels else None
    loss = EqualizationLoss(5, frequencies, exclude_background=exclude_background)
    value = loss(logits, gt_classes, verified_classes=verified)["loss_cls"]
    expected = equalization_loss_by_loop(logits, gt_classes, frequencies, 0.00177, exclude_background, verified)
    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_verified_classes_as_third_positional_argument(batch):
    logits, gt_classes, frequencies = batch
    loss = EqualizationLoss(5, frequencies)
    verified = torch.ones(12, 5, dtype=torch.bool)
    # With every class verified nothing is spared: plain sigmoid cross-entropy.
    torch.testing.assert_close(
        loss(logits, gt_classes, verified)["loss_cls"], SigmoidCrossEntropy(5)(logits, gt_classes)["loss_cls"]
    )


def test_by_hand():
    # Two classes, the second is tail; all logits 0, so each binary cross-entropy is ln 2.
    loss = EqualizationLoss(2, [0.5, 0.0001])
    logits = torch.zeros(1, 2)
    ln2 = math.log(2)
    assert loss(logits, torch.tensor([0]))["loss_cls"].item() == pytest.approx(ln2)  # the tail negative is spared
    assert loss(logits, torch.tensor([1]))["loss_cls"].item() == pytest.approx(2 * ln2)
    assert loss(logits, torch.tensor([2]))["loss_cls"].item() == pytest.approx(2 * ln2)  # background spares nothing


def test_the_threshold_is_strict():
    loss = EqualizationLoss(3, [0.00177, 0.0017699, 0.0017701], lambda_=0.00177)
    assert loss.tail_weight.tolist() == [0, 1, 0]


def test_gradient_reaches_no_spared_negative(batch):
    logits, gt_classes, frequencies = batch
    logits = logits.requires_grad_()
    EqualizationLoss(5, frequencies)(logits, gt_classes)["loss_cls"].backward()
    foreground = gt_classes < 5
    for tail_class in (2, 4):
        of_others = foreground & (gt_classes != tail_class)
        assert (logits.grad[of_others, tail_class] == 0).all()
        assert (logits.grad[~of_others, tail_class] != 0).all()


def test_threshold_functions_at_the_paper_s_constants():
    frequencies = torch.tensor([0.0, 0.00125, 0.0025, 0.1], dtype=torch.float64)
    exponential = EqualizationLoss(4, frequencies, threshold="exponential").tail_weight
    assert exponential.tolist() == pytest.approx([1, 0.75, 0, 0])  # 1 - (400 f)^2, clamped
    gompertz = EqualizationLoss(4, frequencies, threshold="gompertz").tail_weight
    expected = [1 - math.exp(-80 * math.exp(-3000 * f)) for f in frequencies.tolist()]
    assert gompertz.tolist() == pytest.approx(expected, abs=1e-6)
    assert gompertz[0] > 0.999
    assert gompertz[3] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lambda_": -0.1}, "lambda_ is -0.1"),
        ({"lambda_": 1.1}, "lambda_ is 1.1"),
        ({"threshold": "linear"}, "threshold is 'linear'; it must be one of step, exponential, gompertz"),
        ({"image_frequencies": [0.1, 0.2]}, r"image_frequencies has shape \(2,\)"),
        ({"image_frequencies": [0.1, 0.2, 30.0]}, "divide image counts by the number of images"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        EqualizationLoss(3, **{"image_frequencies": [0.1, 0.2, 0.3], **arguments})


# Facts: LVIS v0.5 has 915 rare and common classes, LVIS v1.0 has 798; tail ratios by λ from the tables of
# categories of the first codes.
@pytest.mark.parametrize(
    ("version", "lambda_", "classes", "percent"),
    [
        ("lvis_v0.5", 0.00177, 915, 9.09),
        ("lvis_v0.5", 0.00176, 912, 8.94),
        ("lvis_v1", 0.0011, 815, 5.89),
        ("lvis_v1", 0.0010062, 798, 5.40),
    ],
)
def test_tail_of_lvis(version, lambda_, classes, percent):
    content = json.loads(LVIS_COUNT_FILES[version].read_text())
    counts = torch.tensor([category["image_count"] for category in content["categories"]])
    loss = EqualizationLoss(len(counts), counts / content["num_images"], lambda_=lambda_)
    assert int(loss.tail_weight.sum()) == classes
    assert 100 * tail_ratio(lambda_, counts, content["num_images"]) == pytest.approx(percent, abs=0.005)


@given(
    counts=st.lists(st.integers(1, 500), min_size=1, max_size=30),
    ratio=st.floats(0.001, 0.999),
)
def test_lambda_for_tail_ratio_is_the_smallest_tail_that_reaches_it(counts, ratio):
    counts = torch.tensor(counts)
    lambda_ = lambda_for_tail_ratio(ratio, counts, num_images=1000)
    assert tail_ratio(lambda_, counts, 1000) >= ratio - 1e-12
    tail = counts[counts / 1000 < lambda_]
    # Without its most frequent classes the tail would fall short.
    assert tail[tail < tail.max()].sum() / counts.sum() < ratio


def test_tail_ratio_outside_its_range_is_named():
    with pytest.raises(ValueError, match="The tail ratio is 1"):
        lambda_for_tail_ratio(1, torch.tensor([1, 2]), 10)


def test_a_tail_by_instances_is_below_their_number_whatever_the_images():
    loss = EqualizationLoss(3, torch.tensor([0.5, 0.1, 0.9]), tail_instances=1652, instance_counts=[1651, 1652, 7])
    assert loss.tail_weight.tolist() == [1, 0, 1]
    assert "tail_instances=1652" in repr(loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "tail_instances needs the instance_counts of the training data"),
        ({"instance_counts": [1, 2], "threshold": "gompertz"}, "threshold is 'gompertz'; set one of the two"),
        ({"instance_counts": [1, 2], "tail_instances": -1}, "tail_instances is -1; it must not be negative"),
        ({"instance_counts": [1, 2, 3]}, "instance_counts has shape"),
    ],
)
def test_bad_thresholds_by_instances_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        EqualizationLoss(2, torch.tensor([0.5, 0.1]), **{"tail_instances": 10, **options})
