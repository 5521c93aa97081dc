"""Which classes each training image holds, as arrays: what samplers and their statistics read of a dataset."""

import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eql_d2.data.annotations.rules import is_region

CROWD = np.iinfo(np.int64).min


class ImageClasses:
    """The classes of the instances of N training images. Regions to ignore, which training leaves out, do not count.

    Args:
        dataset_dicts: Detectron2's dataset dicts, or what :meth:`LVISDataset.summaries` has of them.
    """

    def __init__(self, dataset_dicts: Sequence[dict[str, Any]]) -> None:
        lengths = np.fromiter((len(record["annotations"]) for record in dataset_dicts), np.int64, len(dataset_dicts))
        instances = itertools.chain.from_iterable(record["annotations"] for record in dataset_dicts)
        numbers = (CROWD if is_region(instance) else instance["category_id"] for instance in instances)
        classes = np.fromiter(numbers, np.int64, lengths.sum())
        images = np.repeat(np.arange(len(lengths)), lengths)
        self._classes, self._images = classes[classes != CROWD], images[classes != CROWD]
        self.num_images = len(lengths)

    @property
    def class_range(self) -> tuple[int, int]:
        """The smallest and the largest class; (0, -1) if there is no instance."""
        return (int(self._classes.min()), int(self._classes.max())) if len(self._classes) else (0, -1)

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and classes of the different (image, class), in ascending order."""
        size = max(self.class_range[1] + 1, 1)
        keys = np.sort(self._images * size + self._classes, kind="stable")  # np.unique takes 30 times as long
        return np.divmod(keys[np.diff(keys, prepend=-1) > 0], size)

    def images_of_class(self, num_classes: int) -> list[Tensor]:
        """For each of K classes (n_j,) int64, the indices of the images that hold it, ascending."""
        images, classes = self._pairs
        order = np.argsort(classes, kind="stable")
        sizes = np.bincount(classes, minlength=num_classes)
        return list(torch.from_numpy(images[order]).split(sizes.tolist()))

    def largest(self, values: Tensor) -> Tensor:
        """The largest of the values of each image's classes.

        Args:
            values: (K,) float64, >= 1.

        Returns:
            (N,) float64; 1 for an image without instances.
        """
        images, classes = self._pairs
        largest = np.ones(self.num_images)
        np.maximum.at(largest, images, values.numpy()[classes])
        return torch.from_numpy(largest)

    def counts(self, times: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Images and instances of each class when image i is shown ``times[i]`` times.

        Args:
            times: (N,) numbers.
            num_classes: K.

        Returns:
            Two (K,) int64.
        """
        images, classes = self._pairs
        of_images = np.bincount(classes, weights=times[images], minlength=num_classes)
        of_instances = np.bincount(self._classes, weights=times[self._images], minlength=num_classes)
        return of_images.astype(np.int64), of_instances.astype(np.int64)
