"""The trainer for LazyConfig: the same engine, with the parts that a lazy config builds."""

import argparse
import logging
import re
from collections import OrderedDict
from typing import Any

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.engine import create_ddp_model
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn

from eql_d2.data.registration import register_lvis_datasets
from eql_d2.engine.checkpoint import AtomicCheckpointer, fetch_weights
from eql_d2.engine.config_files import find_config
from eql_d2.engine.gpu_memory import IN_TESTING, lack_of_memory_told
from eql_d2.engine.lazy_config import engine_config, load_lazy_config
from eql_d2.engine.partial_training import describe_misfits
from eql_d2.engine.resuming import check_run_folder
from eql_d2.engine.run_start import decide_start, kept_or_new_seed, start_run
from eql_d2.engine.setup import check_datasets_by_name, check_device, check_tracking
from eql_d2.engine.start_summary import start_summary
from eql_d2.engine.trainer import LongTailTrainer
from eql_d2.errors import UserError
from eql_d2.evaluation.results_table import FOR_TERMINAL
from eql_d2.known_warnings import silence_known_warnings
from eql_d2.modeling import LongTailPredictor

logger = logging.getLogger(__name__)


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
    start_run(cfg, args, node.OUTPUT_DIR, "train.output_dir")
    node.SEED = int(cfg.train.seed)
    summary = start_summary(node, comm.get_world_size(), args.eval_only)
    logger.info("The run:\n%s", summary, extra=FOR_TERMINAL)
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
        model = _built("The model", self.lazy.model).to(cfg.MODEL.DEVICE)
        _check_image_level_labels(model, self.lazy.dataloader.train)
        return model

    def build_optimizer(  # type: ignore[override]
        self, cfg: CfgNode, model: nn.Module
    ) -> torch.optim.Optimizer:
        """The config's optimizer."""
        self.lazy.optimizer.params.model = model
        optimizer = _built("The optimizer", self.lazy.optimizer)
        self.lazy.optimizer.params.pop("model")  # a config is also written and compared
        return optimizer

    def build_lr_scheduler(  # type: ignore[override]
        self, cfg: CfgNode, optimizer: torch.optim.Optimizer
    ) -> Any:
        """The config's schedule."""
        multiplier = _built("lr_multiplier, which has to suit train.max_iter,", self.lazy.lr_multiplier)
        return LRMultiplier(optimizer, multiplier=multiplier, max_iter=cfg.SOLVER.MAX_ITER)

    def build_train_loader(self, cfg: CfgNode, seed: int = 0) -> Any:  # type: ignore[override]
        """The config's loader; one of this project's gets the run's seed and folder."""
        loader = self.lazy.dataloader.train
        own = {"seed": seed, "output_dir": cfg.OUTPUT_DIR} if "names" in loader else {}
        return _built("dataloader.train", OmegaConf.merge(loader, own))

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
    evaluator = _built("dataloader.evaluator", OmegaConf.merge(of_evaluator, own))
    loader = _built("dataloader.test", cfg.dataloader.test)
    with lack_of_memory_told("evaluation", IN_TESTING):
        results = inference_on_dataset(model, loader, evaluator)
    if comm.is_main_process():
        print_csv_format(results)
    return OrderedDict(results or {})


def load_trained_lazily(cfg: DictConfig, resume: str | bool = False) -> nn.Module:
    """A config's model with the weights of ``train.init_checkpoint``, or of the last checkpoint of its folder.

    Raises:
        UserError: the weights are missing, broken, or of another model.
    """
    model = _built("The model", cfg.model).to(cfg.train.device)
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


def _built(name: str, part: Any) -> Any:
    """A part of a lazy config, instantiated.

    Raises:
        UserError: a value is out of its range, or there is no such argument.
    """
    try:
        return instantiate(part)
    except ValueError as error:  # of a loss, say, with the option and its range
        raise UserError(f"{name} cannot be built: {error}") from None
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise UserError(f"{name} cannot be built: {error}.") from None


def _check_image_level_labels(model: nn.Module, loader: Any) -> None:
    """Tell before the first step that a predictor waits for labels that the mapper does not bring."""
    wanted = any(isinstance(m, LongTailPredictor) and m.image_level_labels for m in model.modules())
    if wanted and not loader.get("mapper", {}).get("image_level_labels", False):
        raise UserError(
            "The box predictor has image_level_labels=True, but dataloader.train.mapper has not; use "
            "L(LongTailMapper)(..., image_level_labels=True, num_classes=...) there, or set the predictor's to False."
        )
