"""Category counts: how often each class occurs in a training set."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from eql_d2.errors import UserError
from eql_d2.long_tail.groups import LVIS_THRESHOLDS, FrequencyThresholds

if TYPE_CHECKING:  # the generated set counts without PyTorch, whose import its many short processes would wait for
    from torch import Tensor


@dataclass(frozen=True)
class CategoryCounts:
    """How often each of K classes occurs in a training set, in the order of the contiguous ids.

    Attributes:
        category_ids: K ids of the annotation file, ascending.
        names: K class names.
        image_counts: K numbers of images that hold the class.
        instance_counts: K numbers of instances.
        num_images: number of images in the training set.
        thresholds: of the frequency groups.
    """

    category_ids: tuple[int, ...]
    names: tuple[str, ...]
    image_counts: tuple[int, ...]
    instance_counts: tuple[int, ...]
    num_images: int
    thresholds: FrequencyThresholds = LVIS_THRESHOLDS

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.names)

    @cached_property
    def image_frequencies(self) -> "Tensor":
        """(K,) float64, share of the images that hold each class."""
        import torch

        return torch.tensor(self.image_counts, dtype=torch.float64) / max(self.num_images, 1)

    @cached_property
    def frequency_groups(self) -> tuple[str, ...]:
        """K letters by :attr:`thresholds`: r (rare), c (common), f (frequent)."""
        return tuple(self.thresholds.letter(count) for count in self.image_counts)

    def to_records(self) -> dict[str, Any]:
        """The counts in the form of a count file (see :func:`read_count_file`), each class with its frequency."""
        columns = (self.category_ids, self.names, self.image_counts, self.instance_counts, self.frequency_groups)
        keys = ("id", "name", "image_count", "instance_count", "frequency")
        categories = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
        return {"num_images": self.num_images, "categories": categories}

    @classmethod
    def from_records(cls, content: dict[str, Any]) -> "CategoryCounts":
        """The counts of a count file's content; the inverse of :meth:`to_records`."""
        ordered = sorted(content["categories"], key=lambda record: record["id"])
        return cls(
            category_ids=tuple(record["id"] for record in ordered),
            names=tuple(record["name"] for record in ordered),
            image_counts=tuple(record["image_count"] for record in ordered),
            instance_counts=tuple(record["instance_count"] for record in ordered),
            num_images=content["num_images"],
        )


@lru_cache(maxsize=8)
def read_count_file(path: str) -> CategoryCounts:
    """Read a count file: ``{"num_images": N, "categories": [{"id", "name", "image_count", "instance_count"}]}``.

    Raises:
        UserError: the file is missing or not of this form.
    """
    try:
        content = orjson.loads(Path(path).read_bytes())
        return CategoryCounts.from_records(content)
    except OSError as error:
        raise UserError(
            f"Category count file {path} cannot be read ({error.strerror}); see datasets/metadata for its form."
        ) from None
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"Category count file {path} is not of the form of datasets/metadata: {type(error).__name__} {error}."
        ) from None
