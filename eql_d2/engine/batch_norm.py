"""Statistics of normalization layers that train, the same on all processes whenever a model is saved or evaluated."""

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from eql_d2.engine.weight_average import AverageWeights
from eql_d2.losses.distributed import sum_over_processes


class AverageBatchNorm(HookBase):
    """Gives all processes the mean of their running statistics before they save or evaluate.

    Each process has seen other images. Without it the checkpoint holds the first one's statistics, and each process
    evaluates its part of the test set by its own: a number that no reader of the checkpoint can repeat.

    Args:
        cfg: full config.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self._periods = [period for period in (cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD) if period > 0]

    def after_step(self) -> None:
        """Average them, if it is time."""
        iteration = self.trainer.iter + 1
        is_due = iteration == self.trainer.max_iter or any(iteration % period == 0 for period in self._periods)
        if is_due and comm.get_world_size() > 1:
            for model in self._models():
                average_statistics(model)

    def _models(self) -> list[nn.Module]:
        """The model that trains, and its moving average where there is one."""
        hooks = getattr(self.trainer, "_hooks", ())
        return [self.trainer.model, *(hook.model for hook in hooks if isinstance(hook, AverageWeights))]

    def local_state(self) -> list[dict[str, Tensor]]:
        """This process's own statistics, for a checkpoint between two averages."""
        return [
            {name: tensor.cpu().clone() for name, tensor in training_statistics(model).items()}
            for model in self._models()
        ]

    def load_local_state(self, state: list[dict[str, Tensor]]) -> None:
        """Take back :meth:`local_state`."""
        for model, statistics in zip(self._models(), state, strict=True):
            buffers = dict(model.named_buffers())
            for name, kept in statistics.items():
                buffers[name].copy_(kept)


def training_statistics(model: nn.Module) -> dict[str, Tensor]:
    """The running means and variances that steps change, by name; not those that are frozen."""
    return {
        f"{name}.{kind}" if name else kind: getattr(layer, kind)
        for name, layer in model.named_modules()
        if isinstance(layer, _NormBase) and layer.training and layer.running_mean is not None
        for kind in ("running_mean", "running_var")
    }


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Put the mean over all processes in place of each process's running statistics; all of them have to call it."""
    statistics = list(training_statistics(model).values())
    if not statistics:
        return
    total = sum_over_processes(torch.cat([tensor.float() for tensor in statistics]))
    means = (total / comm.get_world_size()).split([len(tensor) for tensor in statistics])
    for tensor, mean in zip(statistics, means, strict=True):
        tensor.copy_(mean)
