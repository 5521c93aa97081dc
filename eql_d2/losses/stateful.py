"""State that a loss collects over all training steps, and that checkpoints keep."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from eql_d2.losses.base import ClassificationLoss


class StatefulLoss(ClassificationLoss):
    """A mixin for losses with numbers that they collect in training mode and that checkpoints keep.

    It goes before the loss that it extends, ``class MyLoss(StatefulLoss, SigmoidLoss)``, whose constructor then calls
    :meth:`register_state`. The state is persistent buffers in float32, or in float64 where the module is cast to
    that. A cast to half precision, which cannot hold sums over a training run, leaves them in float32. A checkpoint
    without them (of a training without this loss) starts them afresh with a warning, also in strict mode.
    """

    def register_state(self, shape: Sequence[int] | None = None, **initial: float) -> None:
        """Add buffers to the state.

        Args:
            shape: of each; None is (K,), one number for each class.
            initial: what each starts from, by name; a bool makes it a bool buffer.
        """
        shape = (self.num_classes,) if shape is None else tuple(shape)
        for name, value in initial.items():
            dtype = torch.bool if isinstance(value, bool) else torch.float32
            self.register_buffer(name, torch.full(shape, value, dtype=dtype))
        self.initial_state: dict[str, float] = {**getattr(self, "initial_state", {}), **initial}

    def class_state(self) -> dict[str, Tensor]:
        """The part of the state that has one number for each class, (K,), by name."""
        return {name: value for name, value in self.state_dict().items() if value.shape == (self.num_classes,)}

    def start_afresh(self, absent: Sequence[str]) -> None:
        """Set the state as before the first step, after a checkpoint that lacks a part of it was loaded.

        Args:
            absent: full names of what it lacks.
        """
        # All or nothing: ratios and sums of different runs do not fit together.
        for name, value in self.initial_state.items():
            getattr(self, name).fill_(value)
        warnings.warn(f"The checkpoint has no {', '.join(absent)}; {type(self).__name__} starts to collect afresh.")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "StatefulLoss":
        before = {name: getattr(self, name) for name in self.initial_state}
        super()._apply(fn, recurse)
        for name, state in before.items():
            moved = getattr(self, name)
            if moved.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, state.to(moved.device, torch.float32))
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        absent = [prefix + name for name in self.initial_state if prefix + name not in state_dict]
        if absent:
            missing_keys[:] = [key for key in missing_keys if key not in absent]
            self.start_afresh(absent)
