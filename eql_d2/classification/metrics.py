"""The metrics of image classification, from a few numbers of each image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from eql_d2.errors import UserError

SHOT_GROUPS = ("many", "medium", "few")
SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)
"""Of the true class in the likelihood: a softmax in float32 may give 0, whose logarithm is infinite."""


@dataclass(frozen=True)
class Samples:
    """What counts of the scores of N images; each field is (N,).

    Attributes:
        labels: true class.
        predictions: class of the highest score, the first of equal ones.
        ranks: number of classes that come before the true one.
        confidences: probability of the prediction.
        true_probabilities: probability of the true class.
    """

    labels: np.ndarray
    predictions: np.ndarray
    ranks: np.ndarray
    confidences: np.ndarray
    true_probabilities: np.ndarray

    @classmethod
    def from_scores(cls, labels: np.ndarray, scores: np.ndarray) -> "Samples":
        """From (N,) labels and (N, K) scores in float64, which are divided by their sums.

        Scores of 0 alone are taken as equal ones. Of equal scores the class with the lower number comes first.
        """
        sums = scores.sum(axis=1, keepdims=True)
        probabilities = np.where(sums > 0, scores / np.where(sums > 0, sums, 1), 1 / scores.shape[1])
        own = np.take_along_axis(probabilities, labels[:, None], axis=1)
        is_lower = np.arange(scores.shape[1]) < labels[:, None]
        is_before = (probabilities > own) | ((probabilities == own) & is_lower)
        return cls(
            labels, probabilities.argmax(axis=1), is_before.sum(axis=1), probabilities.max(axis=1), own.squeeze(1)
        )

    @classmethod
    def joined(cls, parts: Sequence["Samples"]) -> "Samples":
        """One after the other; of none, no images."""
        parts = [cls(*np.empty((3, 0), dtype=np.int64), *np.empty((2, 0))), *parts]
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def chosen(self, indices: np.ndarray) -> "Samples":
        """Some of the images."""
        return Samples(*(getattr(self, field.name)[indices] for field in fields(self)))


def sample_metrics(samples: Samples, num_bins: int = 15) -> dict[str, float]:
    """Metrics that are means over at least one image.

    Returns:
        ``top1``, ``top5`` (of fewer classes 100) and ``ece`` in percent; ``nll``, the mean of -log p in nats.
    """
    likelihoods = np.log(np.maximum(samples.true_probabilities, SMALLEST_PROBABILITY))
    return {
        "top1": 100 * float((samples.ranks < 1).mean()),
        "top5": 100 * float((samples.ranks < 5).mean()),
        "ece": 100 * calibration_error(samples.confidences, samples.ranks == 0, num_bins),
        # fsum is exact, so that the processes' order does not matter.
        "nll": -math.fsum(likelihoods) / len(likelihoods),
    }


def calibration_error(confidences: np.ndarray, correct: np.ndarray, num_bins: int = 15) -> float:
    """Expected calibration error (Guo et al., ICML 2017, equation 3).

    The images are put into bins ((m - 1) / M, m / M] of equal width by their confidence; the difference between mean
    confidence and accuracy of the bins is averaged, each bin weighted by its share of the images.

    Args:
        confidences: (N,) probability of the prediction, in [0, 1].
        correct: (N,) whether it is right.
        num_bins: M.

    Returns:
        A number in [0, 1].
    """
    bins = np.searchsorted(np.arange(1, num_bins) / num_bins, confidences, side="left")
    gaps = [abs(math.fsum(confidences[bins == b]) - int(correct[bins == b].sum())) for b in range(num_bins)]
    return math.fsum(gaps) / len(confidences)


def class_metrics(samples: Samples, groups: Sequence[str]) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Means over classes.

    Args:
        samples: the images.
        groups: "many", "medium" or "few" of each class.

    Returns:
        ``mean_class``, ``many``, ``medium`` and ``few``: accuracy in percent, the mean over the classes that have
        images, NaN where none has; and for each class the number of its images that are right, and of all.
    """
    totals = np.bincount(samples.labels, minlength=len(groups))
    correct = np.bincount(samples.labels[samples.ranks == 0], minlength=len(groups))

    def mean_accuracy(members: np.ndarray) -> float:
        members = members & (totals > 0)
        return 100 * float((correct[members] / totals[members]).mean()) if members.any() else float("nan")

    metrics = {group: mean_accuracy(np.array(groups) == group) for group in SHOT_GROUPS}
    metrics["mean_class"] = mean_accuracy(totals > 0)
    return metrics, correct, totals


def shot_groups(instance_counts: np.ndarray, many_shot_above: int = 100, few_shot_below: int = 20) -> list[str]:
    """Group of each class by its number of training images: Liu et al., CVPR 2019, section 5.

    Args:
        instance_counts: (K,) number of training images of each class.
        many_shot_above: classes with more are "many".
        few_shot_below: classes with fewer are "few"; the others are "medium".

    Raises:
        UserError: a class would be in two groups.
    """
    if few_shot_below > many_shot_above + 1:
        raise UserError(
            f"Few-shot classes have fewer than {few_shot_below} training images and many-shot classes more than "
            f"{many_shot_above}; the first number must not be above the second by more than 1."
        )
    return ["many" if n > many_shot_above else "few" if n < few_shot_below else "medium" for n in instance_counts]
