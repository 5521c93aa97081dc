"""DropLoss: Hsieh et al., AAAI 2021, arXiv 2104.06402."""

from collections.abc import Callable

import torch
from torch import Tensor

from eql_d2.losses.activation import ActivatedLoss
from eql_d2.losses.equalization import checked_image_frequencies, step_threshold
from eql_d2.losses.random_choice import RandomChoice


class DropLoss(ActivatedLoss):
    """Sigmoid cross-entropy that at random drops background RoIs' negatives of tail classes.

    The weight of class j for RoI i, where T(f) = 1 if f < λ and y_ij = 1 if j is the RoI's class:

    - foreground RoI: ``1 - T(f_j) (1 - y_ij)``, as in the Equalization Loss;
    - background RoI: 1 or 0, drawn for each RoI and class; 1 with probability ``n_tail / n_foreground`` for a tail
      class, where n counts this process's foreground RoIs, of tail classes or all. 1 for other classes.

    That is the authors' code. Without a foreground RoI nothing is dropped (in the code by way of a comparison with
    NaN). The sum is divided by the number of RoIs. In
    evaluation mode nothing is dropped, from foreground RoIs neither. The tail follows from the data set, so it is
    not stored in checkpoints.

    Args:
        num_classes: number K of foreground classes.
        image_frequencies: (K,) share in [0, 1] of the training images that hold each class.
        lambda_: tail threshold in [0, 1] on the image frequency; rare + common is 0.00177 in LVIS v0.5. The authors
            train with the same value on LVIS v1 (projects/DropLoss_v1/configs, batches of 4), where it takes 876
            classes, 78 of them frequent; it overrides the 0.0010062 of their code, which is rare + common.
        activation: "sigmoid" or "gumbel", see :class:`~eql_d2.losses.activation.ActivatedLoss`; with "gumbel" it is
            the best form of GOL (ECCV 2022), whose λ in LVIS v1 is 0.0011.

    Raises:
        ValueError: an argument is out of its range; the sentence names it.

    Example:
        >>> loss = DropLoss(num_classes=3, image_frequencies=[0.5, 0.1, 0.001])
        >>> loss.keep_probability(torch.tensor([0, 2, 3])).tolist()  # one of two foreground RoIs is of a tail class
        [1.0, 1.0, 0.5]
    """

    is_tail: Tensor

    def __init__(
        self, num_classes: int, image_frequencies: Tensor, lambda_: float = 0.00177, activation: str = "sigmoid"
    ) -> None:
        super().__init__(num_classes, activation)
        frequencies = checked_image_frequencies(image_frequencies, num_classes, lambda_)
        self.lambda_ = lambda_
        self.register_buffer("is_tail", step_threshold(frequencies, lambda_).bool(), persistent=False)

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        one = logits.new_ones(self.num_classes)
        if not self.training:
            summed = self.weighted_sum(logits, gt_classes, one, lambda classes: one)
        elif torch.compiler.is_compiling():
            kept = self._draw_at_once(gt_classes)
            summed = self.weighted_sum(logits, gt_classes, one, lambda classes, kept: kept.to(one.dtype), kept)
        else:
            draw, rows = self._drawing(gt_classes)
            summed = self.weighted_sum(logits, gt_classes, one, lambda *block: draw(*block).to(one.dtype), rows)
        return {"loss_cls": summed / max(len(gt_classes), 1)}

    @torch.no_grad()
    def choose_negatives(self, gt_classes: Tensor) -> Tensor:
        """Draw which negatives are kept: (R,) classes to (R, K) bool, without meaning at the RoI's own class."""
        draw, rows = self._drawing(gt_classes)
        return draw(gt_classes, rows).bool()

    def _drawing(self, gt_classes: Tensor) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
        """What draws for a block, from its classes and the indices of its rows; and the indices of all rows."""
        choice = RandomChoice(gt_classes.device)
        of_background = self.keep_probability(gt_classes)
        of_foreground = (~self.is_tail).float()

        def draw(gt_classes: Tensor, rows: Tensor) -> Tensor:
            kept = choice.draw(rows, self.num_classes, of_background)
            kept[gt_classes < self.num_classes] = of_foreground
            return kept

        return draw, torch.arange(len(gt_classes))

    def _draw_at_once(self, gt_classes: Tensor) -> Tensor:
        of_background, of_foreground = self.keep_probability(gt_classes), (~self.is_tail).to(torch.float32)
        probability = torch.where((gt_classes == self.num_classes)[:, None], of_background, of_foreground)
        # Of numbers in [0, 1) none is below 0, and all are below 1.
        return torch.rand(probability.shape, device=gt_classes.device) < probability

    def _tail_probability(self, gt_classes: Tensor) -> Tensor:
        """Scalar probability that a background RoI's negative of a tail class is kept."""
        is_foreground = gt_classes < self.num_classes
        num_tail = (self.is_tail[gt_classes.clamp(max=self.num_classes - 1)] & is_foreground).sum()
        return (num_tail / is_foreground.sum()).nan_to_num(nan=1.0)  # NaN without foreground

    def keep_probability(self, gt_classes: Tensor) -> Tensor:
        """(K,) probabilities that a background RoI's negative is kept, from the (R,) classes of the mini-batch."""
        return torch.where(self.is_tail, self._tail_probability(gt_classes), 1.0)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, lambda_={self.lambda_}, tail_classes={int(self.is_tail.sum())}"
