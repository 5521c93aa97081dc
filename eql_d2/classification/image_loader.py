"""Loaders of image sets: training data that a run resumes exactly, and test batches."""

import numpy as np
from detectron2.config import CfgNode
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from eql_d2.child_processes import leave_stopping_to_parent
from eql_d2.classification.datasets import load_image_set
from eql_d2.classification.image_set import ImageSet
from eql_d2.classification.transforms import ImageMapper
from eql_d2.data.training.build_sampler import build_sampler
from eql_d2.data.training.image_classes import ImageClasses
from eql_d2.data.training.loader import BatchSampler, TrainLoader, batch_size_of_process, seeded_loader
from eql_d2.data.training.sampler_report import report_classes_shown_by
from eql_d2.data.training.training_samples import MappedImages
from eql_d2.data.training.unreadable_images import NamingMapper
from eql_d2.errors import UserError


class MappedSet(Dataset):
    """An image set whose records are ready for the model.

    Args:
        image_set: the images.
        mapper: what each record is turned into an input by.
    """

    def __init__(self, image_set: ImageSet, mapper: NamingMapper) -> None:
        self._image_set = image_set
        self._mapper = mapper

    def __len__(self) -> int:
        return len(self._image_set)

    def __getitem__(self, index: int) -> dict:
        return self._mapper(self._image_set[index])


def build_train_loader(cfg: CfgNode, seed: int) -> TrainLoader:
    """Build the training loader of this process.

    Args:
        cfg: full config; ``DATALOADER.SAMPLER_TRAIN`` as for detection.
        seed: seed of the run, the same on all processes.

    Raises:
        UserError: a set is broken, or a key does not fit.
    """
    image_set = training_set(cfg)
    classes = ImageClasses([{"annotations": [{"category_id": label}]} for label in image_set.labels.tolist()])
    sampler = build_sampler(cfg, classes, seed)
    if comm.is_main_process():
        report_classes_shown_by(cfg, sampler, classes)
    groups = [0] * len(image_set)
    batches = BatchSampler(lambda: iter(sampler), groups, batch_size_of_process(cfg))
    images = MappedImages(image_set, ImageMapper(cfg, is_train=True))
    return seeded_loader(cfg, seed, images, batches, groups)


def training_set(cfg: CfgNode) -> ImageSet:
    """The images of ``DATASETS.TRAIN``, several sets put together.

    Raises:
        UserError: some are in memory and some in files, or they differ in size.
    """
    parts = [load_image_set(name) for name in cfg.DATASETS.TRAIN]
    if len(parts) == 1:
        return parts[0]
    in_memory = {part.images.shape[1:] if isinstance(part.images, np.ndarray) else None for part in parts}
    names = ", ".join(cfg.DATASETS.TRAIN)
    if len(in_memory) > 1:
        raise UserError(f"DATASETS.TRAIN ({names}) has sets in memory and in files, or of different sizes; use one.")
    labels = np.concatenate([part.labels for part in parts])
    images = [image for part in parts for image in part.images]
    return ImageSet(names, parts[0].classes, labels, images if in_memory == {None} else np.stack(images))


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Batches of ``TEST.IMS_PER_BATCH`` images of this process's part of a test set."""
    dataset = MappedSet(load_image_set(dataset_name), NamingMapper(ImageMapper(cfg, is_train=False)))
    return DataLoader(
        dataset,
        batch_size=cfg.TEST.IMS_PER_BATCH,
        sampler=InferenceSampler(len(dataset)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=list,
        worker_init_fn=leave_stopping_to_parent,
    )
