"""Classification metrics against values worked out by hand, a plain loop, and over two processes."""

import csv
import math
import warnings

import numpy as np
import pytest
import torch
from detectron2.utils import comm
from PIL import Image

from eql_d2.classification.classification_evaluator import ClassificationEvaluator
from eql_d2.classification.confusion_picture import confusion_matrix
from eql_d2.classification.metrics import calibration_error, shot_groups
from eql_d2.errors import UserError


def evaluate(counts, labels, scores, ids=None, **options):
    evaluator = ClassificationEvaluator(counts, **options)
    inputs = [{"label": y} for y in labels]
    for number, image in zip(ids or [], inputs, strict=bool(ids)):
        image["image_id"] = number
    scores = torch.as_tensor(scores, dtype=torch.float64)
    for start in range(0, len(inputs), 3):
        evaluator.process(inputs[start : start + 3], list(scores[start : start + 3]))
    return evaluator.evaluate()["classification"]


# Five images of four classes with 500, 100, 20 and 19 training images: many, medium, medium, few.
COUNTS = [500, 100, 20, 19]
LABELS = [0, 0, 1, 3, 3]
SCORES = [
    [0.5, 0.25, 0.125, 0.125],  # right at 1/2
    [0.25, 0.5, 0.125, 0.125],  # wrong at 1/2, the truth at 1/4
    [0.125, 0.75, 0.0625, 0.0625],  # right at 3/4
    [0.75, 0.0, 0.0, 0.25],  # wrong at 3/4, the truth at 1/4
    [0.0, 0.0, 0.0, 1.0],  # right at 1
]


def test_by_hand():
    metrics = evaluate(COUNTS, LABELS, SCORES)
    assert list(metrics) == ["top1", "top5", "many", "medium", "few", "mean_class", "ece", "nll"]
    assert metrics["top1"] == 60
    assert metrics["top5"] == 100  # of four classes
    # Right of each class: 1 of 2, 1 of 1, no image, 1 of 2.
    assert (metrics["many"], metrics["medium"], metrics["few"]) == (50, 100, 50)
    assert metrics["mean_class"] == pytest.approx(200 / 3)
    # Bins: 1/2 twice (accuracy 1/2), 3/4 twice (1/2), 1 once (1): gaps 0, 1/4, 0, weighted by 2/5.
    assert metrics["ece"] == pytest.approx(10)
    assert metrics["nll"] == pytest.approx((math.log(2) + 2 * math.log(4) + math.log(4 / 3)) / 5)


def test_calibration_error_by_hand():
    # Two bins, (0, 1/2] and (1/2, 1]; one half belongs to the first.
    # First: 0.3 and 0.5, one right: |0.8 - 1| / 4. Second: 0.75 and 1, none right: 1.75 / 4.
    error = calibration_error(np.array([0.3, 0.5, 0.75, 1.0]), np.array([True, False, False, False]), num_bins=2)
    assert error == pytest.approx((0.2 + 1.75) / 4)
    # In one bin: mean confidence 2.55 / 4 against accuracy 1/4.
    error = calibration_error(np.array([0.3, 0.5, 0.75, 1.0]), np.array([True, False, False, False]), num_bins=1)
    assert error == pytest.approx(1.55 / 4)


@pytest.mark.parametrize("bin_number", range(1, 16))
def test_the_upper_edge_belongs_to_the_bin(bin_number):
    """With one image at the edge and one, of the other outcome, just above or below it, the bins tell."""
    edge = bin_number / 15
    below = np.array([edge, edge - 0.01])
    assert calibration_error(below, np.array([True, False])) == pytest.approx(abs(2 * edge - 0.01 - 1) / 2)
    if bin_number < 15:
        above = np.array([edge, edge + 0.01])
        assert calibration_error(above, np.array([True, False])) == pytest.approx((1 - edge + edge + 0.01) / 2)


def metrics_by_loop(counts, labels, scores, bins=15):
    """The definitions, one image and one class at a time."""
    top1, top5, nll = 0, 0, 0.0
    binned = {}
    right, total = [0] * len(counts), [0] * len(counts)
    for y, row in zip(labels, scores.tolist(), strict=True):
        ranking = sorted(range(len(row)), key=lambda k: (-row[k], k))
        top1 += ranking[0] == y
        top5 += y in ranking[:5]
        total[y] += 1
        right[y] += ranking[0] == y
        nll -= math.log(row[y] / sum(row))
        confidence = row[ranking[0]] / sum(row)
        binned.setdefault(math.ceil(confidence * bins), []).append((confidence, ranking[0] == y))
    ece = 0.0
    for members in binned.values():
        confidence = sum(c for c, _ in members) / len(members)
        accuracy = sum(hit for _, hit in members) / len(members)
        ece += len(members) / len(labels) * abs(confidence - accuracy)
    n = len(labels)
    accuracies = {k: 100 * right[k] / total[k] for k in range(len(counts)) if total[k]}
    groups = {
        "many": [a for k, a in accuracies.items() if counts[k] > 100],
        "medium": [a for k, a in accuracies.items() if 20 <= counts[k] <= 100],
        "few": [a for k, a in accuracies.items() if counts[k] < 20],
        "mean_class": list(accuracies.values()),
    }
    means = {name: sum(values) / len(values) for name, values in groups.items()}
    return {"top1": 100 * top1 / n, "top5": 100 * top5 / n, "ece": 100 * ece, "nll": nll / n} | means


