"""The losses for image classification by name, without background."""

import inspect
from typing import Any

from torch import Tensor

from eql_d2.losses.balanced_group_softmax import BalancedGroupSoftmax
from eql_d2.losses.base import ClassificationLoss, class_statistics
from eql_d2.losses.cross_entropy import SoftmaxCrossEntropy
from eql_d2.losses.focal import FocalLoss
from eql_d2.losses.ldam import LDAMLoss
from eql_d2.losses.logit_adjustment import BalancedSoftmaxLoss, LogitAdjustmentLoss
from eql_d2.losses.reweighting import ClassBalancedLoss, InverseFrequencyLoss
from eql_d2.losses.seesaw import SeesawLoss
from eql_d2.losses.softmax_equalization import SoftmaxEqualizationLoss

CLASSIFICATION_LOSSES: dict[str, type[ClassificationLoss]] = {
    "softmax": SoftmaxCrossEntropy,
    "seql": SoftmaxEqualizationLoss,
    "focal": FocalLoss,
    "class_balanced": ClassBalancedLoss,
    "inverse_frequency": InverseFrequencyLoss,
    "seesaw": SeesawLoss,
    "bags": BalancedGroupSoftmax,
    "logit_adjustment": LogitAdjustmentLoss,
    "balanced_softmax": BalancedSoftmaxLoss,
    "ldam": LDAMLoss,
}
"""Losses that image classification can use, by name; :func:`build_classification_loss` makes one."""


def build_classification_loss(
    name: str, num_classes: int, instance_counts: Tensor, **options: Any
) -> ClassificationLoss:
    """Make a loss for image classification: without background, with the classes' counts or shares if it needs them.

    Args:
        name: key of :data:`CLASSIFICATION_LOSSES`.
        num_classes: number K of classes.
        instance_counts: (K,) number of training images of each class.
        options: further keywords of the loss's constructor, e.g. ``gamma``. SEQL's ``lambda_`` is a share of the
            training images.

    Raises:
        ValueError: there is no such loss, it has no such option, or a value is out of its range; the sentence says
            which.
    """
    if name not in CLASSIFICATION_LOSSES:
        raise ValueError(f"The loss is {name!r}; it must be one of {', '.join(CLASSIFICATION_LOSSES)}.")
    loss_class = CLASSIFICATION_LOSSES[name]
    counts = class_statistics("instance_counts", instance_counts, num_classes)
    given = {
        "num_classes": num_classes,
        "instance_counts": counts,
        "class_frequencies": counts / counts.sum().clamp(min=1),
        "has_background": False,
    }
    parameters = inspect.signature(loss_class).parameters
    own = [parameter for parameter in parameters if parameter not in given]
    unknown = set(options) - set(own)
    if unknown:
        raise ValueError(f"{name} has no option {sorted(unknown)[0]!r}; its options are: {', '.join(own) or 'none'}.")
    missing = [p for p in own if p not in options and parameters[p].default is inspect.Parameter.empty]
    if missing:
        raise ValueError(f"{name} needs a value for {missing[0]}.")
    return loss_class(**{key: value for key, value in given.items() if key in parameters}, **options)
