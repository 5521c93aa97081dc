"""Mixed precision of training: float16 as Detectron2 does it, or bfloat16, which needs no scaling and runs on CPUs."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, SimpleTrainer
from torch import nn

from eql_d2.errors import UserError

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""Types that ``SOLVER.AMP.DTYPE`` names."""


def build_step(cfg: CfgNode, model: nn.Module, data_loader: Any, optimizer: torch.optim.Optimizer) -> SimpleTrainer:
    """The training step in the precision of ``SOLVER.AMP``.

    Args:
        cfg: full config.
        model: as the step calls it, in several processes wrapped.
        data_loader: of the training batches.
        optimizer: of the model's parameters.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return SimpleTrainer(model, data_loader, optimizer)
    if cfg.SOLVER.AMP.DTYPE == "float16":
        return AMPTrainer(model, data_loader, optimizer)
    cast_forward(model, cfg.MODEL.DEVICE.partition(":")[0], DTYPES[cfg.SOLVER.AMP.DTYPE])
    return SimpleTrainer(model, data_loader, optimizer)


def check_precision(cfg: CfgNode) -> None:
    """Make sure that the device trains in the precision that the config asks for.

    Raises:
        UserError: it does not, or ``SOLVER.AMP.DTYPE`` is none.
    """
    dtype = cfg.SOLVER.AMP.DTYPE
    if dtype not in DTYPES:
        raise UserError(f"SOLVER.AMP.DTYPE is {dtype!r}; it must be {' or '.join(DTYPES)}.")
    if not cfg.SOLVER.AMP.ENABLED:
        return
    if dtype == "float16" and cfg.MODEL.DEVICE == "cpu":
        raise UserError(
            "SOLVER.AMP.ENABLED is True, but mixed precision in float16 needs a GPU; set SOLVER.AMP.DTYPE to bfloat16, "
            "or SOLVER.AMP.ENABLED to False."
        )
    if dtype == "bfloat16" and cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_bf16_supported():
        raise UserError("SOLVER.AMP.DTYPE is bfloat16, which this GPU does not have; set it to float16.")


def cast_forward(model: nn.Module, device_type: str, dtype: torch.dtype) -> None:
    """Let a model's forward passes in training run under autocast; losses and backward passes are as ever.

    Args:
        model: changed in place.
        device_type: "cpu" or "cuda".
        dtype: what autocast casts to.
    """
    entered: list[torch.autocast] = []

    def enter(module: nn.Module, _: Any) -> None:
        if module.training:
            entered.append(torch.autocast(device_type, dtype=dtype))
            entered[-1].__enter__()

    def leave(module: nn.Module, _: Any, __: Any) -> None:
        if entered:
            entered.pop().__exit__(None, None, None)

    model.register_forward_pre_hook(enter)
    model.register_forward_hook(leave, always_call=True)
