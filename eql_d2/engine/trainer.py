"""The trainer: Detectron2's, on GPUs or CPU processes, with runs that resume exactly."""

import logging
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, TrainerBase, create_ddp_model
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer, PeriodicWriter
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter
from torch import nn

from eql_d2.data.category_counts import category_counts
from eql_d2.data.training.loader import TrainLoader, build_train_loader
from eql_d2.data.training.seeding import derived_seed
from eql_d2.engine.batch_norm import AverageBatchNorm
from eql_d2.engine.checkpoint import AtomicCheckpointer
from eql_d2.engine.class_watch import WatchClasses
from eql_d2.engine.compatibility import check_optimizer
from eql_d2.engine.description import describe_run
from eql_d2.engine.evaluating import EvaluatingTrainer
from eql_d2.engine.gpu_memory import IN_TRAINING, lack_of_memory_told
from eql_d2.engine.kept_checkpoints import KeepBest, limit_kept
from eql_d2.engine.ledger.writing import RunClock, WriteLedger
from eql_d2.engine.metrics_file import (
    METRICS_FILE,
    KeepScalars,
    MetricsFile,
    RepeatMissedEvaluation,
    TensorboardFile,
    WriteMetrics,
)
from eql_d2.engine.optimizer import OPTIMIZERS, build_adamw, layer_factors, scale_learning_rates
from eql_d2.engine.partial_training import FreezeBatchNorm, freeze_all_but
from eql_d2.engine.precision import build_step
from eql_d2.engine.resuming import FinishRun
from eql_d2.engine.scaling import scale_to_processes
from eql_d2.engine.starting import load_run
from eql_d2.engine.stopping import RunStopped, StopWhenAsked
from eql_d2.engine.trackers import build_trackers
from eql_d2.engine.unreadable_count import CountUnreadableImages
from eql_d2.engine.weight_average import AverageWeights
from eql_d2.errors import UserError

logger = logging.getLogger(__name__)


