"""State that a loss collects over all training steps, and that checkpoints keep."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eql_d2.losses.base import ClassificationLoss


class StatefulLoss(ClassificationLoss):
    """A loss with (K,) numbers per class that it collects in training mode and that checkpoints keep.

    They are persistent buffers in float32, or in float64 where the module is cast to that. A cast to half precision,
    which cannot hold sums over a training run, leaves them in float32. A checkpoint without them (of a training
    without this loss) starts them afresh with a warning, also in strict mode.

    Args:
        num_classes: number K of foreground classes.
        num_logits: width of the classifier's output.
        initial_state: what each buffer starts from, by name.
        has_background: as of :class:`ClassificationLoss`.
    """

    def __init__(
        self,
        num_classes: int,
        num_logits: int,
        initial_state: dict[str, float],
        has_background: bool | None = None,
    ) -> None:
        super().__init__(num_classes, num_logits, has_background)
        self.initial_state = initial_state
        for name, value in initial_state.items():
            self.register_buffer(name, torch.full((num_classes,), value, dtype=torch.float32))

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
        absent = [name for name in self.initial_state if prefix + name not in state_dict]
        if not absent:
            return
        # All or nothing: ratios and sums of different runs do not fit together.
        for name, value in self.initial_state.items():
            getattr(self, name).fill_(value)
        missing_keys[:] = [key for key in missing_keys if key.removeprefix(prefix) not in absent]
        warnings.warn(
            f"The checkpoint has no {', '.join(prefix + name for name in absent)}; "
            f"{type(self).__name__} starts to collect afresh."
        )
