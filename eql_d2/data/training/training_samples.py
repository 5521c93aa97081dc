"""The training samples: what each holds follows from (seed, ordinal), whatever images cannot be read."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from detectron2.data import DatasetFromList
from torch.utils.data import Dataset

from eql_d2.data.training.seeding import derived_seed, seeded_random_state
from eql_d2.data.training.unreadable_images import (
    REPORT_KEY,
    DatasetDict,
    NamingMapper,
    UnreadableImageError,
    too_many_unreadable,
)

SPARE_DRAWS = 100  # more attempts than unreadable images: what is pasted may be drawn from the same one again


class DatasetDicts(Protocol):
    """Detectron2's dataset dicts: a list of them, or a dataset that makes each when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> DatasetDict: ...


class MappedImages:
    """Maps an index to the model's input of that image.

    Args:
        dataset_dicts: Detectron2's dataset dicts; workers share the memory of a list as of a lazy dataset.
        mapper: what turns a dataset dict into the model's input.
    """

    def __init__(self, dataset_dicts: DatasetDicts, mapper: Callable) -> None:
        is_list = isinstance(dataset_dicts, list)
        self._dicts: DatasetDicts = DatasetFromList(dataset_dicts, copy=False) if is_list else dataset_dicts
        self._mapper = NamingMapper(mapper)

    def __len__(self) -> int:
        return len(self._dicts)

    def __call__(self, index: int) -> DatasetDict:
        """The model's input.

        Raises:
            UnreadableImageError: the image is missing, unreadable, or not of the annotated size.
        """
        return self._mapper(self._dicts[index])

    def file_name(self, index: int) -> str:
        """File of an image."""
        return self._dicts[index]["file_name"]


class SeededDataset(Dataset):
    """Maps (index, ordinal) to a training sample that follows from (seed, ordinal) beyond its index.

    An image that cannot be read is replaced by one drawn from its group; the sample then tells of it under
    ``REPORT_KEY``, as {file name: what is wrong with it}.

    Args:
        images: the images, mapped.
        make_sample: maps an index to a sample; ``images`` itself, or what combines several of them.
        groups: group of each image; batches hold images of one group only.
        seed: seed of this process.
        max_unreadable: unreadable images that a sample may meet; one more is an error.
    """

    def __init__(
        self,
        images: MappedImages,
        make_sample: Callable[[int], DatasetDict],
        *,
        groups: Sequence[int],
        seed: int,
        max_unreadable: int,
    ) -> None:
        self._images = images
        self._make_sample = make_sample
        self._groups = np.asarray(groups, dtype=np.uint8)
        self._seed = seed
        self._max_unreadable = max_unreadable

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, sample: tuple[int, int]) -> DatasetDict:
        """One sample.

        Raises:
            UserError: more images than allowed cannot be read.
        """
        index, ordinal = sample
        sentences: dict[str, str] = {}
        for attempt, candidate in enumerate(self._candidates(index, ordinal, sentences)):
            try:
                with seeded_random_state(self._seed, ordinal, attempt):
                    mapped = self._make_sample(candidate)
                return {**mapped, REPORT_KEY: sentences} if sentences else mapped
            except UnreadableImageError as error:
                sentences[error.file_name] = str(error)
            if len(sentences) > self._max_unreadable:
                break
        raise too_many_unreadable(sentences, self._max_unreadable)

    def _candidates(self, index: int, ordinal: int, unreadable: dict[str, str]) -> Iterator[int]:
        """The image, and then replacements as long as it is unreadable itself (and not one pasted onto it)."""
        yield index
        group = np.flatnonzero(self._groups == self._groups[index])
        for attempt in range(1, self._max_unreadable + SPARE_DRAWS):
            if self._images.file_name(index) in unreadable:
                group = group[group != index]
                if not len(group):
                    return
                index = int(group[derived_seed(self._seed, ordinal, attempt, 1) % len(group)])
            yield index
