"""Class-aware sampling: turns of classes and images, restarts, shares of processes."""

import itertools
from collections import Counter

import pytest
from detectron2.utils import comm

from eql_d2.data.loader import build_train_loader
from eql_d2.data.samplers import ClassAwareTrainingSampler, images_by_class
from eql_d2.errors import UserError

IMAGES_OF_CLASS = [[0, 1, 2, 3, 4, 5], [6], [], [2, 7]]


def take(sampler, number):
    return list(itertools.islice(sampler, number))


def test_each_class_has_as_many_turns_and_each_of_its_images():
    drawn = take(ClassAwareTrainingSampler(IMAGES_OF_CLASS, seed=1), 36)
    # In every round of three, the single image of class 1 once.
    assert all(6 in drawn[i : i + 3] for i in range(0, 36, 3))
    counts = Counter(drawn)
    assert counts[6] == 12
    assert counts[7] == 6  # class 3 has two images
    assert [counts[image] for image in (0, 1, 3, 4, 5)] == [2] * 5
    assert counts[2] == 2 + 6  # of class 0 and of class 3


def test_it_restarts_and_follows_from_the_seed():
    sampler = ClassAwareTrainingSampler(IMAGES_OF_CLASS, seed=1)
    first = take(sampler, 50)
    assert take(sampler, 50) == first
    assert take(ClassAwareTrainingSampler(IMAGES_OF_CLASS, seed=2), 50) != first
    # Order is random: rounds differ from one another.
    assert len({tuple(first[i : i + 3]) for i in range(0, 48, 3)}) > 3


def test_processes_share_one_stream(monkeypatch):
    whole = take(ClassAwareTrainingSampler(IMAGES_OF_CLASS, seed=1), 40)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shares.append(take(ClassAwareTrainingSampler(IMAGES_OF_CLASS, seed=1), 20))
    assert [image for pair in zip(*shares, strict=True) for image in pair] == whole


def test_images_by_class_counts_an_image_once():
    dicts = [{"annotations": [{"category_id": c} for c in classes]} for classes in ([1, 1, 3], [], [3])]
    assert images_by_class(dicts) == [[], [0], [], [0, 2]]
    assert images_by_class([]) == []


def test_the_loader_lifts_rare_classes(tiny_cfg):
    def share_of_rarest(name):
        tiny_cfg.DATALOADER.SAMPLER_TRAIN = name
        loader = build_train_loader(tiny_cfg, seed=3, mapper=lambda record: record)
        batches = list(itertools.islice(loader, 100))
        classes = [{a["category_id"] for a in record["annotations"]} for batch in batches for record in batch]
        counts = Counter(category for image in classes for category in image)
        return min(counts[category] for category in range(6)) / len(classes)

    # Six classes: each gets a sixth of the turns at least.
    assert share_of_rarest("ClassAwareTrainingSampler") > 0.15 > 2 * share_of_rarest("TrainingSampler")


def test_an_unknown_sampler_is_named(tiny_cfg):
    tiny_cfg.DATALOADER.SAMPLER_TRAIN = "Fair"
    with pytest.raises(UserError, match=r"SAMPLER_TRAIN is 'Fair'; it must be .*ClassAwareTrainingSampler"):
        build_train_loader(tiny_cfg, seed=0)
