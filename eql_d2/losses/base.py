"""The interface that every classification loss of this project has."""

import math
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn


class ClassificationLoss(nn.Module):
    """A classification loss that says how many logits it needs and how they become scores.

    Subclasses implement :meth:`compute` and :meth:`scores`. Shapes used throughout: R sampled RoIs of this
    process's mini-batch, K foreground classes, class K is background.

    Image classification has no background: where :attr:`has_background` is False, a "RoI" is an image, classes lie
    in [0, K), and the scores are (R, K), without a column for background.

    Args:
        num_classes: number K of foreground classes, at least 1.
        num_logits: width of the classifier's output.
        has_background: whether there is a class K; None leaves it at what the subclass says.

    Raises:
        ValueError: ``num_classes`` is below 1.
    """

    has_background = True
    """Whether there is a class K; not in image classification."""
    needs_cosines = False
    """Whether the logits have to be cosines: of a ``NormedLinear`` with temperature 1 and without bias."""
    exclusive = True
    """Whether a RoI's scores are one distribution over classes and background; False of independent sigmoids."""

    def __init__(self, num_classes: int, num_logits: int, has_background: bool | None = None) -> None:
        super().__init__()
        check_num_classes(num_classes)
        self.num_classes = num_classes
        self.num_logits = num_logits
        if has_background is not None:
            self.has_background = has_background

    def forward(self, logits: Tensor, gt_classes: Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Compute the losses in float32 (float64 stays float64), also under autocast.

        Args:
            logits: (R, num_logits), any floating dtype; R may be 0.
            gt_classes: (R,) int64 in [0, K], where K is background; in [0, K) without background.
            args, kwargs: further labels that a loss may use, e.g. ``verified_classes``.

        Returns:
            Scalar losses by name, to be summed. R = 0 gives zeros that back-propagate.

        Raises:
            ValueError: the shape of ``logits`` is not (R, num_logits), or a class is out of range (told on the CPU
                only: a GPU would have to be waited for).
        """
        if logits.shape != (len(gt_classes), self.num_logits):
            raise ValueError(
                f"{type(self).__name__} needs logits of shape ({len(gt_classes)}, {self.num_logits}), "
                f"got {tuple(logits.shape)}."
            )
        if gt_classes.device.type == "cpu" and len(gt_classes) and not torch.compiler.is_compiling():
            self._check_range(gt_classes)
        with torch.autocast(logits.device.type, enabled=False):
            return self.compute(at_least_float32(logits), gt_classes, *args, **kwargs)

    def _check_range(self, gt_classes: Tensor) -> None:
        last = self.num_classes if self.has_background else self.num_classes - 1
        low, high = (int(bound) for bound in gt_classes.aminmax())
        if low < 0 or high > last:
            raise ValueError(f"gt_classes has the class {low if low < 0 else high}; it must lie in [0, {last}].")

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        """The loss itself; arguments as in :meth:`forward`, logits in float32 or float64."""
        raise NotImplementedError

    def scores(self, logits: Tensor) -> Tensor:
        """Turn logits into test scores, without changing them.

        Args:
            logits: (R, num_logits).

        Returns:
            (R, K + 1) scores in [0, 1], background last; (R, K) without background.
        """
        raise NotImplementedError

    @property
    def class_columns(self) -> Tensor:
        """(K,) column of the logits that belongs to each foreground class."""
        return torch.arange(self.num_classes)

    def initial_bias(self, prior_prob: float = 0.001) -> Tensor:
        """The classifier's bias at the start of training.

        Args:
            prior_prob: probability in (0, 1) that a sigmoid classifier gives each class at the start.

        Returns:
            (num_logits,) float32.
        """
        return torch.zeros(self.num_logits)

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, num_logits={self.num_logits}"


def check_num_classes(value: Any) -> None:
    """Make sure that a number of classes is one.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"num_classes is {value!r}; it must be a whole number of at least 1.")


def at_least_float32(tensor: Tensor) -> Tensor:
    """Cast to float32 unless the tensor is float64 already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def class_statistics(name: str, values: Any, num_classes: int) -> Tensor:
    """A number for each class, such as its count in the training data, as a checked (K,) float64 tensor.

    Args:
        name: of the argument, for the message.
        values: K numbers, in anything that becomes a tensor.
        num_classes: K.

    Raises:
        ValueError: there are not K of them, or one is negative or NaN.
    """
    statistics = torch.as_tensor(values, dtype=torch.float64)
    if statistics.shape != (num_classes,):
        raise ValueError(f"{name} has shape {tuple(statistics.shape)}; num_classes asks for ({num_classes},).")
    if not bool((statistics >= 0).all()):
        raise ValueError(f"{name} must not be negative.")
    return statistics


def prior_bias(prior_prob: float) -> float:
    """The logit whose sigmoid is ``prior_prob``.

    Raises:
        ValueError: ``prior_prob`` is outside (0, 1).
    """
    if not 0 < prior_prob < 1:
        raise ValueError(f"prior_prob is {prior_prob}; it must lie strictly between 0 and 1.")
    return -math.log((1 - prior_prob) / prior_prob)
