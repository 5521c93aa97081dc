"""Sums over RoIs, computed a block of rows at a time.

A loss over a thousand classes is bound by memory: on a CPU each new (R, K) tensor costs more than the arithmetic
on it. In blocks that stay in the cache, only the gradient is ever of full size.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

BLOCK_ELEMENTS = {"cpu": 2**19}
"""Elements of a block by type of device: 2 MB of float32 are about a CPU core's cache, and smaller blocks cost more in
calls than they save."""
OTHER_BLOCK_ELEMENTS = 2**22
"""On a GPU larger blocks, so that a usual batch is one or two of them."""


def row_blocks(*per_row: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors of the same length into blocks of rows, sized by the first.

    Args:
        per_row: tensors with R rows each, the first of two dimensions; R may be 0, which is one empty block.

    Yields:
        One view of each tensor.
    """
    size = BLOCK_ELEMENTS.get(per_row[0].device.type, OTHER_BLOCK_ELEMENTS) // max(per_row[0].shape[1], 1)
    if torch.compiler.is_compiling():  # the compiler fuses the arithmetic anyway
        size = len(per_row[0])
    return zip(*(tensor.split(max(size, 1)) for tensor in per_row), strict=True)


RowSums = Callable[..., Tensor]
"""Of a block of logits and of each of the per-row tensors: its sums, of any one shape."""
RowSumsByFormula = Callable[..., Tensor]
"""As :data:`RowSums`, but before the logits come a :class:`Workspace`, and the block to write the sums' gradient to, or
None where none is wanted."""


class Workspace:
    """Memory that the blocks of one call share; each new tensor of that size would be fresh pages of the system."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def like(self, name: str, block: Tensor) -> Tensor:
        """A tensor of a block's shape and type, of any content; the same memory for the same name."""
        tensor = self._tensors.get(name)
        if tensor is None or len(tensor) < len(block) or tensor.shape[1:] != block.shape[1:]:
            tensor = self._tensors[name] = torch.empty_like(block, memory_format=torch.contiguous_format)
        return tensor[: len(block)]


def sum_over_rows(function: RowSums, logits: Tensor, *per_row: Tensor) -> Tensor:
    """Sum a function of rows over all rows; the gradient flows to ``logits`` alone.

    A block's gradient is computed right after its sum, while it is in the cache, and only where it will be needed. A
    second backward pass over a graph that is retained, and one of several sums, compute the blocks again, so
    ``function`` must give the same each time: no random numbers, no change of state.

    Args:
        function: differentiable; see :data:`RowSums`.
        logits: (R, columns).
        per_row: further tensors with R rows.

    Returns:
        The sums over all R rows.
    """
    if torch.compiler.is_compiling() or not _needs_gradient(logits):
        return _sum_of_blocks(function, logits, *per_row)
    return _SumOverRows.apply(function, logits, *per_row)


def sum_by_formula(
    function: RowSumsByFormula, logits: Tensor, *per_row: Tensor, columns: tuple[int, ...] | None = None
) -> Tensor:
    """As :func:`sum_over_rows`, with the gradient by a formula, which shares its exponentials with the sum.

    Args:
        function: see :data:`RowSumsByFormula`; a second backward pass calls it again.
        logits: (R, columns).
        per_row: further tensors with R rows.
        columns: for several sums, (n,), how many of the columns the gradient of each stands in, one after the other.

    Returns:
        The sums over all R rows: a scalar, or (n,).
    """
    if not _needs_gradient(logits):
        return _sum_of_blocks(functools.partial(function, Workspace(), None), logits, *per_row)
    return _SumByFormula.apply(function, columns, logits, *per_row)


def _needs_gradient(logits: Tensor) -> bool:
    return logits.requires_grad and torch.is_grad_enabled()


