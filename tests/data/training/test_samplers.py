"""Training samplers: streams against Detectron2's, exact expectations, restarts, shares of processes."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.data import samplers as detectron2_samplers
from detectron2.utils import comm

from eql_d2.data.training.samplers import (
    ClassAwareTrainingSampler,
    ClassBalancedTrainingSampler,
    MixtureTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
    category_repeat_factors,
)

IMAGES_OF_CLASS = [torch.tensor(images, dtype=torch.int64) for images in ([0, 1, 2, 3, 4, 5], [6], [], [2, 7])]
FACTORS = torch.tensor([1.0, 1.25, 3.0, 2.5, 1.0, 1.0, 7.75, 1.1], dtype=torch.float64)
# The largest value of chi-square in 999 of 1000 cases, by degrees of freedom.
CHI_SQUARE_999 = {2: 13.816, 3: 16.266, 7: 24.322}


def balanced(power, seed=1):
    return ClassBalancedTrainingSampler(IMAGES_OF_CLASS, torch.tensor([6, 1, 0, 2]), power, seed)


def mixture(seed=1, weights=(3.0, 1.0)):
    return MixtureTrainingSampler([TrainingSampler(8, seed), balanced(0.5, seed)], weights, seed)


SAMPLERS = {
    "uniform": lambda seed: TrainingSampler(8, seed),
    "stochastic": lambda seed: RepeatFactorTrainingSampler(FACTORS, seed),
    "ceil": lambda seed: RepeatFactorTrainingSampler(FACTORS, seed, "ceil"),
    "class-aware": lambda seed: ClassAwareTrainingSampler(IMAGES_OF_CLASS, seed),
    "class-balanced": lambda seed: balanced(0.5, seed),
    "mixture": mixture,
}


def take(sampler, number):
    return list(itertools.islice(sampler, number))


def chi_square(counts, probabilities):
    expected = np.asarray(probabilities) * np.sum(counts)
    return ((np.asarray(counts) - expected) ** 2 / expected).sum()


@pytest.mark.parametrize("name", SAMPLERS)
def test_it_restarts_and_follows_from_the_seed(name):
    sampler = SAMPLERS[name](1)
    first = take(sampler, 3000)
    assert take(sampler, 3000) == first
    assert take(SAMPLERS[name](1), 3000) == first
    assert take(SAMPLERS[name](2), 3000) != first
    assert {type(index) for index in first} == {int}
    # No period: what follows is not what went before.
    assert first[:1000] != first[1000:2000] != first[2000:]


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_one_stream(name, processes, monkeypatch):
    whole = take(SAMPLERS[name](1), 40 * processes)
    monkeypatch.setattr(comm, "get_world_size", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shares.append(take(SAMPLERS[name](1), 40))
    assert [image for turn in zip(*shares, strict=True) for image in turn] == whole


def test_the_streams_of_detectron2():
    for seed in (0, 7, 2**31 - 1):
        theirs = detectron2_samplers.TrainingSampler(8, seed=seed)
        assert take(TrainingSampler(8, seed), 500) == take(theirs, 500)
        theirs = detectron2_samplers.RepeatFactorTrainingSampler(FACTORS.float(), seed=seed)
        assert take(RepeatFactorTrainingSampler(FACTORS, seed), 2000) == take(theirs, 2000)
    # Fractions as they come, some of them a hair above or below a whole number.
    factors = torch.rand(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4 + 1
    factors[:3] = torch.tensor([2 + 1e-9, 2 - 1e-9, 2 - 1e-7], dtype=torch.float64)
    theirs = detectron2_samplers.RepeatFactorTrainingSampler(factors.float(), seed=3)
    assert take(RepeatFactorTrainingSampler(factors, 3), 5000) == take(theirs, 5000)


def test_fractions_are_compared_in_float32():
    """Factors a hair above what is drawn for them: as float32 they are equal to it, and are not rounded up."""
    draws = torch.rand(4000, generator=torch.Generator().manual_seed(3)).double()
    draws = (draws * 2**23).floor() / 2**23  # what float32 has room for above 1
    exact = torch.rand(4000, generator=torch.Generator().manual_seed(3)).double() == draws
    factors = torch.where(exact, 1 + draws + 2**-30, 1.0)
    assert exact.sum() > 1000
    assert Counter(take(RepeatFactorTrainingSampler(factors, 3), 4000)).most_common(1)[0][1] == 1
    theirs = detectron2_samplers.RepeatFactorTrainingSampler(factors.float(), seed=3)
    assert take(RepeatFactorTrainingSampler(factors, 3), 4000) == take(theirs, 4000)


def test_category_repeat_factors():
    frequencies = torch.tensor([0.5, 0.001, 0.00025, 0.00001, 0.0], dtype=torch.float64)
    assert category_repeat_factors(frequencies, 0.001).tolist() == pytest.approx([1, 1, 2, 10, math.inf])
    assert category_repeat_factors(frequencies, 0.001, sqrt=False).tolist() == pytest.approx([1, 1, 4, 100, math.inf])


def test_stochastic_rounding_keeps_the_factor_in_the_mean():
    epochs = 2000
    counts = Counter(take(RepeatFactorTrainingSampler(FACTORS, 5), int(epochs * FACTORS.sum())))
    for image, factor in enumerate(FACTORS.tolist()):
        # Binomial within an epoch; the last epoch is cut off somewhere, and there are a few more or less of them.
        deviation = math.sqrt(epochs * (factor % 1) * (1 - factor % 1))
        cut = factor * 3 * math.sqrt(epochs * 0.9) / FACTORS.sum().item() + 8
        assert abs(counts[image] - epochs * factor) < 3 * deviation + cut


def test_ceil_shows_an_image_as_often_in_each_epoch():
    sampler = RepeatFactorTrainingSampler(FACTORS, 1, "ceil")
    times = [1, 2, 3, 3, 1, 1, 8, 2]
    epochs = np.reshape(take(sampler, 10 * sum(times)), (10, sum(times)))
    assert all(np.bincount(epoch).tolist() == times for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10
    # In float32 the first factor is 2; mmdetection computes in float64.
    above = RepeatFactorTrainingSampler(torch.tensor([2 + 1e-9, 1], dtype=torch.float64), 1, "ceil")
    assert [sorted(epoch) for epoch in itertools.islice(iter_epochs(above, 4), 5)] == [[0, 0, 0, 1]] * 5


def iter_epochs(sampler, length):
    stream = sampler.stream()
    while True:
        yield list(itertools.islice(stream, length))


def test_ceil_of_whole_factors_adds_nothing():
    sampler = RepeatFactorTrainingSampler(torch.tensor([1.0, 3.0], dtype=torch.float64), 1, "ceil")
    assert [sorted(epoch) for epoch in itertools.islice(iter_epochs(sampler, 4), 5)] == [[0, 1, 1, 1]] * 5


def test_ceil_plus_one_adds_one_where_an_image_is_repeated():
    """As in BAGS's code: ceil(r) more copies of an image with r > 1, none of another."""
    sampler = RepeatFactorTrainingSampler(torch.tensor([1.0, 1.2, 2.0], dtype=torch.float64), 1, "ceil_plus_one")
    assert [sorted(epoch) for epoch in itertools.islice(iter_epochs(sampler, 7), 3)] == [[0, 1, 1, 1, 2, 2, 2]] * 3


