"""The long tail: the published counts of CIFAR-LT, what a seed decides, and glyphs drawn one by one."""

import numpy as np
import pytest

from eql_d2.classification.datasets import parse_name
from eql_d2.classification.imbalance import exponential_profile, long_tailed_indices
from eql_d2.classification.small_sets import draw_glyphs, glyph_labels
from eql_d2.errors import UserError


@pytest.mark.parametrize(
    ("largest", "num_classes", "imbalance", "total"),
    [
        (500, 100, 200, 9502),
        (500, 100, 100, 10847),
        (500, 100, 50, 12608),
        (500, 100, 10, 19573),
        (5000, 10, 200, 11203),
        (5000, 10, 100, 12406),
        (5000, 10, 50, 13996),
        (5000, 10, 10, 20431),
    ],
)
def test_published_numbers_of_images(largest, num_classes, imbalance, total):
    profile = exponential_profile(largest, num_classes, imbalance)
    assert profile.sum() == total
    assert (profile[0], profile[-1]) == (largest, largest // imbalance)


def test_cifar_10_lt_class_by_class():
    assert exponential_profile(5000, 10, 100).tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


@pytest.fixture
def labels():
    """Classes of 40, 50 and 60 images, mixed."""
    return np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [40, 50, 60]))


def test_the_cut_has_the_profile_of_the_smallest_class(labels):
    chosen = long_tailed_indices(labels, 3, 16, seed=0, source="some")
    assert np.bincount(labels[chosen]).tolist() == [40, 10, 2]  # 40 / 4, 40 / 16 = 2.5
    assert len(set(chosen.tolist())) == len(chosen)


def test_the_seed_decides_which_images(labels):
    first, again, other = (set(long_tailed_indices(labels, 3, 16, seed, "some").tolist()) for seed in (0, 0, 1))
    assert first == again != other


def test_a_longer_tail_is_a_part_of_a_shorter_one(labels):
    long, short = (set(long_tailed_indices(labels, 3, imbalance, 0, "some").tolist()) for imbalance in (16, 4))
    assert long < short


def test_an_imbalance_that_leaves_a_class_empty(labels):
    with pytest.raises(UserError, match=r"imbalance of 41 leaves 1 of 3 classes .* has 40; use .* at most 40\.$"):
        long_tailed_indices(labels, 3, 41, 0, "some")
    with pytest.raises(UserError, match=r"imbalance of 0\.5; it must be at least 1"):
        long_tailed_indices(labels, 3, 0.5, 0, "some")


def test_names():
    assert parse_name("cifar100_lt50_train") == ("cifar100", "train", 50.0, 0)
    assert parse_name("digits_lt12.5_seed3_train") == ("digits", "train", 12.5, 3)
    assert parse_name("imagenet_lt_val") == ("imagenet_lt", "val", 1.0, 0)
    assert parse_name("cifar10_test") == ("cifar10", "test", 1.0, 0)


@pytest.mark.parametrize("name", ["cifar100_lt_train", "cifar100_val", "cifar_train", "cifar100", "lvis_v1_train", ""])
def test_unknown_names(name):
    with pytest.raises(UserError, match=f"Dataset '{name}' is not known; it must be of cifar10_train/test"):
        parse_name(name)


def test_a_glyph_is_the_same_whatever_else_is_drawn():
    labels = glyph_labels("train")
    assert np.bincount(labels).tolist() == [200] * 240
    few, one = draw_glyphs("train", np.array([5, 47_999, 200])), draw_glyphs("train", np.array([200]))
    assert np.array_equal(few.images[2], one.images[0])
    assert few.labels.tolist() == [0, 239, 1]
    assert few.images.shape == (3, 32, 32, 3)
    test = draw_glyphs("test", np.array([5]))  # of class 0 too, but another picture
    assert not np.array_equal(test.images[0], few.images[0])
