"""From command line arguments to a checked config and prepared process."""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from eql_d2.data.category_counts import no_instances_error, num_classes_of_model
from eql_d2.data.checks.before_start import check_dataset, check_masks_are_polygons, without_masks
from eql_d2.data.checks.split_findings import first_difference
from eql_d2.data.registration import register_datasets, set_class_metadata
from eql_d2.engine.auto_values import resolve_auto_values
from eql_d2.engine.checkpoint import fetch_weights
from eql_d2.engine.config_files import find_config, load_config_and_names
from eql_d2.engine.method_in_use import unused_keys
from eql_d2.engine.precision import check_precision
from eql_d2.engine.run_start import decide_start, kept_or_new_seed, start_run
from eql_d2.engine.start_summary import start_summary
from eql_d2.engine.trackers import check_trackers
from eql_d2.errors import UserError
from eql_d2.evaluation.results_table import FOR_TERMINAL
from eql_d2.known_warnings import silence_known_warnings
from eql_d2.modeling.predictors import checked_predictor_class
from eql_d2.modeling.test_time_augmentation import check_augmentation

logger = logging.getLogger(__name__)


def setup(args: argparse.Namespace, task: "Task | None" = None) -> CfgNode:
    """Prepare this process: config, datasets, seed, threads, output folder, logging.

    Args:
        args: arguments of Detectron2's ``default_argument_parser``, and ``ignore`` for ``DATASETS.IGNORE_DEFECTS``; its
            ``resume`` becomes what the run is to do, see :func:`~eql_d2.engine.run_start.decide_start`.
        task: what the model does; None is detection.

    Returns:
        The frozen config.

    Raises:
        UserError: something in the config does not fit; the sentence names the key.
    """
    silence_known_warnings()
    own, args = args, argparse.Namespace(**{**vars(args), "config_file": find_config(args.config_file)})
    cfg, named = load_config_and_names(args.config_file, args.opts)
    if getattr(args, "ignore", False):
        cfg.DATASETS.IGNORE_DEFECTS = True
    task = task or DETECTION
    unused = unused_keys(cfg, named)
    task.check_model(cfg)
    task.register_datasets(cfg)
    resolved = resolve_auto_values(cfg)
    check_device(cfg)
    check_tracking(cfg, args.eval_only)
    task.check_datasets(cfg, args.eval_only)
    own.resume = args.resume = decide_start(cfg.OUTPUT_DIR, args.resume, args.eval_only)
    if args.eval_only and not (cfg.MODEL.WEIGHTS or args.resume):
        raise UserError("--eval-only has nothing to evaluate: set MODEL.WEIGHTS, or add --resume.")
    if not args.resume:
        fetch_weights(cfg.MODEL.WEIGHTS)
    if cfg.SEED < 0:
        cfg.SEED = kept_or_new_seed(cfg.OUTPUT_DIR, args.resume or args.eval_only)
    if cfg.MODEL.DEVICE == "cpu" and cfg.ENGINE.CPU_THREADS:
        torch.set_num_threads(cfg.ENGINE.CPU_THREADS)
    cfg.freeze()
    start_run(cfg, args, cfg.OUTPUT_DIR)
    summary = start_summary(cfg, comm.get_world_size(), args.eval_only, resolved)
    logger.info("The run:\n%s", summary, extra=FOR_TERMINAL)
    for sentence in unused:
        logger.warning(sentence)
    return cfg


def check_tracking(cfg: CfgNode, eval_only: bool) -> None:
    """Make sure that the trackers of a training can be used; the first process uses them.

    Raises:
        UserError: one cannot.
    """
    if comm.is_main_process() and not eval_only:
        check_trackers(cfg)


def check_datasets_by_name(cfg: CfgNode, eval_only: bool) -> None:
    """Make sure that the datasets that a config names exist, have its classes and no defects.

    Raises:
        UserError: they do not; the sentence names what to set.
    """
    if not (cfg.DATASETS.TRAIN or eval_only):
        raise UserError("DATASETS.TRAIN is empty; name a dataset to train on.")
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    for name in names:
        set_class_metadata(name)
    check_same_classes(names)
    classes = MetadataCatalog.get(names[0]).get("thing_classes", ()) if names else ()
    key, num_classes = num_classes_of_model(cfg)
    if names and len(classes) != num_classes:
        raise UserError(
            f"{key} is {num_classes}, but dataset {names[0]} has {len(classes)} classes; set it to {len(classes)}."
        )
    for name in names:
        evaluated = name in cfg.DATASETS.TEST
        if evaluated or not eval_only:
            # What is wrong with a test set should not wait for the end of days of training.
            check_dataset(name, cfg.DATASETS.IGNORE_DEFECTS, evaluated, groups_known=bool(cfg.DATASETS.TRAIN))
        if name in cfg.DATASETS.TRAIN and not eval_only and cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon":
            check_masks_are_polygons(name)
        if evaluated and cfg.MODEL.MASK_ON and (count := without_masks(name)):
            logger.warning("%s: %d annotations have no mask, so that boxes alone are evaluated on it.", name, count)
    error = None if eval_only else no_instances_error(cfg.DATASETS.TRAIN)
    if error:
        raise error


def check_same_classes(names: Sequence[str]) -> None:
    """Make sure that registered datasets have the same classes in the same order.

    Raises:
        UserError: two differ; the sentence names the first difference.
    """
    for name in names[1:]:
        first, second = (
            (metadata.get("thing_classes", []), metadata.get("thing_dataset_id_to_contiguous_id", {}))
            for metadata in (MetadataCatalog.get(names[0]), MetadataCatalog.get(name))
        )
        difference = first_difference(*first, *second)
        if difference:
            number, of_first, of_second = difference
            raise UserError(
                f"Datasets {names[0]} and {name} have different classes: in ascending order of ids, class {number} is "
                f"{of_first} in {names[0]} and {of_second} in {name}; give both annotation files the same categories, "
                "also those without annotations, under the same ids, or use them in different runs."
            )


def _check_detector(cfg: CfgNode) -> None:
    if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier":
        raise UserError("MODEL.META_ARCHITECTURE is ImageClassifier; train it with tools/train_classifier.py.")
    if cfg.MODEL.ROI_HEADS.NAME.startswith("LongTail") and cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        checked_predictor_class(cfg.MODEL.ROI_BOX_HEAD.PREDICTOR)
    if cfg.TEST.AUG.ENABLED:
        check_augmentation(cfg)


@dataclass(frozen=True)
class Task:
    """What :func:`setup` does differently for detectors and image classifiers.

    Attributes:
        check_model: makes sure that the config's model is of the task.
        register_datasets: registers what the config describes.
        check_datasets: makes sure that the datasets fit the model, given the config and whether it is only evaluated.
    """

    check_model: Callable[[CfgNode], None]
    register_datasets: Callable[[CfgNode], None]
    check_datasets: Callable[[CfgNode, bool], None]


DETECTION = Task(_check_detector, register_datasets, check_datasets_by_name)


def check_device(cfg: CfgNode) -> None:
    """Make sure that the machine has what the config asks for.

    Raises:
        UserError: there is no GPU for ``MODEL.DEVICE`` or ``SOLVER.AMP.ENABLED``.
    """
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("MODEL.DEVICE is cuda, but PyTorch finds no GPU; add MODEL.DEVICE cpu to the command.")
    check_precision(cfg)
