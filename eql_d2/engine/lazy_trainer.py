"""The trainer for LazyConfig: the same engine, with the parts that a lazy config builds."""

import argparse
import logging
import re
from collections import OrderedDict
from typing import Any

import torch
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.engine import create_ddp_model, default_setup
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

import eql_d2.config  # as a module: it imports engine/config.py, and thereby this package
from eql_d2.data.registration import register_lvis_datasets
from eql_d2.engine.checkpoint import AtomicCheckpointer, fetch_weights
from eql_d2.engine.config_files import find_config
from eql_d2.engine.partial_training import describe_misfits
from eql_d2.engine.resuming import check_run_folder
from eql_d2.engine.setup import (
    check_datasets_by_name,
    check_device,
    check_tracking,
    decide_start,
    hide_user_errors,
    kept_or_new_seed,
    quiet_logging_failures,
    take_run_folder,
)
from eql_d2.engine.start_summary import start_summary
from eql_d2.engine.terminal import log_for_terminal
from eql_d2.engine.trainer import LongTailTrainer
from eql_d2.errors import UserError
from eql_d2.evaluation.results_table import FOR_TERMINAL
from eql_d2.known_warnings import silence_known_warnings
from eql_d2.losses.registry import METHODS
from eql_d2.modeling import LongTailPredictor

logger = logging.getLogger(__name__)

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


def setup_lazy(args: argparse.Namespace) -> DictConfig:
    """Prepare this process for a lazy config: datasets, seed, threads, output folder, logging.

    Args:
        args: arguments of Detectron2's ``default_argument_parser``.

    Returns:
        The config, complete.

    Raises:
        UserError: something in it does not fit; the sentence names the key.
    """
    silence_known_warnings()
    own, args = args, argparse.Namespace(**{**vars(args), "config_file": find_config(args.config_file)})
    cfg = load_lazy_config(args.config_file, args.opts)
    register_lvis_datasets()
    node = engine_config(cfg)
    check_device(node)
    check_tracking(node, args.eval_only)
    check_datasets_by_name(node, args.eval_only)
    own.resume = args.resume = decide_start(node.OUTPUT_DIR, args.resume, args.eval_only)
    if args.eval_only and not (node.MODEL.WEIGHTS or args.resume):
        raise UserError("--eval-only has nothing to evaluate: set train.init_checkpoint, or add --resume.")
    if not args.resume:
        fetch_weights(node.MODEL.WEIGHTS)
    if node.SEED < 0:
        cfg.train.seed = kept_or_new_seed(node.OUTPUT_DIR, args.resume or args.eval_only, _seed_of)
    if node.MODEL.DEVICE == "cpu" and node.ENGINE.CPU_THREADS:
        torch.set_num_threads(node.ENGINE.CPU_THREADS)
    take_run_folder(node.OUTPUT_DIR, args.eval_only)
    with log_for_terminal(), quiet_logging_failures():
        default_setup(cfg, args)
        setup_logger(node.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="eql_d2")
    node.SEED = int(cfg.train.seed)
    summary = start_summary(node, comm.get_world_size(), args.eval_only)
    logger.info("The run:\n%s", summary, extra=FOR_TERMINAL)
    hide_user_errors()
    return cfg


def _seed_of(text: str) -> int:
    """The seed in the text of a run's config.yaml, whose values may be of types that are not to be made."""
    found = re.search(r"^train:\n(?:[ ].*\n)*?  seed: (\d+)$", text, re.MULTILINE)
    if found is None:
        raise UserError("The config.yaml of the run has no train.seed; set train.seed.")
    return int(found[1])


