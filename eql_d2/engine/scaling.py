"""The linear scaling rule: one config for any number of processes."""

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from eql_d2.errors import UserError


def scale_to_processes(cfg: CfgNode, num_processes: int) -> CfgNode:
    """Scale batch, learning rate and schedule from ``SOLVER.REFERENCE_WORLD_SIZE`` processes to those there are.

    Detectron2's rule (Goyal et al., "ImageNet in 1 Hour"): images per process stay; batch and learning rate grow with
    the processes; iterations, steps, warm-up and the periods of checkpoints and evaluations shrink. A period never
    shrinks to 0, which would mean never, and the training never to less than one iteration.

    Args:
        cfg: full config. A reference of 0 switches the rule off.
        num_processes: number of processes (GPUs) that train.

    Returns:
        The config itself where there is nothing to scale, else a copy of it, frozen as it was.

    Raises:
        UserError: the batch cannot be parted evenly among the reference's processes.
    """
    reference, batch = cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.IMS_PER_BATCH
    if reference and (reference < 0 or batch % reference):
        raise UserError(
            f"SOLVER.REFERENCE_WORLD_SIZE is {reference}, by which SOLVER.IMS_PER_BATCH {batch} cannot be divided; "
            "set it to the number of processes that the config is meant for."
        )
    scaled = DefaultTrainer.auto_scale_workers(cfg, num_processes)
    if scaled is cfg:
        return cfg
    frozen = scaled.is_frozen()
    scaled.defrost()
    scaled.SOLVER.MAX_ITER = max(scaled.SOLVER.MAX_ITER, 1)
    scaled.SOLVER.CHECKPOINT_PERIOD = max(scaled.SOLVER.CHECKPOINT_PERIOD, 1)
    if cfg.TEST.EVAL_PERIOD > 0:
        scaled.TEST.EVAL_PERIOD = max(scaled.TEST.EVAL_PERIOD, 1)
    if frozen:
        scaled.freeze()
    return scaled