@pytest.mark.parametrize("distribution", [True, False])
def test_equals_the_loop(distribution):
    generator = torch.Generator().manual_seed(3)
    counts = [1000, 400, 101, 100, 50, 21, 20, 19, 5, 1, 0, 30]
    labels = torch.randint(0, 10, (200,), generator=generator).tolist()  # the last two have no images
    logits = torch.randn(200, len(counts), generator=generator, dtype=torch.float64) * 2
    logits[torch.arange(200), torch.tensor(labels)] += 1.5
    scores = logits.softmax(dim=1) if distribution else logits.sigmoid()
    metrics = evaluate(counts, labels, scores)
    assert 5 < metrics["top1"] < metrics["top5"] < 100
    assert metrics == pytest.approx(metrics_by_loop(counts, labels, scores), rel=1e-9)


def test_ties_go_to_the_lower_class():
    """An untrained model with equal scores gets what always predicting the first class gets."""
    metrics = evaluate([30] * 8, [0, 1, 4, 5, 7, 0], torch.full((6, 8), 0.125))
    assert metrics["top1"] == pytest.approx(100 * 2 / 6)
    assert metrics["top5"] == pytest.approx(100 * 4 / 6)
    assert metrics["ece"] == pytest.approx(100 * (2 / 6 - 0.125))
    assert evaluate([30] * 8, [0, 1, 4, 5, 7, 0], torch.zeros(6, 8)) == pytest.approx(metrics, nan_ok=True)


def test_a_probability_of_zero_has_a_finite_likelihood():
    # The smallest normal float32 is 2^-126.
    assert evaluate([30, 30], [0], [[0.0, 1.0]])["nll"] == pytest.approx(126 * math.log(2))


def test_thresholds():
    assert shot_groups(np.array([101, 100, 20, 19, 0])) == ["many", "medium", "medium", "few", "few"]
    assert shot_groups(np.array([51, 50, 10, 9]), 50, 10) == ["many", "medium", "medium", "few"]
    assert shot_groups(np.array([51, 50]), 50, 51) == ["many", "few"]
    with pytest.raises(UserError, match="fewer than 52 training images and many-shot classes more than 50"):
        shot_groups(np.array([51, 50]), 50, 52)
    metrics = evaluate([9, 3], [0, 1], [[1.0, 0], [1.0, 0]], many_shot_above=8, few_shot_below=4)
    assert (metrics["many"], metrics["few"]) == (100, 0)
    assert math.isnan(metrics["medium"])


def test_an_image_counts_once():
    """A sampler that fills up the last batch repeats images; the metrics are those of the set."""
    once = evaluate(COUNTS, LABELS, SCORES, ids=[7, 3, "a", 0, 9])
    order = [0, 1, 2, 3, 4, 1, 1, 4]
    again = evaluate(COUNTS, [LABELS[i] for i in order], [SCORES[i] for i in order], ids=[7, 3, "a", 0, 9, 3, 3, 9])
    assert again == once
    # Without ids nobody can know.
    assert evaluate(COUNTS, [LABELS[i] for i in order], [SCORES[i] for i in order])["top1"] == 100 * 4 / 8


def test_reset_forgets():
    evaluator = ClassificationEvaluator([30, 30])
    evaluator.process([{"label": 0}], torch.tensor([[0.0, 1.0]]))
    evaluator.reset()
    assert evaluator.evaluate() == {}
    evaluator.process([{"label": 0}], torch.tensor([[1.0, 0.0]]))
    assert evaluator.evaluate()["classification"]["top1"] == 100


