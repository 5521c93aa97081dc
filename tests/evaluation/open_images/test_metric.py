"""The metric of Open Images: values worked out by hand, and equality with a slow implementation of its definition."""

import json
import math

import numpy as np
import pytest

from eql_d2.data.open_images.csv_files import read_boxes, read_image_labels
from eql_d2.evaluation.open_images.metric import (
    ImageTruth,
    OpenImagesMetric,
    average_precision,
    group_means,
    match_image,
)
from tests.evaluation.open_images_reference import reference_ap
from tests.open_images_set import HIERARCHY, write_csv

CAT, DOG = 0, 1
BOX = (10, 10, 30, 30)


def truth_of(objects, labelled=()):
    """ImageTruth of (class, box, is_group_of) objects."""
    return ImageTruth(
        np.array([box for _, box, _ in objects], float).reshape(-1, 4),
        np.array([c for c, _, _ in objects], int),
        np.array([group for _, _, group in objects], bool),
        np.array(sorted({c for c, _, _ in objects} | set(labelled)), int),
    )


def matches_of(detections, truth):
    """[(class, score, true)] of (class, score, box) detections."""
    boxes = np.array([box for _, _, box in detections], float).reshape(-1, 4)
    scores, classes = (np.array([d[i] for d in detections], t) for i, t in ((1, float), (0, int)))
    found = match_image(boxes, scores, classes, truth)
    return sorted(zip(found.classes.tolist(), found.scores.tolist(), found.is_true.tolist(), strict=True))


def test_the_second_detection_of_a_box_is_false():
    truth = truth_of([(CAT, BOX, False)])
    assert matches_of([(CAT, 0.5, BOX), (CAT, 0.9, (10, 10, 30, 29))], truth) == [(CAT, 0.5, False), (CAT, 0.9, True)]


def test_an_overlap_of_one_half_is_enough_and_less_is_not():
    truth = truth_of([(CAT, (0, 0, 10, 10), False)])
    assert matches_of([(CAT, 0.9, (0, 0, 10, 5))], truth) == [(CAT, 0.9, True)]
    assert matches_of([(CAT, 0.9, (0, 0, 10, 4.99))], truth) == [(CAT, 0.9, False)]


def test_a_detection_goes_to_its_nearest_box_even_if_that_is_taken():
    truth = truth_of([(CAT, (0, 0, 10, 10), False), (CAT, (0, 2, 10, 12), False)])
    detections = [(CAT, 0.9, (0, 0, 10, 10)), (CAT, 0.8, (0, 0.5, 10, 10.5))]  # IoU with the second box: 0.74
    assert matches_of(detections, truth) == [(CAT, 0.8, False), (CAT, 0.9, True)]


def test_classes_that_an_image_is_not_labelled_for_do_not_count():
    truth = truth_of([(CAT, BOX, False)])
    assert matches_of([(CAT, 0.9, BOX), (DOG, 0.8, BOX)], truth) == [(CAT, 0.9, True)]
    verified = truth_of([(CAT, BOX, False)], labelled=[DOG])  # to be there, or not
    assert matches_of([(CAT, 0.9, BOX), (DOG, 0.8, BOX)], verified) == [(CAT, 0.9, True), (DOG, 0.8, False)]


def test_a_group_is_one_true_detection_of_the_best_score():
    group = (0, 0, 100, 100)
    truth = truth_of([(CAT, group, True)])
    inside = [(CAT, 0.3, (0, 0, 10, 10)), (CAT, 0.7, (20, 20, 40, 40)), (CAT, 0.6, (90, 0, 110, 10))]  # last: half
    outside = (CAT, 0.9, (91, 0, 111, 10))
    assert matches_of([*inside, outside], truth) == [(CAT, 0.7, True), (CAT, 0.9, False)]
    assert matches_of([(CAT, 0.0, (0, 0, 10, 10))], truth) == []  # as the official code takes a score of 0
    assert matches_of([outside], truth) == [(CAT, 0.9, False)]


def test_boxes_come_before_groups():
    """A detection that gets a box is not the group's, one that comes too late for it is."""
    truth = truth_of([(CAT, (0, 0, 100, 100), True), (CAT, BOX, False), (DOG, BOX, True)])
    detections = [(CAT, 0.9, BOX), (CAT, 0.8, BOX), (CAT, 0.7, (50, 50, 60, 60))]
    assert matches_of(detections, truth) == [(CAT, 0.8, True), (CAT, 0.9, True)]


def test_each_detection_goes_to_one_group():
    truth = truth_of([(CAT, (0, 0, 100, 50), True), (CAT, (0, 50, 100, 100), True)])
    both = [(CAT, 0.9, (0, 20, 10, 70)), (CAT, 0.8, (0, 60, 10, 70))]  # 60% in the first, all in the second
    assert matches_of(both, truth) == [(CAT, 0.8, True), (CAT, 0.9, True)]
    assert matches_of(both[:1], truth) == [(CAT, 0.9, True)]


def test_boxes_without_area_do_not_count():
    truth = truth_of([(CAT, BOX, False)])
    assert matches_of([(CAT, 0.9, (10, 10, 10, 30)), (CAT, 0.8, (30, 30, 10, 10))], truth) == []
    assert matches_of([], truth) == []


def test_average_precision_by_hand():
    """Of three objects two are found, at ranks 1 and 3: (1 + 2/3) / 3; of the other class one, at rank 2."""
    scores = np.array([0.9, 0.8, 0.7, 0.9, 0.5])
    is_true = np.array([True, False, True, False, True])
    classes, image_ids = np.array([0, 0, 0, 1, 1]), np.array([1, 1, 2, 1, 1])
    ap = average_precision(scores, classes, is_true, image_ids, np.array([3, 1, 2, 0]))
    assert ap[:3].tolist() == pytest.approx([5 / 9, 1 / 2, 0], abs=1e-15)
    assert math.isnan(ap[3])


