"""Training a part of a detector: what ``SOLVER.TRAINABLE`` names trains, all else stays as it was loaded."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from detectron2.engine import HookBase
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from eql_d2.engine.checkpoint import AtomicCheckpointer, describe_misfits
from eql_d2.engine.compatibility import loss_state_names
from eql_d2.errors import UserError


def freeze_all_but(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters that no pattern names, in place.

    Args:
        model: the detector.
        patterns: shell-style name patterns, e.g. ``roi_heads.box_predictor*.cls_score.*``; none freeze nothing.

    Raises:
        UserError: a pattern names no parameter.
    """
    if not patterns:
        return
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(
                f"SOLVER.TRAINABLE has {pattern!r}, which no parameter's name fits; "
                f"names are like {', '.join(names[-3:])}."
            )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in patterns))


def check_frozen_are_loaded(model: nn.Module, checkpointer: AtomicCheckpointer, weights: str) -> None:
    """Make sure that whatever is frozen came from the weights; what losses count of the data may start afresh.

    Args:
        model: the detector, after loading.
        checkpointer: what loaded it.
        weights: ``MODEL.WEIGHTS``.

    Raises:
        UserError: there are no weights, or frozen tensors are not among them; the sentence says which and why.
    """
    if not weights:
        raise UserError(
            "SOLVER.TRAINABLE trains a part of a finished detector, but MODEL.WEIGHTS is empty; set it to one's "
            "model_final.pth."
        )
    free = {name for name, parameter in model.named_parameters() if parameter.requires_grad} | loss_state_names(model)
    misfits = {name: reason for name, reason in checkpointer.misfits.items() if name not in free}
    if misfits:
        raise UserError(
            f"MODEL.WEIGHTS {weights} does not hold what SOLVER.TRAINABLE leaves frozen: {describe_misfits(misfits)}; "
            "use a detector of the same architecture, or let these train too."
        )


class FreezeBatchNorm(HookBase):
    """Keeps batch normalization without trainable parameters in evaluation mode, statistics included."""

    def before_step(self) -> None:
        """Undo what ``model.train()`` did to them."""
        for module in self.trainer.model.modules():
            if isinstance(module, _BatchNorm) and not any(p.requires_grad for p in module.parameters()):
                module.eval()
