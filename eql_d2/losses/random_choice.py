"""Random choices for each RoI and class, drawn block by block and the same when a block is computed again."""

import torch
from torch import Tensor

_BITS = 16
_LOWEST = -(2 ** (_BITS - 1))  # of an int16


class RandomChoice:
    """Draws of yes or no for the rows of a mini-batch, one block after another.

    On the CPU a draw takes 16 random bits, a quarter of a step of the generator: probabilities are good to 2^-17, and
    0 and 1 are exact. What is drawn depends on PyTorch's global generator, and not on the size of the blocks.

    Args:
        device: of the draws.
    """

    def __init__(self, device: torch.device) -> None:
        self._seed = int(torch.empty((), dtype=torch.int64).random_())
        self._generator = torch.Generator(device)

    def draw(self, rows: Tensor, columns: int, probability: Tensor) -> Tensor:
        """Draw for the next block.

        Args:
            rows: (n,) indices of its rows in the mini-batch, on the CPU; 0 starts over with the same draws.
            columns: number of draws in a row.
            probability: scalar in [0, 1], of True.

        Returns:
            (n, columns) bool.
        """
        if not len(rows) or rows[0] == 0:
            self._generator.manual_seed(self._seed)
        device = self._generator.device
        if device.type != "cpu":
            return torch.rand(len(rows), columns, generator=self._generator, device=device) < probability
        words = torch.empty(len(rows), -(-columns * _BITS // 64), dtype=torch.int64)
        words.random_(torch.iinfo(torch.int64).min, None, generator=self._generator)
        drawn = words.view(torch.int16)[:, :columns]
        below = round(float(probability) * 2**_BITS) + _LOWEST  # of the 65536 values, those below it are True
        if below == -_LOWEST:  # no int16
            return torch.ones_like(drawn, dtype=torch.bool)
        return drawn < below
