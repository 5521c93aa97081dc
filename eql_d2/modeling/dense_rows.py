"""The logits of all levels of a dense head as rows, one an anchor, with one copy of them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def gather_rows(levels: list[Tensor], valid: Tensor, num_columns: int) -> Tensor:
    """The rows of some anchors of all images and levels, in the order of the anchors of each image.

    Concatenating, transposing and masking would make a copy each, of hundreds of thousands of anchors times a thousand
    classes; this makes one, and keeps none for the backward pass.

    Args:
        levels: predictions (N, A x C, Hi, Wi) of each level, as a dense head gives them.
        valid: (N, R) bool, which of the R = Σ Hi Wi A anchors of each image are wanted.
        num_columns: C.

    Returns:
        (V, C), V the number of wanted anchors.
    """
    return _GatherRows.apply(valid, num_columns, *levels)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, valid: Tensor, num_columns: int, *levels: Tensor) -> Tensor:
        ctx.save_for_backward(valid)
        ctx.num_columns = num_columns
        ctx.shapes = [level.shape for level in levels]
        rows = levels[0].new_empty(int(valid.sum()), num_columns)
        start = 0
        for chunk, wanted in _chunks(levels, valid, num_columns):
            stop = start + int(wanted.sum())
            rows[start:stop] = chunk.flatten(0, 2)[wanted]
            start = stop
        return rows

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_rows: Tensor) -> tuple[Tensor | None, ...]:
        (valid,) = ctx.saved_tensors
        grads = [grad_rows.new_empty(shape) for shape in ctx.shapes]
        start = 0
        for chunk, wanted in _chunks(grads, valid, ctx.num_columns):
            stop = start + int(wanted.sum())
            of_anchors = grad_rows.new_zeros(len(wanted), ctx.num_columns)
            of_anchors[wanted] = grad_rows[start:stop]
            chunk.copy_(of_anchors.view(chunk.shape))
            start = stop
        return None, None, *grads


def _chunks(levels: Any, valid: Tensor, num_columns: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each image and level, in the order of the rows, a view (Hi, Wi, A, C) and which of its anchors are wanted."""
    views = [as_anchors(level, num_columns) for level in levels]
    sizes = [view[0].numel() // num_columns for view in views]
    for image, of_image in enumerate(valid):
        for view, wanted in zip(views, of_image.split(sizes), strict=True):
            yield view[image], wanted


def as_anchors(level: Tensor, num_columns: int) -> Tensor:
    """A view (N, Hi, Wi, A, C) of a level's predictions (N, A x C, Hi, Wi)."""
    batch, channels, height, width = level.shape
    return level.view(batch, channels // num_columns, num_columns, height, width).permute(0, 3, 4, 1, 2)
