"""Sums over all processes."""

import torch.distributed as dist
from torch import Tensor


def sum_over_processes(increment: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place and in one collective; without a process group it stays as it is.

    Every process has to call it in every step, also without RoIs: the others would wait for it.

    Args:
        increment: this process's share, of the same shape and dtype everywhere; on the GPU under NCCL.

    Returns:
        ``increment``, identical on all processes.
    """
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(increment)
    return increment
