"""The training loader: what it serves is a function of seed, iteration and process."""

import itertools
import json

import numpy as np
import pytest
import torch
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm

from eql_d2.data.registration import register_lvis_format
from eql_d2.data.training.loader import BatchSampler, build_train_loader
from eql_d2.data.training.seeding import seeded_random_state
from eql_d2.errors import UserError
from tests.data.small_set import make_content


def first_batches(loader, count, start=0):
    loader.start_iteration = start
    return list(itertools.islice(loader, count))


def test_batches_hold_one_group_and_lose_nothing():
    groups = [0, 1, 1, 0, 1, 0, 0]
    batches = itertools.islice(BatchSampler(lambda: iter(TrainingSampler(7, seed=3)), groups, 2), 70)
    flat = [sample for batch in batches for sample in batch]
    ordinals = [ordinal for _, ordinal in flat]
    assert len(set(ordinals)) == len(ordinals)
    for batch in itertools.islice(BatchSampler(lambda: iter(TrainingSampler(7, seed=3)), groups, 2), 70):
        assert len({groups[index] for index, _ in batch}) == 1
    # Over 20 epochs each image is served 20 times, but for what waits in the other group's bucket.
    counts = np.bincount([index for index, _ in flat], minlength=7)
    assert counts.sum() == 140
    assert counts.min() >= 19


def test_start_iteration_skips_exactly():
    def sampler():
        return BatchSampler(lambda: iter(TrainingSampler(9, seed=0)), [i % 2 for i in range(9)], 3)

    late = sampler()
    late.start_iteration = 5
    assert list(itertools.islice(late, 4)) == list(itertools.islice(sampler(), 9))[5:]


def test_augmentation_does_not_depend_on_workers_or_start(tiny_cfg):
    tiny_cfg.INPUT.MIN_SIZE_TRAIN = (48, 56, 64)  # something random besides the flip
    straight = first_batches(build_train_loader(tiny_cfg, seed=5), 6)
    tiny_cfg.DATALOADER.NUM_WORKERS = 2
    late = first_batches(build_train_loader(tiny_cfg, seed=5), 3, start=3)
    for expected, got in zip(straight[3:], late, strict=True):
        for a, b in zip(expected, got, strict=True):
            assert a["image_id"] == b["image_id"]
            assert torch.equal(a["image"], b["image"])
            assert torch.equal(a["instances"].gt_masks.tensor, b["instances"].gt_masks.tensor)
    assert len({image["image"].shape for batch in straight for image in batch}) > 1


def test_batches_of_one_orientation_where_the_config_says_so(tiny_cfg, tmp_path):
    content = make_content(20)
    for image in content["images"][::3]:
        image["width"], image["height"] = image["height"], image["width"]
    (tmp_path / "train.json").write_text(json.dumps(content))
    sides = {image["id"]: image["width"] > image["height"] for image in content["images"]}
    register_lvis_format("two_orientations", tmp_path / "train.json", tmp_path, federated=False)
    tiny_cfg.DATASETS.TRAIN = ("two_orientations",)
    tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    mixed = {}
    for grouped in (True, False):
        tiny_cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouped
        batches = first_batches(build_train_loader(tiny_cfg, seed=0, mapper=lambda record: record), 30)
        mixed[grouped] = sum(len({sides[image["image_id"]] for image in batch}) > 1 for batch in batches)
    assert mixed[True] == 0
    assert mixed[False] > 5


def test_processes_augment_differently(tiny_cfg, monkeypatch):
    """The same image as the same sample of two processes."""
    tiny_cfg.INPUT.MIN_SIZE_TRAIN = (48, 56, 64)
    drawn = []
    for rank in (0, 1, 0):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        dataset = build_train_loader(tiny_cfg, seed=5).dataset
        drawn.append([dataset[0, ordinal]["image"].shape for ordinal in range(12)])
    assert drawn[0] == drawn[2] != drawn[1]


def test_seeding_a_sample_leaves_the_random_state_alone():
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    with seeded_random_state(1, 2):
        first = np.random.rand(), torch.rand(1).item()
    with seeded_random_state(1, 2):
        assert (np.random.rand(), torch.rand(1).item()) == first
    with seeded_random_state(2, 1):
        assert np.random.rand() != first[0]
    assert np.array_equal(states[0], np.random.get_state()[1])
    assert torch.equal(states[1], torch.get_rng_state())


def test_unknown_sampler_is_named(tiny_cfg):
    tiny_cfg.DATALOADER.SAMPLER_TRAIN = "RandomSampler"
    with pytest.raises(UserError, match="SAMPLER_TRAIN is 'RandomSampler'"):
        build_train_loader(tiny_cfg, seed=0)
