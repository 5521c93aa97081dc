"""The optimizer: Detectron2's SGD, or AdamW; and learning rates that fall with the depth of a stage."""

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from eql_d2.errors import UserError
from eql_d2.modeling.timm_backbone import TimmBackbone

OPTIMIZERS = ("SGD", "AdamW")


def build_adamw(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW by the keys of ``SOLVER`` that Detectron2's SGD has, with PyTorch's betas."""
    parameters = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    adamw = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    return adamw(parameters, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)


def layer_factors(model: nn.Module, decay: float) -> dict[str, float]:
    """Factors of the learning rate: each stage of a :class:`TimmBackbone` learns ``decay`` times as fast as the next.

    Args:
        model: with a :class:`TimmBackbone`, or without one: no factors then.
        decay: in (0, 1]; 1 makes no difference.

    Returns:
        The factor of each parameter of the extractor by its full name; those that are not there learn as ever.

    Raises:
        UserError: the decay is out of its range.
    """
    if not 0 < decay <= 1:
        raise UserError(f"SOLVER.LAYER_DECAY is {decay}; it must be more than 0 and at most 1, which is no decay.")
    factors: dict[str, float] = {}
    for prefix, module in model.named_modules():
        if isinstance(module, TimmBackbone):
            depths = {name: module.depth_of(name) for name, _ in module.named_parameters()}
            top = max(depths.values()) + 1
            factors |= {f"{prefix}.{name}": decay ** (top - depth) for name, depth in depths.items()}
    return factors


def scale_learning_rates(optimizer: torch.optim.Optimizer, model: nn.Module, factors: dict[str, float]) -> None:
    """Give an optimizer's parameters their factors, before a schedule notes the rates that it starts from.

    Args:
        optimizer: changed in place; its groups are split where their parameters have different factors.
        model: whose parameters it has.
        factors: of :func:`layer_factors`.
    """
    if not factors:
        return
    factor_of = {id(parameter): factors.get(name, 1.0) for name, parameter in model.named_parameters()}
    groups, optimizer.param_groups = optimizer.param_groups, []
    for group in groups:
        parts: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            parts.setdefault(factor_of.get(id(parameter), 1.0), []).append(parameter)
        for factor, parameters in parts.items():
            optimizer.add_param_group({**group, "params": parameters, "lr": group["lr"] * factor})
