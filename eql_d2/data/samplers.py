"""Training samplers beyond Detectron2's. Each is a restartable endless stream that follows from its seed."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.utils import comm
from torch.utils.data import Sampler


class ClassAwareTrainingSampler(Sampler):
    """Class-aware sampling: as many samples for each class, and for each image of a class (Shen et al., ECCV 2016).

    The classes are gone through in random order again and again; each turn of a class takes the next of its images,
    which are gone through in random order as well. Classes without images have no turn. With several processes, each
    takes its share of the one stream.

    Args:
        images_of_class: indices of the images that hold each class.
        seed: seed of the run, the same on all processes.
    """

    def __init__(self, images_of_class: Sequence[Sequence[int]], seed: int) -> None:
        self._images_of_class = [images for images in images_of_class if images]
        self._seed = seed
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._stream(), self._rank, None, self._world_size)

    def _stream(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        streams = [_endless_shuffles(images, generator) for images in self._images_of_class]
        for images in _endless_shuffles(streams, generator):
            yield next(images)


def _endless_shuffles(items: Sequence[Any], generator: torch.Generator) -> Iterator[Any]:
    while True:
        for position in torch.randperm(len(items), generator=generator).tolist():
            yield items[position]


def images_by_class(dataset_dicts: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Indices of the images that hold each class.

    Args:
        dataset_dicts: Detectron2's dataset dicts, with contiguous category ids.

    Returns:
        One ascending list a class, up to the last class that occurs.
    """
    images: dict[int, list[int]] = {}
    for index, record in enumerate(dataset_dicts):
        for category in {annotation["category_id"] for annotation in record["annotations"]}:
            images.setdefault(category, []).append(index)
    return [images.get(category, []) for category in range(max(images, default=-1) + 1)]