def test_precision_is_made_monotone():
    """Ranks 2 and 3 of two objects: precision 1/2 rises to 2/3, which holds for the first one, too."""
    ap = average_precision(
        np.array([0.9, 0.8, 0.7]), np.zeros(3, int), np.array([False, True, True]), np.ones(3, int), np.array([2])
    )
    assert ap.tolist() == pytest.approx([2 / 3], abs=1e-15)


def test_equal_scores_follow_the_images_whatever_order_they_come_in():
    def ap(order):
        metric = OpenImagesMetric(1)
        for image_id in order:
            truth = truth_of([(CAT, BOX, False)] if image_id != 2 else [], labelled=[CAT])
            metric.add_image(image_id, np.array([BOX], float), np.array([0.5]), np.array([CAT]), truth)
        return metric.class_ap().tolist()

    assert ap([1, 2, 3]) == ap([3, 1, 2]) == pytest.approx([(1 + 2 / 3) / 2])


def test_groups_are_fifths_from_rare_to_frequent():
    counts = np.array([50, 10, 40, 20, 30, 5, 60, 70, 80, 90])
    class_ap = np.arange(10) / 10
    class_ap[7] = np.nan
    means = group_means(class_ap, counts)
    # By count: 5 and 1, 3 and 4, 2 and 0, 6 and 7, 8 and 9.
    assert list(means) == ["AP1", "AP2", "AP3", "AP4", "AP5"]
    assert list(means.values()) == pytest.approx([0.3, 0.35, 0.1, 0.6, 0.85])
    assert math.isnan(group_means(np.full(10, np.nan), counts)["AP1"])


def test_no_image_at_all():
    assert np.isnan(OpenImagesMetric(3).class_ap()).all()


# --- against the definition -------------------------------------------------------------------------------


LEAVES = ["/m/ear_", "/m/popc", "/m/hatc", "/m/left", "/m/scro", "/m/slee"]
ALL = [*LEAVES, "/m/food", "/m/snack", "/m/toy"]


def random_set(folder, rng, num_images=40):
    """Boxes and labels as official CSV files, and predictions near the boxes, with classes of all levels."""
    boxes, labels, predictions = [], [], []
    for number in range(num_images):
        image_id = f"{number:04d}"
        for label in rng.choice(ALL, rng.integers(0, 4), replace=False):
            labels.append((image_id, label, int(rng.random() < 0.5)))
        for _ in range(rng.integers(0, 6)):
            x, y = rng.integers(0, 60, 2) / 100
            width, height = rng.integers(10, 40, 2) / 100
            label = rng.choice(ALL)
            boxes.append((image_id, label, x, x + width, y, y + height, int(rng.random() < 0.3)))
            for _ in range(rng.integers(0, 4)):
                shift = rng.normal(0, 0.03, 4)
                guess = rng.choice([label, rng.choice(ALL)], p=[0.6, 0.4])
                corners = np.array([x, y, x + width, y + height]) + shift
                predictions.append((image_id, str(guess), float(rng.random()), tuple(corners.tolist())))
    columns = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", "IsGroupOf")
    write_csv(folder / "boxes.csv", columns, boxes)
    write_csv(folder / "labels.csv", ("ImageID", "LabelName", "Confidence"), labels)
    (folder / "hierarchy.json").write_text(json.dumps(HIERARCHY))
    return predictions


def ancestors_by_hand(label):
    return {"/m/ear_": ["/m/food"], "/m/hatc": ["/m/food", "/m/snack"], "/m/snack": ["/m/food"]}.get(
        label, ["/m/food", "/m/snack", "/m/toy"] if label == "/m/popc" else []
    )


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_slow_definition(tmp_path, seed):
    predictions = random_set(tmp_path, np.random.default_rng(seed))
    index, images = {label: i for i, label in enumerate(ALL)}, {}
    boxes = read_boxes(tmp_path / "boxes.csv", index, images)
    labels = read_image_labels(tmp_path / "labels.csv", index, images)
    metric = OpenImagesMetric(len(ALL))
    for image_id, image in images.items():
        objects, labelled = [], set()
        for row in np.flatnonzero(boxes.image == image):
            label = ALL[boxes.label[row]]
            objects += [
                (index[a], boxes.corners[row], boxes.is_group_of[row]) for a in (label, *ancestors_by_hand(label))
            ]
        for row in np.flatnonzero(labels.image == image):
            label = ALL[labels.label[row]]
            below = [other for other in ALL if label in ancestors_by_hand(other)]
            labelled |= {index[a] for a in (label, *(ancestors_by_hand(label) if labels.is_positive[row] else below))}
        mine = [(label, score, box) for name, label, score, box in predictions if name == image_id]
        metric.add_image(
            int(image_id),
            np.array([box for _, _, box in mine], float).reshape(-1, 4),
            np.array([score for _, score, _ in mine], float),
            np.array([index[label] for label, _, _ in mine], int),
            truth_of(objects, labelled),
        )
    ours = dict(zip(ALL, metric.class_ap().tolist(), strict=True))
    paths = (tmp_path / name for name in ("boxes.csv", "labels.csv", "hierarchy.json"))
    slow = reference_ap(*paths, predictions)
    assert {label: ap for label, ap in ours.items() if not math.isnan(ap)} == pytest.approx(slow, abs=1e-12)
    assert len(slow) >= 8 and 0.1 < np.mean(list(slow.values())) < 0.9
