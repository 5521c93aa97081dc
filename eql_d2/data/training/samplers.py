"""Training samplers, by their names in ``DATALOADER.SAMPLER_TRAIN``.

Each is a restartable endless stream of image indices that follows from its seed alone: a run resumes at the exact next
image, and several processes share one stream.
"""

import itertools
from collections.abc import Iterator, Sequence

import torch
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import Sampler

DRAWS_AT_ONCE = 1024


class TrainingStream(Sampler):
    """What all samplers have in common: iterating gives this process's share of :meth:`stream`."""

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self.stream(), comm.get_rank(), None, comm.get_world_size())

    def stream(self) -> Iterator[int]:
        """The endless stream of all processes together, from its start; never more than an epoch of it in memory."""
        raise NotImplementedError


class TrainingSampler(TrainingStream):
    """All images in random order, again and again: the stream of Detectron2's sampler of this name.

    Args:
        size: number of images.
        seed: seed of the run, the same on all processes; so for all samplers.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed

    def stream(self) -> Iterator[int]:
        """See the base class."""
        return _endless_shuffles(self._size, torch.Generator().manual_seed(self._seed))


class RepeatFactorTrainingSampler(TrainingStream):
    """Repeat factor sampling (Gupta et al., LVIS, CVPR 2019): an image is shown r times an epoch, in random order.

    "stochastic" rounds r anew each epoch, up with the probability of its fraction: the stream of Detectron2's sampler
    of this name. "ceil" always rounds up, as mmdetection's ClassBalancedDataset does, so that each image with r > 1 is
    shown twice at least and an epoch is longer. "ceil_plus_one" shows such an image once more still, as the code of
    Balanced Group Softmax does (mmdet/datasets/loader/sampler.py, GroupSampler_addrepeat).

    Args:
        repeat_factors: (N,) float64, r of each image, >= 1; see :func:`category_repeat_factors`.
        seed: as above.
        rounding: "stochastic", "ceil" or "ceil_plus_one".
    """

    def __init__(self, repeat_factors: Tensor, seed: int, rounding: str = "stochastic") -> None:
        # Detectron2 computes in float32, and its stream depends on the last bit.
        factors = repeat_factors.float() if rounding == "stochastic" else repeat_factors.ceil()
        if rounding == "ceil_plus_one":
            factors = factors + (factors > 1)
        self._whole = factors.trunc().long()
        self._fraction = factors - self._whole if rounding == "stochastic" else None
        self._seed = seed

    def stream(self) -> Iterator[int]:
        """See the base class."""
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            repeats = self._whole
            if self._fraction is not None:
                repeats = repeats + (torch.rand(len(repeats), generator=generator) < self._fraction)
            images = torch.repeat_interleave(repeats)
            yield from images[torch.randperm(len(images), generator=generator)].tolist()


def category_repeat_factors(frequencies: Tensor, threshold: float, sqrt: bool = True) -> Tensor:
    """Repeat factor of each class, r(c) = max(1, sqrt(t / f(c))) (LVIS, appendix B.2); an image's is its largest.

    Args:
        frequencies: (K,) float64, share f of the images that hold each class.
        threshold: t, the share below which a class is shown more often; > 0.
        sqrt: False leaves the square root out (``DATALOADER.REPEAT_SQRT`` of Detectron2's main branch).

    Returns:
        (K,) float64; infinite for a class without images.
    """
    ratios = threshold / frequencies
    return (ratios.sqrt() if sqrt else ratios).clamp(min=1.0)


def instance_aware_frequencies(image_frequencies: Tensor, instance_counts: Tensor) -> Tensor:
    """The frequencies of IRFS, sqrt(f_i f_b) (Yaman et al., arXiv 2305.08069), of which repeat factors are made.

    Args:
        image_frequencies: (K,) float64, share f_i of the images that hold each class.
        instance_counts: (K,) numbers of instances, whose shares are f_b; one is above 0.

    Returns:
        (K,) float64.
    """
    instances = instance_counts.double()
    return (image_frequencies * instances / instances.sum()).sqrt()


def exponential_repeat_factors(frequencies: Tensor, threshold: float, alpha: float) -> Tensor:
    """Repeat factor of each class, r(c) = exp(α sqrt(t / f(c))) (E-IRFS: Ahmed et al., IROS 2025, arXiv 2503.21893).

    Args:
        frequencies: (K,) float64, f of :func:`instance_aware_frequencies`.
        threshold: t, above 0.
        alpha: α, above 0.

    Returns:
        (K,) float64, above 1; infinite for a class without images.
    """
    return (alpha * (threshold / frequencies).sqrt()).exp()


class ClassAwareTrainingSampler(TrainingStream):
    """Class-aware sampling: as many turns for each class, and for each image of a class (Shen et al., ECCV 2016).

    The classes are gone through in random order again and again; each turn of a class takes the next of its images,
    which are gone through in random order as well. Classes without images have no turn.

    Args:
        images_of_class: (n_j,) int64 for each class, indices of the images that hold it; one has images.
        seed: as above.
    """

    def __init__(self, images_of_class: Sequence[Tensor], seed: int) -> None:
        self._images_of_class = [images for images in images_of_class if len(images)]
        self._seed = seed

    def stream(self) -> Iterator[int]:
        """See the base class."""
        generator = torch.Generator().manual_seed(self._seed)
        images = [_endless_rounds(of_class, generator) for of_class in self._images_of_class]
        for position in _endless_shuffles(len(images), generator):
            yield next(images[position])


class ClassBalancedTrainingSampler(TrainingStream):
    """Sampling by classes: each turn is drawn for class j with probability p_j ∝ n_j^q (Kang et al., ICLR 2020).

    n_j is the number of images of the class. q = 0 is class-balanced, 1/2 square-root and 1 instance-balanced sampling.
    A turn takes the next of the class's images, which are gone through in random order. q = 0 differs from class-aware
    sampling in that turns are drawn with replacement: a class gets its share in the mean, and not in every round.
    With several classes in an image q = 1 is not :class:`TrainingSampler`: an image of two classes has two chances.

    Args:
        images_of_class: as above.
        image_counts: (K,) n_j; not 0 for a class with images.
        power: q, 0 to 1.
        seed: as above.
    """

    def __init__(self, images_of_class: Sequence[Tensor], image_counts: Tensor, power: float, seed: int) -> None:
        present = [j for j, images in enumerate(images_of_class) if len(images)]
        self._images_of_class = [images_of_class[j] for j in present]
        self._weights = image_counts[present].double() ** power
        self._seed = seed

    def stream(self) -> Iterator[int]:
        """See the base class."""
        generator = torch.Generator().manual_seed(self._seed)
        images = [_endless_rounds(of_class, generator) for of_class in self._images_of_class]
        for position in _endless_draws(self._weights, generator):
            yield next(images[position])


class MixtureTrainingSampler(TrainingStream):
    """Takes each next image from one of several samplers, drawn by their weights.

    Args:
        samplers: what is mixed, each with a seed of its own.
        weights: one a sampler, > 0; only their ratios matter.
        seed: as above.
    """

    def __init__(self, samplers: Sequence[TrainingStream], weights: Sequence[float], seed: int) -> None:
        self._samplers = samplers
        self._weights = torch.tensor(weights, dtype=torch.float64)
        self._seed = seed

    def stream(self) -> Iterator[int]:
        """See the base class."""
        streams = [sampler.stream() for sampler in self._samplers]
        for position in _endless_draws(self._weights, torch.Generator().manual_seed(self._seed)):
            yield next(streams[position])


def _endless_shuffles(size: int, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from torch.randperm(size, generator=generator).tolist()


def _endless_rounds(items: Tensor, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from items[torch.randperm(len(items), generator=generator)].tolist()


def _endless_draws(weights: Tensor, generator: torch.Generator) -> Iterator[int]:
    """Positions drawn with replacement, with probabilities proportional to (n,) float64 weights."""
    upper = weights.cumsum(0)
    upper = upper / upper[-1]  # of which the last is 1 exactly, and above every draw
    while True:
        draws = torch.rand(DRAWS_AT_ONCE, generator=generator, dtype=torch.float64)
        yield from torch.searchsorted(upper, draws, right=True).tolist()
