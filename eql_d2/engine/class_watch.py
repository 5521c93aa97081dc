"""Watching what a method balances: gradients and loss state of each class during training."""

import csv
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor

from eql_d2.long_tail import CategoryCounts
from eql_d2.losses.distributed import sum_over_processes
from eql_d2.losses.stateful import StatefulLoss
from eql_d2.modeling import LongTailPredictor
from eql_d2.modeling.gradient_sums import GradientSums
from eql_d2.plain_files import csv_text

PERCENTILES = (10, 50, 90)
FILE_NAME = "class_gradients.csv"


class WatchClasses(HookBase):
    """Logs positive and negative gradient sums, their ratio, and the loss's own state, by group and as percentiles.

    The sums are over the whole training and all processes; they survive a restart. Each predictor (stage of a
    Cascade) is watched by itself. With every checkpoint the classes' values are written to
    ``class_gradients.csv`` in the run's folder.

    Args:
        counts: of the training data.
        output_dir: folder of the run.
        period: iterations between two logs, at least 1 (``ENGINE.WATCH_PERIOD``).
        checkpoint_period: iterations between two checkpoints, at least 1.
    """

    def __init__(self, counts: CategoryCounts, output_dir: str | Path, period: int, checkpoint_period: int) -> None:
        self._period = period
        self._checkpoint_period = checkpoint_period
        self._folder = Path(output_dir)
        self._counts = counts
        self._sums = torch.zeros(0)  # (predictors, 2, K) once training starts
        self._recent: list[Tensor] = []

    def before_train(self) -> None:
        """Give each predictor a collector."""
        modules = self.trainer.model.modules()
        self._predictors = [module for module in modules if isinstance(module, LongTailPredictor)]
        for predictor in self._predictors:
            columns = predictor.loss.class_columns.to(predictor.cls_score.weight.device)
            predictor.gradient_sums = GradientSums(columns)
        for predictor, recent in zip(self._predictors, self._recent, strict=False):
            predictor.gradient_sums.recent = recent
        if not len(self._sums):
            self._sums = torch.zeros(len(self._predictors), 2, self._counts.num_classes, dtype=torch.float64)

    def before_step(self) -> None:
        """Tell the collectors what mixed precision multiplies the loss by."""
        scaler = getattr(self.trainer._trainer, "grad_scaler", None)
        if scaler is not None and self._predictors:
            device = self._predictors[0].cls_score.weight.device
            scale = scaler.scale(torch.ones((), device=device))  # without waiting for the GPU
            for predictor in self._predictors:
                predictor.gradient_sums.loss_scale = scale

    def after_step(self) -> None:
        """Log every so often."""
        iteration = self.trainer.iter + 1
        to_log, to_keep = iteration % self._period == 0, self._is_checkpoint(iteration)
        if self._predictors and (to_log or to_keep):
            self._collect()
            if to_log:
                self._log()
            if to_keep and comm.is_main_process():
                self._write_file()

    def _is_checkpoint(self, iteration: int) -> bool:
        return iteration % self._checkpoint_period == 0 or iteration == self.trainer.max_iter

    def _collect(self) -> None:
        recent = torch.stack([predictor.gradient_sums.take_recent() for predictor in self._predictors])
        self._sums += sum_over_processes(recent).cpu()

    def _log(self) -> None:
        for name, values in self._quantities():
            self.trainer.storage.put_scalars(**summary(name, values, self._counts), smoothing_hint=False)

    def _quantities(self) -> list[tuple[str, Tensor]]:
        """(name, (K,) values) of all predictors."""
        quantities = []
        for stage, (predictor, (positive, negative)) in enumerate(zip(self._predictors, self._sums, strict=True)):
            prefix = f"classes_stage{stage}" if len(self._predictors) > 1 else "classes"
            quantities.append((f"{prefix}/positive_gradient", positive))
            quantities.append((f"{prefix}/negative_gradient", negative))
            quantities.append((f"{prefix}/gradient_ratio", positive / negative.clamp(min=1e-10)))
            if isinstance(predictor.loss, StatefulLoss):
                state = predictor.loss.class_state()
                quantities += [(f"{prefix}/{name}", values.cpu().double()) for name, values in state.items()]
        return quantities

    def _write_file(self) -> None:
        quantities = self._quantities()
        partial = self._folder / f".{FILE_NAME}.partial"
        with open(partial, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["category_id", "name", "frequency", "image_count", *(name for name, _ in quantities)])
            columns = zip(*(values.tolist() for _, values in quantities), strict=True)
            counts = self._counts
            names = map(csv_text, counts.names)
            facts = zip(counts.category_ids, names, counts.frequency_groups, counts.image_counts, strict=True)
            writer.writerows(
                (*fact, *(f"{v:.6g}" for v in values)) for fact, values in zip(facts, columns, strict=True)
            )
        partial.replace(self._folder / FILE_NAME)

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, of all processes."""
        if not len(self._sums):
            return {}
        return {"sums": self._sums}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the sums of a checkpoint."""
        self._sums = state_dict["sums"]

    def local_state(self) -> list[Tensor]:
        """This process's sums since the last log, for a checkpoint between two logs."""
        return [predictor.gradient_sums.recent.cpu().clone() for predictor in self._predictors]

    def load_local_state(self, state: list[Tensor]) -> None:
        """Take back :meth:`local_state`."""
        self._recent = state


def summary(name: str, values: Tensor, counts: CategoryCounts) -> dict[str, float]:
    """Mean over the classes of each frequency group, and percentiles over all classes.

    Args:
        name: what the values are.
        values: (K,).
        counts: the classes' counts.

    Returns:
        Scalars such as ``NAME_r`` (absent for a group without classes) and ``NAME_p50``.
    """
    groups = counts.frequency_groups
    scalars = {}
    for letter in "rcf":
        members = values[[group == letter for group in groups]]
        if len(members):
            scalars[f"{name}_{letter}"] = members.mean().item()
    quantiles = torch.quantile(values, torch.tensor([p / 100 for p in PERCENTILES], dtype=values.dtype))
    return scalars | {f"{name}_p{p}": value.item() for p, value in zip(PERCENTILES, quantiles, strict=True)}