class LongTailTrainer(EvaluatingTrainer):
    """Detectron2's trainer with this project's loader, evaluator, checkpoints and seeding.

    All that is random in a step follows from (seed, iteration, process): a run that was stopped and resumed
    ends with the weights of one that was not.

    Args:
        cfg: full config. A negative ``SEED`` draws one.
    """

    def __init__(self, cfg: CfgNode) -> None:
        TrainerBase.__init__(self)  # DefaultTrainer's own constructor wraps models for GPUs only
        cfg = scale_to_processes(cfg, comm.get_world_size())
        self.cfg = cfg
        self.seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed() % 2**31
        torch.manual_seed(self.seed)  # the same initial weights on all processes, whatever came before
        model = self.build_model(cfg)
        freeze_all_but(model, cfg.SOLVER.TRAINABLE)
        optimizer = self.build_optimizer(cfg, model)
        self._trainer = build_step(cfg, self.wrap(model), self.build_train_loader(cfg, self.seed), optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = AtomicCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.checkpointer.description = describe_run(cfg)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Detectron2's SGD or AdamW (``SOLVER.OPTIMIZER``), with ``SOLVER.LAYER_DECAY``.

        Raises:
            UserError: one of the keys is out of its range.
        """
        if cfg.SOLVER.OPTIMIZER not in OPTIMIZERS:
            raise UserError(f"SOLVER.OPTIMIZER is {cfg.SOLVER.OPTIMIZER!r}; it must be {' or '.join(OPTIMIZERS)}.")
        factors = layer_factors(model, cfg.SOLVER.LAYER_DECAY) if cfg.SOLVER.LAYER_DECAY != 1 else {}
        optimizer = build_adamw(cfg, model) if cfg.SOLVER.OPTIMIZER == "AdamW" else super().build_optimizer(cfg, model)
        scale_learning_rates(optimizer, model, factors)
        return optimizer

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as the training step uses it, see :func:`wrap_for_processes`."""
        return wrap_for_processes(model)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model that the config describes.

        Raises:
            UserError: a part of it has a name that Detectron2 does not know.
        """
        try:
            return super().build_model(cfg)
        except KeyError as error:
            if "registry" not in str(error):
                raise
            raise UserError(f"The model cannot be built: {error.args[0]}") from None

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """Detectron2's learning rate over the iterations.

        Raises:
            UserError: ``SOLVER.STEPS`` do not lie within ``SOLVER.MAX_ITER``, or not in order.
        """
        try:
            return super().build_lr_scheduler(cfg, optimizer)
        except (AssertionError, ValueError) as error:
            raise UserError(
                f"SOLVER.STEPS {tuple(cfg.SOLVER.STEPS)} with SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER} and "
                f"SOLVER.LR_SCHEDULER_NAME {cfg.SOLVER.LR_SCHEDULER_NAME} give no schedule ({error}); each step must "
                "be less than MAX_ITER and more than the one before."
            ) from None

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, seed: int = 0) -> TrainLoader:
        """The loader of this process's training batches."""
        return build_train_loader(cfg, seed)

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks, after this project's."""
        hooks: list[HookBase | None] = [KeepScalars(), SeedEachStep()]
        if self.cfg.SOLVER.EMA.ENABLED:  # before the hook that writes checkpoints, which hold the average
            self._average = AverageWeights(self.checkpointer.model, self.cfg.SOLVER.EMA.DECAY)
            hooks.append(self._average)
        if isinstance(self.data_loader, TrainLoader):  # a subclass may build another
            hooks.append(CountUnreadableImages(self.cfg, self.data_loader.unreadable))
        if self.cfg.SOLVER.TRAINABLE:
            hooks.append(FreezeBatchNorm())
        if self.cfg.ENGINE.WATCH_PERIOD > 0:
            try:
                counts = category_counts(self.cfg)
            except UserError as error:  # a method without need of counts trains without them
                logger.warning("Classes are not watched: %s", error)
            else:
                periods = (self.cfg.ENGINE.WATCH_PERIOD, self.cfg.SOLVER.CHECKPOINT_PERIOD)
                hooks.append(WatchClasses(counts, self.cfg.OUTPUT_DIR, *periods))
        clock = RunClock()
        hooks += [clock, *self._hooks_of_detectron2(), WriteLedger(self.cfg, clock)]
        return hooks

    def _hooks_of_detectron2(self) -> list[HookBase | None]:
        hooks: list[HookBase | None] = [hook for hook in super().build_hooks() if hook is not None]
        writer = [place for place, hook in enumerate(hooks) if isinstance(hook, PeriodicWriter)]
        for place in writer:  # on the first process
            hooks[place] = WriteMetrics(self._writers)
        evaluation = next(place for place, hook in enumerate(hooks) if isinstance(hook, EvalHook))
        before = [
            StopWhenAsked(self.checkpointer, self.cfg.TEST.EVAL_PERIOD),
            FinishRun(self.checkpointer),
            RepeatMissedEvaluation(self.cfg.TEST.EVAL_PERIOD, self._evaluate_all, self._metrics_file),
        ]
        if self.cfg.TEST.AUG.ENABLED:
            # Right after the evaluation without it, and before the hook that writes metrics to files.
            hooks.insert(evaluation + 1, EvalHook(0, lambda: self.test_with_TTA(self.cfg, self.model)))
        hooks[evaluation:evaluation] = before
        saving = (PeriodicCheckpointer, StopWhenAsked)
        place = next(place for place, hook in enumerate(hooks) if isinstance(hook, saving))
        hooks.insert(place, AverageBatchNorm(self.cfg))
        self._add_hooks_of_checkpoints(hooks)
        return hooks

    @property
    def _metrics_file(self) -> Path:
        return Path(self.cfg.OUTPUT_DIR, METRICS_FILE)

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's writers to the console, ``metrics.json`` and TensorBoard, for runs that resume, and trackers."""
        writers = [
            CommonMetricPrinter(self.max_iter),
            MetricsFile(self._metrics_file),
            TensorboardFile(self.cfg.OUTPUT_DIR),
            *build_trackers(self.cfg),
        ]
        self._writers = writers
        return writers

    def train(self) -> OrderedDict[str, Any] | None:
        """Train, evaluate and write the ledger.

        Returns:
            What Detectron2's trainer does.

        Raises:
            RunStopped: a signal stopped it; a checkpoint is written where there is one to write.
        """
        try:
            return super().train()
        except RunStopped as stop:
            for hook in self._hooks:
                if isinstance(hook, StopWhenAsked):
                    hook.save()
                if isinstance(hook, WriteMetrics):
                    hook.close()
            raise RunStopped(stop.signal_number, self.checkpointer.get_checkpoint_file()) from None

    def _add_hooks_of_checkpoints(self, hooks: list[HookBase | None]) -> None:
        """Put what the average, the best and the number of checkpoints need beside Detectron2's own hooks."""
        solver, period = self.cfg.SOLVER, self.cfg.TEST.EVAL_PERIOD
        place = max(i for i, hook in enumerate(hooks) if isinstance(hook, EvalHook))
        if solver.BEST_METRIC and comm.is_main_process():
            hooks.insert(place + 1, KeepBest(period, self.checkpointer, solver.BEST_METRIC))
        if solver.EMA.ENABLED:
            hooks.insert(place + 1, EvalHook(period, self.test_average))
        for hook in hooks:
            if isinstance(hook, PeriodicCheckpointer):
                limit_kept(hook, self.cfg.OUTPUT_DIR, solver.MAX_CHECKPOINTS)

    def run_step(self) -> None:
        """One training step.

        Raises:
            UserError: a loss is infinite or NaN, or the GPU has not enough memory; the sentence names the iteration.
        """
        try:
            with lack_of_memory_told(f"iteration {self.iter}", IN_TRAINING):
                super().run_step()
        except FloatingPointError as error:
            raise UserError(
                f"{' '.join(str(error).split())}; lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_ITERS or set "
                "SOLVER.CLIP_GRADIENTS.ENABLED True."
            ) from None

    def resume_or_load(self, resume: str | bool = True) -> None:
        """Continue from the last checkpoint, or start from ``MODEL.WEIGHTS``; see :func:`load_run`."""
        load_run(self, resume)

    def state_dict(self) -> dict[str, Any]:
        """State of hooks, optimizer and gradient scaler, in the form of Detectron2's main branch (v0.6 forgets
        the optimizer)."""
        return {**TrainerBase.state_dict(self), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        check_optimizer(state_dict["_trainer"]["optimizer"], self.optimizer)
        TrainerBase.load_state_dict(self, state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])


class SeedEachStep(HookBase):
    """Seeds PyTorch before each step, so that sampling of proposals does not depend on earlier steps."""

    def before_step(self) -> None:
        """Seed from the run's seed, the iteration and the process."""
        torch.manual_seed(derived_seed(self.trainer.seed, self.trainer.iter, comm.get_rank()))


def wrap_for_processes(model: nn.Module) -> nn.Module:
    """Wrap a model for training by several processes; a single process gets it back as it is.

    Detectron2's wrapper names the process's GPU, which a model on the CPU refuses.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    options = {"device_ids": None} if on_cpu else {}
    return create_ddp_model(model, broadcast_buffers=False, **options)
