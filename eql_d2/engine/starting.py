"""What a training starts with: the last checkpoint of its run, or ``MODEL.WEIGHTS``."""

import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from eql_d2.engine.checkpoint import AtomicCheckpointer, describe_misfits
from eql_d2.engine.class_transfer import class_transfer_of
from eql_d2.engine.compatibility import check_resumable, class_difference, class_names, dataset_with_names
from eql_d2.engine.description import read_description
from eql_d2.engine.partial_training import check_frozen_are_loaded
from eql_d2.engine.resuming import check_run_folder, checkpoint_to_resume
from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

# Options of the optimizer, which is part of checkpoints.
KEPT_BY_RESUME = {
    "initial_lr": "SOLVER.BASE_LR",
    "momentum": "SOLVER.MOMENTUM",
    "weight_decay": "SOLVER.WEIGHT_DECAY",
}


def load_run(trainer: DefaultTrainer, resume: str | bool) -> None:
    """Continue from the last checkpoint, or start from ``MODEL.WEIGHTS``.

    Args:
        trainer: a ``LongTailTrainer`` before its first step; gets the weights and, of a run that goes on, all else of
            the checkpoint.
        resume: continue; "last-good" from the newest whole checkpoint.

    Raises:
        UserError: there is nothing to resume, it is of another model, or there is a run that a new one would
            overwrite.
    """
    cfg, checkpointer = trainer.cfg, trainer.checkpointer
    check_run_folder(cfg.OUTPUT_DIR, resume)
    checkpointer.exclude = () if resume else cfg.MODEL.WEIGHTS_EXCLUDE
    if resume:
        path = str(checkpoint_to_resume(cfg.OUTPUT_DIR, resume))
        check_resumable(path, read_description(path), cfg)
    else:
        _prepare_classes(cfg, checkpointer)
    configured = dict(trainer.optimizer.param_groups[0])
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    if resume:
        trainer.start_iter = trainer.iter + 1  # that of the checkpoint is done
    trained = {name for name, _ in checkpointer.model.named_parameters()}
    lost = {name: why for name, why in checkpointer.misfits.items() if resume and name in trained}
    if lost:
        raise UserError(
            f"--resume: the last checkpoint of {cfg.OUTPUT_DIR} is of another model ({describe_misfits(lost)}); set "
            "the model's keys as they were, or start anew in another OUTPUT_DIR."
        )
    _tell_what_is_kept(configured, trainer.optimizer.param_groups[0])
    if cfg.SOLVER.TRAINABLE and not resume:
        check_frozen_are_loaded(checkpointer.model, checkpointer, cfg.MODEL.WEIGHTS)
    trainer.data_loader.start_iteration = trainer.start_iter


def _tell_what_is_kept(configured: dict[str, Any], kept: dict[str, Any]) -> None:
    """Warn of options of the optimizer that the config changes and the checkpoint keeps."""
    for name, key in KEPT_BY_RESUME.items():
        if name in configured and configured[name] != kept[name]:  # AdamW has no momentum
            logger.warning(
                "%s is %g, but a resumed run keeps that of its checkpoint, %g; start anew to change it.",
                key,
                configured[name],
                kept[name],
            )


def _prepare_classes(cfg: CfgNode, checkpointer: AtomicCheckpointer) -> None:
    """Say what becomes of the classes of ``MODEL.WEIGHTS``, if they are others."""
    weights, dataset = cfg.MODEL.WEIGHTS, dataset_with_names(cfg)
    if not (weights and dataset):
        return
    description = read_description(weights)
    if cfg.MODEL.WEIGHTS_MATCH_CLASSES:
        checkpointer.class_transfer = class_transfer_of(weights, description, dataset[1])
        return
    difference = class_difference(description, cfg)
    if difference and len(class_names(description) or ()) == len(dataset[1]):
        logger.warning(
            "MODEL.WEIGHTS %s has %s; the weights of its classes are taken by their places. With "
            "MODEL.WEIGHTS_MATCH_CLASSES True they are taken by names.",
            *(weights, difference),
        )