def _sum_of_blocks(function: RowSums, logits: Tensor, *per_row: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return function(logits, *per_row)
    of_blocks = (function(*block) for block in row_blocks(logits, *per_row))
    return functools.reduce(torch.add, of_blocks, logits.new_zeros(()))  # no rows: 0, not -0


class _SumOverRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: RowSums, logits: Tensor, *per_row: Tensor) -> Tensor:
        ctx.function, ctx.grad = function, None
        ctx.save_for_backward(logits, *per_row)
        grad_logits = torch.empty_like(logits)
        sums = []
        for grad_block, block, *others in row_blocks(grad_logits, logits, *per_row):
            leaf = block.detach().requires_grad_()
            with torch.enable_grad():
                of_block = function(leaf, *others)
            sums.append(of_block.detach())
            if of_block.dim():  # how much of each sum's gradient is wanted, only the backward pass knows
                return functools.reduce(
                    torch.add, _rest(sums, function, logits, len(block), per_row), logits.new_zeros(())
                )
            grad_block.copy_(torch.autograd.grad(of_block, leaf)[0])
        ctx.grad = grad_logits
        return functools.reduce(torch.add, sums, logits.new_zeros(()))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
        logits, *per_row = ctx.saved_tensors
        kept, ctx.grad = ctx.grad, None
        if kept is not None:
            return None, kept.mul_(grad_sums), *(None for _ in per_row)
        grad_logits = torch.empty_like(logits)
        # The forward pass ran without autocast, whatever the caller of the backward pass does.
        with torch.enable_grad(), torch.autocast(logits.device.type, enabled=False):
            for grad_block, block, *others in row_blocks(grad_logits, logits, *per_row):
                leaf = block.detach().requires_grad_()
                sums = ctx.function(leaf, *others)
                grad_block.copy_(torch.autograd.grad(sums, leaf, grad_sums if sums.dim() else None)[0])
        if not grad_sums.dim():  # by the same steps as the first time, and so to the last bit
            grad_logits.mul_(grad_sums)
        return None, grad_logits, *(None for _ in per_row)


def _rest(
    sums: list[Tensor], function: RowSums, logits: Tensor, done: int, per_row: tuple[Tensor, ...]
) -> Iterator[Tensor]:
    """The sums of the first block, then of the others."""
    yield from sums
    if done < len(logits):
        for block in row_blocks(logits[done:], *(tensor[done:] for tensor in per_row)):
            yield function(*block)


class _SumByFormula(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        function: RowSumsByFormula,
        columns: tuple[int, ...] | None,
        logits: Tensor,
        *per_row: Tensor,
    ) -> Tensor:
        ctx.function, ctx.columns = function, columns
        ctx.save_for_backward(logits, *per_row)
        ctx.grad = torch.empty_like(logits)
        shared = Workspace()
        of_blocks = (function(shared, *block) for block in row_blocks(ctx.grad, logits, *per_row))
        return functools.reduce(torch.add, of_blocks, logits.new_zeros(()))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
        logits, *per_row = ctx.saved_tensors
        grad, ctx.grad = ctx.grad, None  # handed over: only a second backward pass needs another
        if grad is None:
            grad = torch.empty_like(logits)
            shared = Workspace()
            for block in row_blocks(grad, logits, *per_row):
                ctx.function(shared, *block)
        parts = [grad] if ctx.columns is None else grad.split(ctx.columns, dim=1)
        for part, grad_sum in zip(parts, grad_sums.reshape(-1), strict=True):
            if grad_sum.is_cuda or grad_sum != 1:  # a GPU would have to be waited for
                part.mul_(grad_sum)
        return None, None, grad, *(None for _ in per_row)


_OUT_OF_SIGHT = 1e30
"""Less than the others by this, a logit has an exponential of exactly 0; unlike that of -infinity a difference of two
is a number."""


def softmax_costs(grad: Tensor | None, logits: Tensor, targets: Tensor, dropped: Tensor | None = None) -> Tensor:
    """Sum of the softmax cross-entropies of rows, by one exponential a logit.

    Args:
        grad: what the gradient is written to, if any; it may be ``logits`` itself.
        logits: (rows, columns).
        targets: (rows,).
        dropped: (rows, columns), 1 where a column takes no part and 0 elsewhere, also at the row's target.
    """
    own = targets[:, None]
    own_logits = logits.gather(1, own)
    if dropped is None:
        largest = logits.amax(dim=1, keepdim=True)
        exponentials = torch.sub(logits, largest, out=grad).exp_()
        total = exponentials.sum(dim=1, keepdim=True)
        probabilities = exponentials.div_(total) if grad is not None else exponentials
    else:  # masks of bool, and exponentials that underflow, take five times as long on a CPU
        logits = torch.sub(logits, dropped, alpha=_OUT_OF_SIGHT)
        largest = logits.amax(dim=1, keepdim=True)
        probabilities = torch.softmax(logits, dim=1, out=grad)
        total = probabilities.amax(dim=1, keepdim=True).reciprocal()
    if grad is not None:
        probabilities.scatter_add_(1, own, grad.new_full((), -1.0).expand_as(own))
    return (largest + total.log() - own_logits).sum()
