"""Every registered method's loss in a small form, so that a new one cannot escape the tests that hold for all."""

from collections.abc import Callable
from functools import partial

import torch

from eql_d2.losses import METHODS, ClassificationLoss, build_loss
from eql_d2.losses.stateful import StatefulLoss

K = 6
FREQUENCIES = torch.tensor([0.5, 0.2, 0.01, 0.0001, 0.001, 0.002])
INSTANCE_COUNTS = torch.tensor([5000, 2000, 100, 1, 10, 20])
STATISTICS = {
    "image_frequencies": FREQUENCIES,
    "image_counts": (FREQUENCIES * 10_000).long(),
    "instance_counts": INSTANCE_COUNTS,
    "class_frequencies": FREQUENCIES,
}

# Options that make sense for six classes, where the defaults do not.
OPTIONS: dict[str, dict] = {
    "seql": {"lambda_": 0.0015},
    "bags": {"others_ratio": 1.0},
    "federated": {"fed_loss_num_classes": 4},
    "federated_softmax": {"num_sampled": 4},
    "acsl": {"common_share": 0.5, "rare_share": 0.25},
    "gumbel": {"max_loss": 1e6},
}
# Further forms of a method, by its name and a suffix.
VARIANTS: dict[str, dict] = {
    "eql_gompertz": {"threshold": "gompertz"},
    "eql_by_instances": {"tail_instances": 50},
    "eqlv2_without_objectness": {"objectness": False},
    "seesaw_mitigation_only": {"q": 0},
    "seesaw_without_objectness": {"q": 0, "objectness": False},
    "focal_steep": {"gamma": 0.5, "alpha": 0.6},
    "focal_as_in_bags": {"as_in_bags": True},
    "inverse_frequency_sqrt": {"power": 0.5},
    "sigmoid_gumbel": {"activation": "gumbel"},
    "eql_gumbel": {"activation": "gumbel"},
    "drop_loss_gumbel": {"activation": "gumbel"},
    "fcbl_without_reweight": {"reweight": False},
    "efl_without_alpha": {"alpha": -1.0, "gamma": 1.0},
    "logit_adjustment_post_hoc": {"tau": 0.7, "post_hoc": True},
}
OF_IMAGES = "_of_images"
# Options without which a loss draws random numbers, which compiled code draws differently.
WITHOUT_CHANCE: dict[str, dict] = {
    "seql": {"gamma": 1.0},
    "bags": {"others_ratio": 1000},
    "drop_loss": {"lambda_": 0.9},  # foreground's alone are dropped
    "federated": {"fed_loss_num_classes": K + 1},
    "federated_softmax": {"num_sampled": K + 1},
    "acsl": {"common_share": 1.0, "rare_share": 1.0},
}
# Losses whose factors depend on the logits but are constants to the gradient.
WITH_CONSTANT_FACTORS = ("seesaw", "seesaw_of_images", "ebl")
# Losses that leave out a part of background's negatives, or whose gradient ends at a clamp.
SPARING_BACKGROUND = ("acsl", "gumbel", "sigmoid_gumbel", "eql_gumbel", "drop_loss_gumbel")


def method_of(name: str) -> str:
    """The method that a key of :data:`LOSSES` is a form of."""
    return max((method for method in METHODS if name.startswith(method)), key=len)


def build(name: str, num_classes: int = K, statistics: dict | None = None, **options) -> ClassificationLoss:
    """A loss by a key of :data:`LOSSES`, with further options."""
    method = method_of(name)
    own = {**OPTIONS.get(method, {}), **VARIANTS.get(name.removesuffix(OF_IMAGES), {}), **options}
    return build_loss(method, num_classes, statistics or STATISTICS, not name.endswith(OF_IMAGES), **own)


NAMES = [
    *(method.name for method in METHODS.values() if method.predictor),
    *VARIANTS,
    *(f"{method.name}{OF_IMAGES}" for method in METHODS.values() if method.classifies),
]
LOSSES: dict[str, Callable[[], ClassificationLoss]] = {name: partial(build, name) for name in NAMES}
COLLECTING = [name for name in NAMES if issubclass(METHODS[method_of(name)].loss_class, StatefulLoss)]
"""Losses with a state; but for ldam, whose switch is set from outside, they collect it over the processes."""