def test_files(tmp_path):
    names = ["cat, black", "dog $\\x$", "$", "ε"]
    evaluate(COUNTS, LABELS, SCORES, class_names=names, output_dir=tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["confusion.png", "per_class_accuracy.csv"]
    with open(folder / "per_class_accuracy.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["class_id", "name", "group", "train_images", "test_images", "correct", "accuracy"],
        ["0", "cat, black", "many", "500", "2", "1", "50.0000"],
        ["1", "dog $\\x$", "medium", "100", "1", "1", "100.0000"],
        ["2", "$", "medium", "20", "0", "0", "nan"],
        ["3", "ε", "few", "19", "2", "1", "50.0000"],
    ]
    picture = np.asarray(Image.open(folder / "confusion.png").convert("RGB"))
    assert (picture == 191).all(axis=2).any()  # the grey row of class 2
    assert (picture == (253, 231, 36)).all(axis=2).any()  # viridis at 100 %: class 1


def test_confusion_is_sorted_by_training_images():
    # Order: class 2, 0, 1.
    shares, classes_a_cell = confusion_matrix(
        np.array([2, 2, 2, 2, 0, 0]), np.array([2, 2, 2, 1, 1, 0]), np.array([50, 5, 500])
    )
    np.testing.assert_array_equal(shares, [[0.75, 0, 0.25], [0, 0.5, 0.5], [np.nan] * 3])
    assert classes_a_cell == 1


def test_confusion_of_many_classes_shares_cells():
    # Five classes in at most two cells: three classes in the first, two in the second.
    labels, predictions = np.array([0, 1, 2, 3, 4, 4]), np.array([1, 2, 3, 3, 0, 4])
    shares, classes_a_cell = confusion_matrix(labels, predictions, np.array([9, 8, 7, 6, 5]), max_cells=2)
    np.testing.assert_allclose(shares, [[2 / 3, 1 / 3], [1 / 3, 2 / 3]])
    assert classes_a_cell == 3


def test_a_picture_of_many_classes(tmp_path):
    counts = np.arange(1000, 0, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(counts, [0, 999], torch.eye(1000)[[0, 5]], output_dir=tmp_path)
    assert (np.asarray(Image.open(tmp_path / "confusion.png").convert("RGB")) == (253, 231, 36)).all(axis=2).any()


@pytest.mark.parametrize(
    ("inputs", "outputs", "sentence"),
    [
        ([{"label": 3, "file_name": "a.png"}], [[0.5] * 3], "a.png has the label 3, and there are 3 classes"),
        ([{"label": -1, "image_id": 8}], [[0.5] * 3], "image 8 has the label -1"),
        ([{"label": 0}], [[0.5] * 4], "gives 4 scores an image, but there are 3 classes"),
        ([{"label": 0, "file_name": "a.png"}], [[0.5, math.nan, 0]], "scores for a.png are not finite"),
        ([{"label": 0}], [[math.inf, 0, 0]], "scores for image without an id are not finite"),
        ([{"label": 0}], [[1.5, -0.5, 0]], "not finite, or below 0"),
    ],
)
def test_bad_input_is_named(inputs, outputs, sentence):
    with pytest.raises(UserError, match=sentence):
        ClassificationEvaluator([3, 2, 1]).process(inputs, torch.tensor(outputs))


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(UserError, match="2 class names for 3 classes"):
        ClassificationEvaluator([3, 2, 1], class_names=["a", "b"])
    with pytest.raises(UserError, match="0 bins"):
        ClassificationEvaluator([3, 2, 1], num_bins=0)
    with pytest.raises(UserError, match="image_id 4 have the labels 0 and 1"):
        evaluate([3, 2], [0, 1], torch.eye(2), ids=[4, 4])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/out cannot be written"):
        evaluate([3, 2], [0, 1], torch.eye(2), output_dir=tmp_path / "file" / "out")


# Images of each of two processes: uneven, one with none, and with the repeats of a padded sampler.
SHARES = {
    "uneven": ([0, 1, 2, 3], [4]),
    "one_empty": ([], [0, 1, 2, 3, 4]),
    "padded": ([0, 2, 4], [1, 3, 0]),
    "both_empty": ([], []),
}


def evaluate_shares(folder):
    for name, shares in SHARES.items():
        evaluator = ClassificationEvaluator(COUNTS, output_dir=folder / name)
        for i in shares[comm.get_rank()]:
            evaluator.process([{"label": LABELS[i], "image_id": i}], torch.tensor([SCORES[i]]))
        results = evaluator.evaluate()
        alone = ClassificationEvaluator(COUNTS, distributed=False)
        for i in shares[comm.get_rank()]:
            alone.process([{"label": LABELS[i], "image_id": i}], torch.tensor([SCORES[i]]))
        torch.save((dict(results), dict(alone.evaluate())), folder / f"{name}_{comm.get_rank()}.pth")


def test_two_processes(tmp_path, two_processes):
    two_processes(evaluate_shares, tmp_path)
    expected = evaluate(COUNTS, LABELS, SCORES, output_dir=tmp_path / "one")
    for name, shares in SHARES.items():
        (first, alone), (second, _) = (torch.load(tmp_path / f"{name}_{rank}.pth") for rank in (0, 1))
        assert second == {}
        if name == "both_empty":
            assert first == {}
            assert not (tmp_path / name).exists()
            continue
        assert first["classification"] == expected
        table = "per_class_accuracy.csv"
        assert (tmp_path / name / table).read_text() == (tmp_path / "one" / table).read_text()
        if name == "padded":
            assert alone["classification"]["top1"] == 100
        assert (alone == {}) == (not shares[0])
