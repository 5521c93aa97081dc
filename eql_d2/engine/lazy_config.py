"""Lazy configs: read, completed, and told to the engine in the keys of this project's own configs."""

from typing import Any

from detectron2.config import CfgNode, LazyConfig
from omegaconf import DictConfig, OmegaConf

import eql_d2.config  # as a module: it imports engine/config.py, and thereby this package
from eql_d2.engine.config_files import find_config
from eql_d2.errors import UserError
from eql_d2.losses.registry import METHODS

TRAIN_DEFAULTS: dict[str, Any] = {
    "output_dir": "./output",
    "init_checkpoint": "",
    "seed": -1,
    "device": "cuda",
    "amp": {"enabled": False, "dtype": "float16"},
    "ema": {"enabled": False, "decay": 0.999},
    "best_metric": "",
    "ddp": {},
    "checkpointer": {"period": 5000},
    "eval_period": 5000,
    "watch_period": 100,
    "cpu_threads": 0,
    "collective_timeout": 30.0,
    "stop_grace": 25.0,
    "trackers": [],
    "tracker_project": "eql_d2",
    "trainable": [],
    "weights_exclude": [],
}
"""What a config's ``train`` may leave out: Detectron2's keys, and those of this project, which mean what
``ENGINE.WATCH_PERIOD``, ``ENGINE.CPU_THREADS``, ``ENGINE.COLLECTIVE_TIMEOUT``, ``ENGINE.STOP_GRACE``,
``ENGINE.TRACKERS``, ``ENGINE.TRACKER_PROJECT``,
``SOLVER.TRAINABLE``, ``MODEL.WEIGHTS_EXCLUDE``, ``SOLVER.AMP``, ``SOLVER.EMA`` and ``SOLVER.BEST_METRIC`` mean."""


def load_lazy_config(config_file: str, overrides: list[str] | None = None) -> DictConfig:
    """Read a lazy config, which is a program, and apply overrides.

    Args:
        config_file: Python file, or the name of one of this project's, as ``lazy/LVISv1/mask_rcnn_R50_FPN/eql.py``.
        overrides: as ``train.max_iter=100``.

    Raises:
        UserError: the file is missing, or an override does not fit.
    """
    config_file = find_config(config_file)
    if not config_file.endswith(".py"):
        raise UserError(f"{config_file} is no lazy config, which is a Python file; train it with tools/train_net.py.")
    cfg = LazyConfig.load(config_file)
    for key in ("model", "optimizer", "lr_multiplier", "dataloader", "train"):
        if key not in cfg:
            raise UserError(f"Config file {config_file} has no {key!r}; see configs/lazy for what one needs.")
    try:
        cfg = LazyConfig.apply_overrides(cfg, overrides or [])
    except Exception as error:  # of hydra's parser and of omegaconf, which have a class for each mistake
        raise UserError(f"The overrides {overrides} do not fit: {str(error).splitlines()[0]}") from None
    cfg.train = OmegaConf.merge(OmegaConf.create(TRAIN_DEFAULTS), cfg.train)
    return cfg


def engine_config(cfg: DictConfig) -> CfgNode:
    """What the engine asks a config of this project, taken from a lazy one.

    Args:
        cfg: with ``train`` as :func:`load_lazy_config` completes it.
    """
    node = eql_d2.config.get_eql_d2_config()
    train, loader, roi_heads = cfg.train, cfg.dataloader, cfg.model.get("roi_heads", {})
    node.OUTPUT_DIR, node.SEED, node.VERSION = str(train.output_dir), int(train.seed), 2
    node.MODEL.DEVICE, node.MODEL.WEIGHTS = str(train.device), str(train.init_checkpoint or "")
    node.MODEL.WEIGHTS_EXCLUDE = tuple(train.weights_exclude)
    node.MODEL.ROI_HEADS.NUM_CLASSES = int(roi_heads.get("num_classes", node.MODEL.ROI_HEADS.NUM_CLASSES))
    node.MODEL.MASK_ON = "mask_head" in roi_heads
    node.MODEL.ROI_BOX_HEAD.PREDICTOR = _predictor_name(roi_heads)
    mapper = loader.train.get("mapper") or {}
    node.INPUT.MASK_FORMAT = str(mapper.get("instance_mask_format", "polygon"))
    node.DATASETS.TRAIN = _dataset_names(loader.get("train"))
    node.DATASETS.TEST = _dataset_names(loader.get("test"))
    node.DATALOADER.SAMPLER_TRAIN = str(loader.train.get("sampler") or "TrainingSampler")
    node.SOLVER.IMS_PER_BATCH = int(loader.train.total_batch_size)
    node.SOLVER.MAX_ITER = int(train.max_iter)
    node.SOLVER.CHECKPOINT_PERIOD = int(train.checkpointer.get("period", 5000))
    node.SOLVER.AMP.ENABLED, node.SOLVER.AMP.DTYPE = bool(train.amp.enabled), str(train.amp.dtype)
    node.SOLVER.EMA.ENABLED, node.SOLVER.EMA.DECAY = bool(train.ema.enabled), float(train.ema.decay)
    node.SOLVER.BEST_METRIC = str(train.best_metric)
    node.SOLVER.MAX_CHECKPOINTS = int(train.checkpointer.get("max_to_keep") or 0)
    node.SOLVER.TRAINABLE = tuple(train.trainable)
    for key, name in (("BASE_LR", "lr"), ("MOMENTUM", "momentum"), ("WEIGHT_DECAY", "weight_decay")):
        node.SOLVER[key] = float(cfg.optimizer.get(name, node.SOLVER[key]))
    predictor = _first_predictor(roi_heads)
    node.MODEL.ROI_HEADS.SCORE_THRESH_TEST = float(predictor.get("test_score_thresh", 0.0))
    node.TEST.DETECTIONS_PER_IMAGE = int(predictor.get("test_topk_per_image", 100))
    node.TEST.EVAL_PERIOD = int(train.eval_period)
    node.ENGINE.WATCH_PERIOD, node.ENGINE.CPU_THREADS = int(train.watch_period), int(train.cpu_threads)
    node.ENGINE.TRACKERS, node.ENGINE.TRACKER_PROJECT = tuple(train.trackers), str(train.tracker_project)
    return node


def _first_predictor(roi_heads: Any) -> Any:
    """The options of the first box predictor, Detectron2's or this project's; empty if there is none."""
    return roi_heads.get("box_predictor") or next(iter(roi_heads.get("box_predictors", ())), {})


def _predictor_name(roi_heads: Any) -> str:
    """The name by which YAML configs know the method of the first box predictor."""
    predictor = _first_predictor(roi_heads)
    method = (predictor.get("loss") or {}).get("method")
    return METHODS[method].predictor if method in METHODS else str(predictor.get("_target_", ""))


def _dataset_names(loader: Any) -> tuple[str, ...]:
    """The datasets of a lazy loader: of this project's, or of Detectron2's."""
    if loader is None:
        return ()
    names = loader.get("names") or loader.get("name") or loader.get("dataset", {}).get("names", ())
    return (names,) if isinstance(names, str) else tuple(names)
