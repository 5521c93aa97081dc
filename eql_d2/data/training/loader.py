"""Training data that is a function of (seed, iteration, process) alone, so that a run can resume exactly."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    MetadataCatalog,
    build_detection_test_loader,
    print_instances_class_histogram,
)
from detectron2.data.detection_utils import check_metadata_consistency
from detectron2.utils import comm
from torch.utils.data import ConcatDataset, DataLoader, Subset

from eql_d2.child_processes import leave_stopping_to_parent
from eql_d2.data.annotations.lvis_format import LVISDataset
from eql_d2.data.pictures import PictureMapper
from eql_d2.data.registration import load_dataset
from eql_d2.data.training.augmentations import training_augmentations, with_tight_boxes
from eql_d2.data.training.build_sampler import build_sampler
from eql_d2.data.training.copy_paste import build_copy_paste
from eql_d2.data.training.ignore_regions import WithIgnoreRegions
from eql_d2.data.training.image_classes import ImageClasses
from eql_d2.data.training.mapper import LongTailMapper
from eql_d2.data.training.sampler_report import report_classes_shown_by
from eql_d2.data.training.seeding import derived_seed
from eql_d2.data.training.training_samples import DatasetDicts, MappedImages, SeededDataset
from eql_d2.data.training.unreadable_images import REPORT_KEY, DatasetDict, NamingMapper, UnreadableImages
from eql_d2.errors import UserError


class BatchSampler:
    """Batches of (index, ordinal) of one process, endless; can start at any iteration.

    Args:
        indices: restartable endless stream of dataset indices of this process.
        groups: group of each dataset index; a batch holds images of one group only.
        batch_size: images per batch.
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
        unreadable: counts the images that samples tell to be unreadable.
    """

    def __init__(
        self, dataset: SeededDataset, batches: BatchSampler, num_workers: int, unreadable: UnreadableImages
    ) -> None:
        self.dataset = dataset
        self.unreadable = unreadable
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
        batches = DataLoader(
            self.dataset,
            batch_sampler=self._batches,
            num_workers=self._num_workers,
            collate_fn=list,
            worker_init_fn=leave_stopping_to_parent,
            # The loader draws its workers' seeds from here, not from the state that the training step uses.
            generator=torch.Generator().manual_seed(0),
        )
        try:
            for batch in batches:
                for sample in batch:
                    self.unreadable.add(sample.pop(REPORT_KEY, {}))
                yield batch
        except UserError as error:
            # Held by a traceback, the workers would end only when PyTorch's patience with each does, after 5 s.
            error.__traceback__ = None
            raise UserError(str(error)) from None


def build_train_loader(cfg: CfgNode, seed: int, mapper: Callable | None = None) -> TrainLoader:
    """Build the training loader of this process.

    Args:
        cfg: full config; ``DATALOADER.SAMPLER_TRAIN`` is a name of ``BUILDERS`` in build_sampler or
            MixtureTrainingSampler. What it shows of each class goes to the log and to ``OUTPUT_DIR``.
        seed: seed of the run, the same on all processes.
        mapper: replaces :class:`LongTailMapper`.

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
        report_classes_shown_by(cfg, sampler, classes)
    grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    groups = [int(grouped and record["width"] > record["height"]) for record in summaries]
    batches = BatchSampler(lambda: iter(sampler), groups, batch_size)
    augmentations = training_augmentations(cfg)
    mapper = mapper or with_tight_boxes(
        cfg, LongTailMapper(cfg, is_train=True, augmentations=augmentations, recompute_boxes=False)
    )
    images = MappedImages(dicts, mapper)
    make_sample = build_copy_paste(cfg, images, classes) if cfg.INPUT.COPY_PASTE.ENABLED else None
    return seeded_loader(cfg, seed, images, batches, groups, make_sample)


def seeded_loader(
    cfg: CfgNode,
    seed: int,
    images: MappedImages,
    batches: BatchSampler,
    groups: list[int],
    make_sample: Callable[[int], DatasetDict] | None = None,
) -> TrainLoader:
    """Batches whose images do not depend on the workers that made them, and that do without unreadable images.

    Args:
        cfg: full config.
        seed: seed of the run, the same on all processes.
        images: what an index gives.
        batches: the indices.
        groups: of each image; one takes the place of another of its group that cannot be read.
        make_sample: what training sees of an index, if it is not the image alone.
    """
    unreadable = UnreadableImages(cfg.DATALOADER.MAX_UNREADABLE_IMAGES)
    dataset = SeededDataset(
        images,
        make_sample or images,
        groups=groups,
        seed=derived_seed(seed, comm.get_rank()),
        max_unreadable=unreadable.limit,
    )
    return TrainLoader(dataset, batches, cfg.DATALOADER.NUM_WORKERS, unreadable)


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


def _training_dicts(cfg: CfgNode) -> tuple[DatasetDicts, list[DatasetDict]]:
    """The training images, and what samplers read of each; lazy where the datasets are."""
    parts = [load_dataset(name) for name in cfg.DATASETS.TRAIN]
    if parts and all(isinstance(part, (LVISDataset, WithIgnoreRegions)) for part in parts):
        lazy: ConcatDataset | Subset | None = ConcatDataset(parts)
        summaries = list(itertools.chain(*(part.summaries() for part in parts)))
    else:
        lazy, summaries = None, list(itertools.chain(*parts))
    if summaries:
        _report_classes(cfg.DATASETS.TRAIN, summaries)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        kept = [index for index, summary in enumerate(summaries) if summary["annotations"]]
        summaries = [summaries[index] for index in kept]
        lazy = None if lazy is None else Subset(lazy, kept)
    return summaries if lazy is None else lazy, summaries


def _report_classes(names: Sequence[str], summaries: list[DatasetDict]) -> None:
    """Detectron2's check of several datasets and its table of classes, as in ``get_detection_dataset_dicts``."""
    class_names = MetadataCatalog.get(names[0]).get("thing_classes")
    if class_names:
        check_metadata_consistency("thing_classes", names)
        instances = list(itertools.chain(*(summary["annotations"] for summary in summaries)))
        print_instances_class_histogram([{"annotations": instances}], class_names)  # as of one image: faster


def build_test_loader(cfg: CfgNode, dataset_name: str, mapper: Callable | None = None) -> DataLoader:
    """Detectron2's test loader, with errors that name the image.

    Args:
        cfg: full config.
        dataset_name: of the test set.
        mapper: replaces Detectron2's.
    """
    mapper = NamingMapper(mapper or PictureMapper(cfg, is_train=False))
    dataset = load_dataset(dataset_name)
    if isinstance(dataset, LVISDataset) and len(dataset) and not cfg.MODEL.LOAD_PROPOSALS:
        loader = build_detection_test_loader(dataset=dataset, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)
    else:
        loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
    loader.worker_init_fn = leave_stopping_to_parent
    return loader
