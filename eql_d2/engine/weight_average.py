"""The exponential moving average (EMA) of a model: of its weights, and of what batch norm and losses collect."""

from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from eql_d2.engine.checkpoint import AtomicCheckpointer
from eql_d2.errors import UserError

NAME = "model_final_ema"


class AverageWeights(HookBase):
    """Averages the model after each step; part of the checkpoints, so that a resumed run goes on exactly.

    Parameters and buffers are averaged by PyTorch's ``AveragedModel``: m ← d m + (1 - d) w, from m = w after the first
    step. With the last step the average is written as ``model_final_ema.pth``, to be evaluated or predicted with.

    Args:
        model: that trains, not wrapped.
        decay: d in (0, 1), see ``SOLVER.EMA.DECAY``.

    Raises:
        UserError: the decay is out of its range.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise UserError(f"SOLVER.EMA.DECAY is {decay}; it must lie strictly between 0 and 1, such as 0.999.")
        self._source = model
        self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    @property
    def model(self) -> nn.Module:
        """The averaged model."""
        return self._average.module

    def after_step(self) -> None:
        """Take the new weights in."""
        self._average.update_parameters(self._source)

    def after_train(self) -> None:
        """Write the average, if training has come to its end."""
        checkpointer = self.trainer.checkpointer
        if self.trainer.iter < self.trainer.max_iter or not comm.is_main_process():
            return
        own = AtomicCheckpointer(self.model, checkpointer.save_dir)
        own.description, own.is_last = checkpointer.description, False
        own.save(NAME, iteration=self.trainer.iter - 1)

    def state_dict(self) -> dict[str, Any]:
        """The average so far."""
        return self._average.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._average.load_state_dict(state_dict)