def test_each_class_has_as_many_turns_and_each_of_its_images():
    drawn = take(ClassAwareTrainingSampler(IMAGES_OF_CLASS, seed=1), 36)
    # In every round of three, the single image of class 1 once.
    assert all(6 in drawn[i : i + 3] for i in range(0, 36, 3))
    counts = Counter(drawn)
    assert counts[6] == 12
    assert counts[7] == 6  # class 3 has two images
    assert [counts[image] for image in (0, 1, 3, 4, 5)] == [2] * 5
    assert counts[2] == 2 + 6  # of class 0 and of class 3
    assert len({tuple(drawn[i : i + 3]) for i in range(0, 36, 3)}) > 3  # rounds differ from one another


def test_the_class_aware_stream_is_that_of_earlier_versions():
    """Runs that were begun with them go on as they would have."""
    assert take(ClassAwareTrainingSampler(IMAGES_OF_CLASS, seed=1), 12) == [6, 2, 2, 7, 6, 4, 2, 3, 6, 7, 5, 6]


@pytest.mark.parametrize(
    ("power", "probabilities"),
    [(0.0, [1 / 3, 1 / 3, 1 / 3]), (0.5, np.sqrt([6, 1, 2]) / np.sqrt([6, 1, 2]).sum()), (1.0, [6 / 9, 1 / 9, 2 / 9])],
)
def test_classes_are_drawn_by_a_power_of_their_counts(power, probabilities):
    apart = [torch.arange(6), torch.tensor([6]), torch.tensor([], dtype=torch.int64), torch.tensor([7, 8])]
    sampler = ClassBalancedTrainingSampler(apart, torch.tensor([6, 1, 0, 2]), power, seed=4)
    drawn = take(sampler, 6000)
    class_of = {image: j for j, images in enumerate(apart) for image in images.tolist()}
    classes = [class_of[image] for image in drawn]
    counts = [classes.count(j) for j in (0, 1, 3)]
    assert chi_square(counts, probabilities) < CHI_SQUARE_999[2]
    # Within a class each image before any comes again.
    for j, images in enumerate(apart):
        turns = [image for image, c in zip(drawn, classes, strict=True) if c == j]
        for start in range(0, len(turns) - len(images) + 1, max(len(images), 1)):
            assert sorted(turns[start : start + len(images)]) == images.tolist()


