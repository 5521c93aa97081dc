"""What a sampler shows of each class: counted by hand, equal to what the loader serves, written once."""

import csv
import itertools
from collections import Counter

import numpy as np
import pytest

from eql_d2.data.category_counts import dataset_counts
from eql_d2.data.training.image_classes import ImageClasses
from eql_d2.data.training.loader import build_train_loader
from eql_d2.data.training.sampler_report import ClassesShown, classes_shown, table
from eql_d2.data.training.samplers import TrainingSampler
from eql_d2.long_tail import CategoryCounts

MIXTURE = [["RepeatFactorTrainingSampler", 1], ["ClassAwareTrainingSampler", 1]]


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Fixed(TrainingSampler):
    """Shows the same images again and again."""

    def __init__(self, images):
        self._images = images

    def stream(self):
        return itertools.cycle(self._images)


def test_counts_by_hand():
    images = [[0, 0, 1], [], [0, 2], [1]]
    classes = ImageClasses([{"annotations": [{"category_id": c} for c in image]} for image in images])
    # Four images make an epoch, so the fifth does not count.
    shown = classes_shown(Fixed([0, 0, 2, 1, 3]), classes, num_classes=4)
    assert shown.images.tolist() == [2, 2, 1, 0]
    assert shown.instances.tolist() == [3, 2, 1, 0]
    assert shown.images_shown.tolist() == [3, 2, 1, 0]
    assert shown.instances_shown.tolist() == [5, 2, 1, 0]


@pytest.mark.parametrize(
    "name", ["RepeatFactorTrainingSampler", "ClassBalancedTrainingSampler", "MixtureTrainingSampler"]
)
def test_the_file_counts_what_the_loader_serves(tiny_cfg, tmp_path, name, caplog):
    tiny_cfg.DATALOADER.SAMPLER_TRAIN = name
    tiny_cfg.DATALOADER.SAMPLER_MIXTURE = MIXTURE
    tiny_cfg.DATALOADER.REPEAT_THRESHOLD = 0.3
    with caplog.at_level("INFO", logger="eql_d2"):
        loader = build_train_loader(tiny_cfg, seed=11, mapper=lambda record: record)
    size = len(loader.dataset)
    assert size % 2 == 0  # batches of two make an epoch without a rest
    served = list(itertools.chain(*itertools.islice(loader, size // 2)))
    classes = [[a["category_id"] for a in record["annotations"]] for record in served]
    images = Counter(itertools.chain(*map(set, classes)))
    instances = Counter(itertools.chain(*classes))
    counts = dataset_counts(("tiny_train",))
    rows = read(tmp_path / "run" / "sampler_classes.csv")
    assert [row["name"] for row in rows] == list(counts.names)
    assert [row["frequency"] for row in rows] == list(counts.frequency_groups)
    assert [int(row["category_id"]) for row in rows] == list(counts.category_ids)
    assert [int(row["images"]) for row in rows] == list(counts.image_counts)
    assert [int(row["instances"]) for row in rows] == list(counts.instance_counts)
    assert [int(row["images_shown"]) for row in rows] == [images[j] for j in range(6)]
    assert [int(row["instances_shown"]) for row in rows] == [instances[j] for j in range(6)]
    assert images != Counter(dict(enumerate(counts.image_counts)))
    assert f"What {name} shows in {size} images" in caplog.text
    assert f"{tmp_path}/run/sampler_classes.csv" in caplog.text
    assert all(f"{name} (" in caplog.text for name in counts.names)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["sampler_classes.csv"]


def test_every_image_once_needs_no_table(tiny_cfg, tmp_path, caplog):
    with caplog.at_level("INFO", logger="eql_d2"):
        for _ in range(2):  # the second time into a folder with a report
            build_train_loader(tiny_cfg, seed=0)
    assert "TrainingSampler shows each class as often as it is there" in caplog.text
    rows = read(tmp_path / "run" / "sampler_classes.csv")
    assert [row["images"] for row in rows] == [row["images_shown"] for row in rows]


def test_table():
    """Ten classes: two rare (one of them nowhere), seven common, one frequent."""
    image_counts = (0, 4, *[20] * 7, 400)
    shown = ClassesShown(
        images=np.array(image_counts),
        instances=np.array([0, 5, *[30] * 7, 1000]),
        images_shown=np.array([0, 10, 20, 30, 50, 20, 20, 20, 10, 360]),
        instances_shown=np.array([0, 12, 30, 45, 75, 30, 30, 30, 15, 940]),
    )
    counts = CategoryCounts(tuple(range(10)), tuple("abcdefghij"), image_counts, image_counts, 400)
    lines = [line.split() for line in table(shown, counts).splitlines()[2:]]
    assert lines == [
        ["rare", "(2", "classes)", "4", "10", "2.50", "5", "12", "2.40"],
        ["common", "(7", "classes)", "140", "170", "1.21", "210", "255", "1.21"],
        ["frequent", "(1", "classes)", "400", "360", "0.90", "1000", "940", "0.94"],
        ["b", "(r)", "4", "10", "2.50", "5", "12", "2.40"],  # the three that gain most; b before e by its id
        ["e", "(c)", "20", "50", "2.50", "30", "75", "2.50"],
        ["d", "(c)", "20", "30", "1.50", "30", "45", "1.50"],
        ["h", "(c)", "20", "20", "1.00", "30", "30", "1.00"],  # the three that lose most
        ["j", "(f)", "400", "360", "0.90", "1000", "940", "0.94"],
        ["i", "(c)", "20", "10", "0.50", "30", "15", "0.50"],
    ]
    absent = ClassesShown(*[np.zeros(10, dtype=np.int64)] * 4)
    assert "–" in table(absent, counts)


def test_classes_shown_alike_are_in_the_order_of_their_ids():
    """Every second class is shown twice as often as the others."""
    once, factors = np.ones(60, np.int64), np.tile([1, 2], 30)
    counts = CategoryCounts(tuple(range(60)), tuple(f"class{j}" for j in range(60)), (1,) * 60, (1,) * 60, 60)
    names = [line.split()[0] for line in table(ClassesShown(once, once, factors, factors), counts).splitlines()]
    shown = [int(name.removeprefix("class")) for name in names if name.startswith("class")]
    assert shown == [1, 3, 5, 54, 56, 58]
