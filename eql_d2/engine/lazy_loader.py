"""The loaders of this project by keywords, for LazyConfig and for whoever has no config of this project."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from torch.utils.data import DataLoader

import eql_d2.config  # as a module: it imports engine/config.py, and thereby this package
from eql_d2.data.category_counts import dataset_counts
from eql_d2.data.training.loader import TrainLoader, build_test_loader, build_train_loader
from eql_d2.errors import UserError, check_whole_number


def detection_train_loader(
    names: str | Sequence[str],
    *,
    mapper: Callable[[dict[str, Any]], Any],
    total_batch_size: int,
    seed: int = 0,
    sampler: str = "TrainingSampler",
    repeat_threshold: float = 0.001,
    repeat_sqrt: bool = True,
    repeat_rounding: str = "stochastic",
    class_balanced_power: float = 0.0,
    sampler_mixture: Sequence[Sequence[Any]] = (),
    copy_paste: Mapping[str, Any] | None = None,
    category_counts_file: str = "",
    aspect_ratio_grouping: bool = True,
    filter_empty: bool = True,
    max_unreadable_images: int = 100,
    num_workers: int = 4,
    output_dir: str = "",
) -> TrainLoader:
    """The training loader of this process: a function of seed, iteration and process, so that a run resumes exactly.

    Args:
        names: of registered datasets.
        mapper: e.g. :class:`LongTailMapper`.
        total_batch_size: images of a step, over all processes.
        seed: of the run, the same on all processes.
        sampler: see ``DATALOADER.SAMPLER_TRAIN``.
        repeat_threshold, repeat_sqrt, repeat_rounding: see ``DATALOADER.REPEAT_THRESHOLD`` and those beside it.
        class_balanced_power: see ``DATALOADER.CLASS_BALANCED_POWER``.
        sampler_mixture: see ``DATALOADER.SAMPLER_MIXTURE``.
        copy_paste: options of simple copy-paste, as ``{"repeat_threshold": 0.001}``; None leaves it out.
        category_counts_file: see ``MODEL.LONG_TAIL.CATEGORY_COUNTS``.
        aspect_ratio_grouping: whether the images of a batch are all portrait or all landscape.
        filter_empty: leave out images without annotations.
        max_unreadable_images: see ``DATALOADER.MAX_UNREADABLE_IMAGES``.
        num_workers: processes that load; the data is the same for any number.
        output_dir: where what the sampler shows of each class is written.

    Raises:
        UserError: the data or an argument does not fit; the sentence names the config key of the same meaning.
    """
    names = _names(names)
    check_whole_number("total_batch_size", total_batch_size, 1)
    check_whole_number("num_workers", num_workers, 0)
    check_whole_number("max_unreadable_images", max_unreadable_images, 0)
    _check_mapper(mapper, "train")
    cfg = _cfg(names, category_counts_file)
    cfg.OUTPUT_DIR = output_dir
    cfg.SOLVER.IMS_PER_BATCH = total_batch_size
    options = cfg.DATALOADER
    options.SAMPLER_TRAIN, options.REPEAT_THRESHOLD = sampler, repeat_threshold
    options.REPEAT_SQRT, options.REPEAT_ROUNDING = repeat_sqrt, repeat_rounding
    options.CLASS_BALANCED_POWER = class_balanced_power
    options.SAMPLER_MIXTURE = [list(part) for part in sampler_mixture]
    options.ASPECT_RATIO_GROUPING, options.FILTER_EMPTY_ANNOTATIONS = aspect_ratio_grouping, filter_empty
    options.MAX_UNREADABLE_IMAGES, options.NUM_WORKERS = max_unreadable_images, num_workers
    cfg.MODEL.MASK_ON = getattr(mapper, "use_instance_mask", True)
    if copy_paste is not None:
        known = [key.lower() for key in cfg.INPUT.COPY_PASTE if key != "ENABLED"]
        unknown = [key for key in copy_paste if key not in known] if isinstance(copy_paste, Mapping) else [copy_paste]
        if unknown:
            raise UserError(f"copy_paste has no option {unknown[0]!r}; its options are: {', '.join(known)}.")
        given = {f"INPUT.COPY_PASTE.{key.upper()}": value for key, value in copy_paste.items()}
        cfg.merge_from_list([part for pair in given.items() for part in pair])
        cfg.INPUT.COPY_PASTE.ENABLED = True
    return build_train_loader(cfg, seed, mapper)


def detection_test_loader(name: str, *, mapper: Callable[[dict[str, Any]], Any], num_workers: int = 4) -> DataLoader:
    """The loader of this process's part of a test set.

    Args:
        name: of a registered dataset.
        mapper: Detectron2's ``DatasetMapper`` with ``is_train=False``.
        num_workers: processes that load.
    """
    check_whole_number("num_workers", num_workers, 0)
    _check_mapper(mapper, "test")
    cfg = _cfg((name,), "")
    cfg.DATALOADER.NUM_WORKERS = num_workers
    return build_test_loader(cfg, name, mapper)


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    names = (names,) if isinstance(names, str) else tuple(names)
    if not names:
        raise UserError("dataloader.train.names is empty; it must name a registered dataset.")
    return names


def _check_mapper(mapper: Any, part: str) -> None:
    if not callable(mapper):
        raise UserError(f"The mapper of dataloader.{part} is {mapper!r}; it must be one, as L(LongTailMapper)(...).")


def _cfg(names: tuple[str, ...], category_counts_file: str) -> CfgNode:
    """A config of which the loaders read what the keywords say."""
    cfg = eql_d2.config.get_eql_d2_config()
    cfg.DATASETS.TRAIN = names
    cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS = category_counts_file
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = dataset_counts(names).num_classes
    return cfg