def test_drawing_classes_is_with_replacement():
    """What q = 0 differs by from class-aware sampling: each turn is independent of the one before."""
    singles = [torch.tensor([0]), torch.tensor([1])]
    drawn = take(ClassBalancedTrainingSampler(singles, torch.tensor([1, 1]), 0.0, seed=2), 4001)
    pairs = Counter(itertools.pairwise(drawn))
    assert chi_square([pairs[pair] for pair in itertools.product((0, 1), repeat=2)], [0.25] * 4) < CHI_SQUARE_999[3]
    aware = take(ClassAwareTrainingSampler(singles, seed=2), 4000)
    assert all({a, b} == {0, 1} for a, b in zip(aware[::2], aware[1::2], strict=True))


def test_an_image_of_two_classes_has_two_chances():
    counts = Counter(take(balanced(1.0), 9000))
    # p_j / n_j = 1 / 9 for every (image, class); image 2 is of two classes.
    assert chi_square([counts[i] for i in range(8)], [1 / 9, 1 / 9, 2 / 9, *[1 / 9] * 5]) < CHI_SQUARE_999[7]


def test_a_mixture_interleaves_the_streams_of_its_parts():
    parts = [TrainingSampler(8, 1), RepeatFactorTrainingSampler(FACTORS, 1, "ceil")]
    shifted = Shifted(parts[1], 100)  # so that it can be told which part an index is of
    drawn = take(MixtureTrainingSampler([parts[0], shifted], [3.0, 1.0], seed=6), 8000)
    of_parts = [[index for index in drawn if (index >= 100) is late] for late in (False, True)]
    # Nothing of a part's stream is left out or moved.
    assert of_parts[0] == take(parts[0], len(of_parts[0]))
    assert of_parts[1] == take(shifted, len(of_parts[1]))
    late = [index >= 100 for index in drawn]
    pairs = Counter(zip(late[::2], late[1::2], strict=True))
    expected = [0.75**2, 0.75 * 0.25, 0.25 * 0.75, 0.25**2]
    assert chi_square([pairs[p] for p in itertools.product((False, True), repeat=2)], expected) < CHI_SQUARE_999[3]


class Shifted(TrainingSampler):
    """Another sampler's stream, each index plus a number."""

    def __init__(self, sampler, shift):
        self._sampler, self._shift = sampler, shift

    def stream(self):
        return (index + self._shift for index in self._sampler.stream())


def test_a_mixture_does_not_depend_on_the_scale_of_its_weights():
    assert take(mixture(weights=(3, 1)), 500) == take(mixture(weights=(0.75, 0.25)), 500)
    assert take(mixture(weights=(1, 1)), 500) != take(mixture(weights=(0.75, 0.25)), 500)


def test_a_part_without_weight_to_speak_of_is_not_drawn():
    """Rounding must not give the last part what is none of its own."""
    parts = [TrainingSampler(8, 1), Shifted(TrainingSampler(8, 1), 100)]
    assert max(take(MixtureTrainingSampler(parts, [1, 1e-300], seed=0), 9999)) < 8
