"""Random choices for each RoI and class, drawn block by block and the same when a block is computed again."""

import numpy as np
import torch
from torch import Tensor

_BITS = 16
_LOWEST = -(2 ** (_BITS - 1))  # of an int16


class RandomChoice:
    """Draws of yes or no for the rows of a mini-batch, one block after another.

    On the CPU a draw takes 16 random bits of NumPy's SFC64, which is twice as fast as PyTorch's generator:
    probabilities are good to 2^-17, and 0 and 1 are exact. What is drawn depends on PyTorch's global generator, and not
    on the size of the blocks.

    Args:
        device: of the draws.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seed = int(torch.empty((), dtype=torch.int64).random_())
        self._start_over()

    def _start_over(self) -> None:
        if self._device.type == "cpu":
            self._words = np.random.SFC64(self._seed)
        else:
            self._generator = torch.Generator(self._device).manual_seed(self._seed)

    def draw(self, rows: Tensor, columns: int, probability: Tensor) -> Tensor:
        """Draw for the next block.

        Args:
            rows: (n,) indices of its rows in the mini-batch, on the CPU; 0 starts over with the same draws.
            columns: number of draws in a row.
            probability: scalar or (columns,), in [0, 1], of yes.

        Returns:
            (n, columns) float32: 1 is yes, 0 is no.
        """
        if not len(rows) or rows[0] == 0:
            self._start_over()
        if self._device.type != "cpu":
            drawn = torch.rand(len(rows), columns, generator=self._generator, device=self._device)
            return (drawn < probability).float()
        words_per_row = -(-columns * _BITS // 64)
        words = torch.from_numpy(self._words.random_raw(len(rows) * words_per_row).view(np.int16))
        drawn = words.reshape(len(rows), 64 // _BITS * words_per_row)[:, :columns].float()
        # Of the 65536 numbers, which float32 holds exactly, those below it are yes.
        return torch.lt(drawn, torch.round(probability.float() * 2**_BITS) + _LOWEST, out=drawn)
