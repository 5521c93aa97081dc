"""Training data that is a function of (seed, iteration, process) alone, so that a run can resume exactly."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    print_instances_class_histogram,
)
from detectron2.data.detection_utils import SizeMismatchError, check_metadata_consistency
from detectron2.utils import comm
from PIL import UnidentifiedImageError
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from eql_d2.data.build_sampler import build_sampler
from eql_d2.data.image_classes import ImageClasses
from eql_d2.data.lvis_format import LVISDataset
from eql_d2.data.sampler_report import report_classes_shown
from eql_d2.errors import UserError

DatasetDict = dict[str, Any]


class NamingMapper:
    """Detectron2's mapper with errors that name the image.

    Args:
        mapper: what turns a dataset dict into the model's input.
    """

    def __init__(self, mapper: Callable[[DatasetDict], DatasetDict]) -> None:
        self._mapper = mapper

    def __call__(self, dataset_dict: DatasetDict) -> DatasetDict:
        """Map one dataset dict.

        Raises:
            UserError: the image is missing, unreadable, or not of the annotated size.
        """
        file_name = dataset_dict["file_name"]
        try:
            return self._mapper(dataset_dict)
        except FileNotFoundError:
            raise UserError(f"Image {file_name} does not exist; complete the dataset's images.") from None
        except SizeMismatchError:
            annotated = f"{dataset_dict['width']}x{dataset_dict['height']}"
            raise UserError(f"Image {file_name} is not {annotated} as annotated; fetch it again.") from None
        except UnidentifiedImageError:
            raise UserError(f"Image {file_name} cannot be read (it is no picture); fetch it again.") from None
        except OSError as error:
            raise UserError(f"Image {file_name} cannot be read ({error}); fetch it again.") from None


class SeededDataset(Dataset):
    """Maps (index, ordinal) to a training sample whose augmentation follows from (seed, ordinal).

    Args:
        dataset_dicts: Detectron2's dataset dicts; workers share the memory of a list as of a lazy dataset.
        mapper: what turns a dataset dict into the model's input.
        seed: seed of this process.
    """

    def __init__(self, dataset_dicts: Sequence[DatasetDict] | Dataset, mapper: Callable, seed: int) -> None:
        is_list = isinstance(dataset_dicts, list)
        self._dicts = DatasetFromList(dataset_dicts, copy=False) if is_list else dataset_dicts
        self._mapper = mapper
        self._seed = seed

    def __len__(self) -> int:
        return len(self._dicts)

    def __getitem__(self, sample: tuple[int, int]) -> DatasetDict:
        index, ordinal = sample
        with seeded_random_state(self._seed, ordinal):
            return self._mapper(self._dicts[index])


@contextmanager
def seeded_random_state(*entropy: int) -> Iterator[None]:
    """Seed ``random``, NumPy and PyTorch from some integers, and put their states back at the end."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = derived_seed(*entropy)
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed looks for GPUs as well: 0.3 ms an image
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def derived_seed(*entropy: int) -> int:
    """A 32-bit seed that mixes some non-negative integers."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


class BatchSampler:
    """Batches of (index, ordinal) of one process, endless; can start at any iteration.

    Args:
        indices: restartable endless stream of dataset indices of this process.
        groups: group of each dataset index; a batch holds images of one group only.
        batch_size: images a batch.
    """

    def __init__(self, indices: Callable[[], Iterator[int]], groups: list[int], batch_size: int) -> None:
        self._indices = indices
        self._groups = groups
        self._batch_size = batch_size
        self.start_iteration = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return itertools.islice(self._batches(), self.start_iteration, None)

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        buckets: dict[int, list[tuple[int, int]]] = {}
        for ordinal, index in enumerate(self._indices()):
            bucket = buckets.setdefault(self._groups[index], [])
            bucket.append((index, ordinal))
            if len(bucket) == self._batch_size:
                yield bucket[:]
                bucket.clear()


class TrainLoader:
    """An endless loader of this process's training batches.

    Nothing is read before the first batch is asked for, so :attr:`start_iteration` may be set after the
    checkpoint is loaded.

    Args:
        dataset: the samples.
        batches: which samples make a batch.
        num_workers: loader processes; 0 loads in the training process. The data is the same for any number.
    """

    def __init__(self, dataset: SeededDataset, batches: BatchSampler, num_workers: int) -> None:
        self.dataset = dataset
        self._batches = batches
        self._num_workers = num_workers

    @property
    def start_iteration(self) -> int:
        """Iteration whose batch comes first."""
        return self._batches.start_iteration

    @start_iteration.setter
    def start_iteration(self, iteration: int) -> None:
        self._batches.start_iteration = iteration

    def __iter__(self) -> Iterator[list[DatasetDict]]:
        yield from DataLoader(
            self.dataset,
            batch_sampler=self._batches,
            num_workers=self._num_workers,
            collate_fn=list,
            # The loader draws its workers' seeds from here, not from the state that the training step uses.
            generator=torch.Generator().manual_seed(0),
        )


def build_train_loader(cfg: CfgNode, seed: int, mapper: Callable | None = None) -> TrainLoader:
    """Build the training loader of this process.

    Args:
        cfg: full config; ``DATALOADER.SAMPLER_TRAIN`` is a name of :data:`eql_d2.data.build_sampler.BUILDERS` or
            MixtureTrainingSampler. What it shows of each class goes to the log and to ``OUTPUT_DIR``.
        seed: seed of the run, the same on all processes.
        mapper: replaces Detectron2's mapper.

    Raises:
        UserError: the dataset is broken or empty, or a key does not fit.
    """
    batch_size = batch_size_of_process(cfg)
    dicts, summaries = _training_dicts(cfg)
    if not summaries:
        raise UserError(f"DATASETS.TRAIN ({', '.join(cfg.DATASETS.TRAIN)}) has no annotated image.")
    classes = ImageClasses(summaries)
    sampler = build_sampler(cfg, classes, seed)
    if comm.is_main_process():
        report_classes_shown(cfg, sampler, classes)
    grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    batches = BatchSampler(
        lambda: iter(sampler),
        groups=[int(grouped and record["width"] > record["height"]) for record in summaries],
        batch_size=batch_size,
    )
    dataset = SeededDataset(
        dicts, NamingMapper(mapper or DatasetMapper(cfg, is_train=True)), derived_seed(seed, comm.get_rank())
    )
    return TrainLoader(dataset, batches, cfg.DATALOADER.NUM_WORKERS)


def batch_size_of_process(cfg: CfgNode) -> int:
    """Images of ``SOLVER.IMS_PER_BATCH`` that each process takes.

    Raises:
        UserError: they cannot be shared equally.
    """
    world_size = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH % world_size:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}; it must be a multiple of the {world_size} processes."
        )
    return cfg.SOLVER.IMS_PER_BATCH // world_size


def _training_dicts(cfg: CfgNode) -> tuple[Sequence[DatasetDict] | Dataset, list[DatasetDict]]:
    """The training images, and what samplers read of each; lazy where the datasets are."""
    parts = [DatasetCatalog.get(name) for name in cfg.DATASETS.TRAIN]
    if parts and all(isinstance(part, LVISDataset) for part in parts):
        dicts, summaries = ConcatDataset(parts), list(itertools.chain(*(part.summaries() for part in parts)))
    else:
        dicts = summaries = list(itertools.chain(*parts))
    if summaries:
        _report_classes(cfg.DATASETS.TRAIN, summaries)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        kept = [index for index, summary in enumerate(summaries) if summary["annotations"]]
        summaries = [summaries[index] for index in kept]
        dicts = summaries if isinstance(dicts, list) else Subset(dicts, kept)
    return dicts, summaries


def _report_classes(names: Sequence[str], summaries: list[DatasetDict]) -> None:
    """Detectron2's check of several datasets and its table of classes, as in ``get_detection_dataset_dicts``."""
    class_names = MetadataCatalog.get(names[0]).get("thing_classes")
    if class_names:
        check_metadata_consistency("thing_classes", names)
        instances = list(itertools.chain(*(summary["annotations"] for summary in summaries)))
        print_instances_class_histogram([{"annotations": instances}], class_names)  # as of one image: faster


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Detectron2's test loader, with errors that name the image."""
    mapper = NamingMapper(DatasetMapper(cfg, is_train=False))
    dataset = DatasetCatalog.get(dataset_name)
    if isinstance(dataset, LVISDataset) and len(dataset) and not cfg.MODEL.LOAD_PROPOSALS:
        return build_detection_test_loader(dataset=dataset, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)
    return build_detection_test_loader(cfg, dataset_name, mapper=mapper)