class LazyTrainer(LongTailTrainer):
    """:class:`LongTailTrainer` with the parts that a lazy config builds, and all that it does besides.

    Args:
        cfg: as :func:`setup_lazy` gives it.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.lazy = cfg
        super().__init__(engine_config(cfg))
        # The config beside it says what the engine asks, and builds no model.
        self.checkpointer.description = {**self.checkpointer.description, "lazy_config": True}

    def build_model(self, cfg: CfgNode) -> nn.Module:  # type: ignore[override]
        """The config's model, on its device."""
        try:
            model = instantiate(self.lazy.model).to(cfg.MODEL.DEVICE)
        except ValueError as error:  # of a loss, with the option and its range
            raise UserError(f"The model cannot be built: {error}") from None
        _check_image_level_labels(model, self.lazy.dataloader.train)
        return model

    def build_optimizer(  # type: ignore[override]
        self, cfg: CfgNode, model: nn.Module
    ) -> torch.optim.Optimizer:
        """The config's optimizer."""
        self.lazy.optimizer.params.model = model
        optimizer = instantiate(self.lazy.optimizer)
        self.lazy.optimizer.params.pop("model")  # a config is also written and compared
        return optimizer

    def build_lr_scheduler(  # type: ignore[override]
        self, cfg: CfgNode, optimizer: torch.optim.Optimizer
    ) -> Any:
        """The config's schedule."""
        multiplier = instantiate(self.lazy.lr_multiplier)
        return LRMultiplier(optimizer, multiplier=multiplier, max_iter=cfg.SOLVER.MAX_ITER)

    def build_train_loader(self, cfg: CfgNode, seed: int = 0) -> Any:  # type: ignore[override]
        """The config's loader; one of this project's gets the run's seed and folder."""
        loader = self.lazy.dataloader.train
        own = {"seed": seed, "output_dir": cfg.OUTPUT_DIR} if "names" in loader else {}
        return instantiate(OmegaConf.merge(loader, own))

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model for several processes, by the options of ``train.ddp``."""
        on_cpu = next(model.parameters()).device.type == "cpu"
        options = {"broadcast_buffers": False, **self.lazy.train.ddp} | ({"device_ids": None} if on_cpu else {})
        return create_ddp_model(model, **options)

    def test(  # type: ignore[override]
        self, cfg: CfgNode, model: nn.Module, evaluators: Any = None
    ) -> OrderedDict[str, Any]:
        """Evaluate; see :func:`evaluate_lazy`."""
        return evaluate_lazy(self.lazy, model)

    def test_average(self) -> OrderedDict[str, Any]:
        """As of :class:`LongTailTrainer`, by the config's evaluator."""
        results = evaluate_lazy(self.lazy, self._average.model, "inference_EMA")
        return OrderedDict((f"{key}_EMA", value) for key, value in results.items())


def evaluate_lazy(cfg: DictConfig, model: nn.Module, folder: str = "inference") -> OrderedDict[str, Any]:
    """Evaluate a model by a config's test loader and evaluator.

    Args:
        cfg: as :func:`setup_lazy` gives it.
        model: that the loader's images are for.
        folder: that takes the place of "inference" in the evaluator's ``output_dir``.

    Returns:
        {task: {metric: percent}} on the first process, an empty dict elsewhere or without an evaluator.
    """
    if "evaluator" not in cfg.dataloader:
        return OrderedDict()
    of_evaluator = cfg.dataloader.evaluator
    output_dir = of_evaluator.get("output_dir")
    own = {"output_dir": str(output_dir).replace("/inference/", f"/{folder}/")} if output_dir else {}
    evaluator = instantiate(OmegaConf.merge(of_evaluator, own))
    results = inference_on_dataset(model, instantiate(cfg.dataloader.test), evaluator)
    if comm.is_main_process():
        print_csv_format(results)
    return OrderedDict(results or {})


def load_trained_lazily(cfg: DictConfig, resume: str | bool = False) -> nn.Module:
    """A config's model with the weights of ``train.init_checkpoint``, or of the last checkpoint of its folder.

    Raises:
        UserError: the weights are missing, broken, or of another model.
    """
    model = instantiate(cfg.model).to(cfg.train.device)
    if resume:
        check_run_folder(cfg.train.output_dir, resume)
    checkpointer = AtomicCheckpointer(model, cfg.train.output_dir)
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    if checkpointer.misfits:
        raise UserError(
            f"Weights {cfg.train.init_checkpoint} do not fit the model: {describe_misfits(checkpointer.misfits)}; "
            "evaluate with the config of their training."
        )
    return model


def _check_image_level_labels(model: nn.Module, loader: Any) -> None:
    """Tell before the first step that a predictor waits for labels that the mapper does not bring."""
    wanted = any(isinstance(m, LongTailPredictor) and m.image_level_labels for m in model.modules())
    if wanted and not loader.get("mapper", {}).get("image_level_labels", False):
        raise UserError(
            "The box predictor has image_level_labels=True, but dataloader.train.mapper has not; use "
            "L(LongTailMapper)(..., image_level_labels=True, num_classes=...) there, or set the predictor's to False."
        )
