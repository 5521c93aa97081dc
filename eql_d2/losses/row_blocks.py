"""Sums over RoIs, computed a block of rows at a time.

A loss over a thousand classes is bound by memory: on a CPU each new (R, K) tensor costs more than the arithmetic
on it. In blocks that stay in the cache, only the gradient is ever of full size.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

BLOCK_ELEMENTS = {"cpu": 2**18}
"""Elements of a block by type of device: 1 MB of float32 fits a CPU core's cache."""
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


def sum_over_rows(function: Callable[..., Tensor], logits: Tensor, *per_row: Tensor) -> Tensor:
    """Sum a function of rows over all rows; the gradient flows to ``logits`` alone.

    The backward pass computes each block again instead of keeping what the forward pass computed, so
    ``function`` must give the same both times: no random numbers, no change of state.

    Args:
        function: of a block of ``logits`` and of each of ``per_row``; returns its sums, of any one shape.
        logits: (R, columns).
        per_row: further tensors with R rows.

    Returns:
        The sums over all R rows.
    """
    if torch.compiler.is_compiling():
        return function(logits, *per_row)
    return _SumOverRows.apply(function, logits, *per_row)


class _SumOverRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], logits: Tensor, *per_row: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(logits, *per_row)
        of_blocks = (function(*block) for block in row_blocks(logits, *per_row))
        return functools.reduce(torch.add, of_blocks, logits.new_zeros(()))  # no rows: 0, not -0

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
        logits, *per_row = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        # The forward pass ran without autocast, whatever the caller of the backward pass does.
        with torch.enable_grad(), torch.autocast(logits.device.type, enabled=False):
            for grad_block, block, *others in row_blocks(grad_logits, logits, *per_row):
                leaf = block.detach().requires_grad_()
                sums = ctx.function(leaf, *others)
                grad_block.copy_(torch.autograd.grad(sums, leaf, grad_sums)[0])
        return None, grad_logits, *(None for _ in per_row)
