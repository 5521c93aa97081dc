"""A GPU that has not enough memory: one sentence, with the keys that help."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from eql_d2.errors import UserError

IN_TRAINING = (
    "lower SOLVER.IMS_PER_BATCH, or set SOLVER.AMP.ENABLED True, or INPUT.MIN_SIZE_TRAIN and MAX_SIZE_TRAIN to smaller "
    "sizes"
)
IN_TESTING = (
    "set INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST to smaller sizes, or MODEL.RPN.POST_NMS_TOPK_TEST to fewer proposals"
)


@contextmanager
def lack_of_memory_told(work: str, remedy: str) -> Iterator[None]:
    """Turn PyTorch's error of a full GPU into a sentence.

    Args:
        work: what the GPU was to do.
        remedy: what helps.

    Raises:
        UserError: the GPU's memory did not suffice.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise UserError(f"The GPU has not enough memory for {work}; {remedy}.") from None
