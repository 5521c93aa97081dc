"""The methods by name, and the one function that builds their losses."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from eql_d2.long_tail import CategoryCounts
from eql_d2.losses.adaptive_class_suppression import AdaptiveClassSuppressionLoss
from eql_d2.losses.balanced_group_softmax import BalancedGroupSoftmax
from eql_d2.losses.balanced_sigmoid import BalancedSigmoidLoss
from eql_d2.losses.base import ClassificationLoss, check_num_classes, class_statistics
from eql_d2.losses.cross_entropy import SigmoidCrossEntropy, SoftmaxCrossEntropy
from eql_d2.losses.drop_loss import DropLoss
from eql_d2.losses.effective_class_margin import EffectiveClassMarginLoss
from eql_d2.losses.equalization import EqualizationLoss
from eql_d2.losses.equalization_v2 import EqualizationLossV2
from eql_d2.losses.equalized_focal import EqualizedFocalLoss, EqualizedQualityFocalLoss
from eql_d2.losses.equilibrium import EquilibriumLoss
from eql_d2.losses.federated import FederatedLoss, FederatedSoftmaxLoss
from eql_d2.losses.focal import FocalLoss
from eql_d2.losses.foreground_balance import ForegroundBalanceLoss
from eql_d2.losses.gumbel import GumbelCrossEntropy
from eql_d2.losses.ldam import LDAMLoss
from eql_d2.losses.logit_adjustment import BalancedSoftmaxLoss, LogitAdjustmentLoss
from eql_d2.losses.reweighting import ClassBalancedLoss, GroupReweightedCrossEntropy, InverseFrequencyLoss
from eql_d2.losses.seesaw import SeesawLoss
from eql_d2.losses.softmax_equalization import SoftmaxEqualizationLoss

STATISTICS = ("image_frequencies", "image_counts", "instance_counts", "class_frequencies")
"""What a loss may ask to know of the training data by a keyword of its constructor, (K,) numbers each: shares of the
images, numbers of images, numbers of instances, shares of the instances."""
_GIVEN = ("num_classes", "has_background", *STATISTICS)

LossClass = TypeVar("LossClass", bound=type[ClassificationLoss])


@dataclass(frozen=True)
class Method:
    """A method: a loss and the names that it goes by.

    Attributes:
        name: what ``MODEL.CLASSIFIER.LOSS`` takes; in upper case the node of its options below ``MODEL.LONG_TAIL``.
        loss_class: its loss.
        title: what people call it.
        predictor: its box predictor's name, which ``MODEL.ROI_BOX_HEAD.PREDICTOR`` takes; "" without one.
        defaults: values of options that the constructor has no default for.
    """

    name: str
    loss_class: type[ClassificationLoss]
    title: str
    predictor: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def node(self) -> str:
        """Name of the node of its options below ``MODEL.LONG_TAIL``."""
        return self.name.upper()

    @property
    def options(self) -> dict[str, Any]:
        """Defaults of the options by constructor keyword: all keywords that neither the data nor the task decides."""
        return {
            name: self.defaults.get(name, parameter.default)
            for name, parameter in inspect.signature(self.loss_class).parameters.items()
            if name not in _GIVEN
        }

    @property
    def classifies(self) -> bool:
        """Whether it serves image classification: there is no background then."""
        return not self.loss_class.has_background or "has_background" in inspect.signature(self.loss_class).parameters


METHODS: dict[str, Method] = {}
"""Every method by its name; :func:`register_method` adds one."""


def register_method(
    name: str, title: str = "", predictor: str = "", **defaults: Any
) -> Callable[[LossClass], LossClass]:
    """A class decorator that gives a loss its names; a method of the same name is replaced.

    Args:
        name: see :class:`Method`.
        title: what people call it; the name by default.
        predictor: see :class:`Method`.
        defaults: see :class:`Method`.
    """

    def register(loss_class: LossClass) -> LossClass:
        METHODS[name] = Method(name, loss_class, title or name, predictor, defaults)
        return loss_class

    return register


def list_methods() -> list[str]:
    """Names of all methods, in the order of their registration."""
    return list(METHODS)


def method_of_predictor(predictor: str) -> Method | None:
    """The method whose box predictor has this name; None for a predictor that was registered without one."""
    return next((method for method in METHODS.values() if method.predictor == predictor), None)


def build_loss(
    method: str | type[ClassificationLoss],
    num_classes: int,
    statistics: CategoryCounts | Mapping[str, Any] | None = None,
    has_background: bool = True,
    **options: Any,
) -> ClassificationLoss:
    """Build a loss for detection, or for image classification.

    Args:
        method: key of :data:`METHODS`, or a loss of one's own.
        num_classes: number K of foreground classes.
        statistics: of the training data, where the loss asks for them: category counts, or values by the names of
            :data:`STATISTICS`.
        has_background: False is image classification, with classes in [0, K).
        options: further keywords of the loss's constructor, e.g. ``gamma``.

    Raises:
        ValueError: there is no such loss, it has no such option, or a value is out of its range; the sentence says
            which.
    """
    if isinstance(method, str) and method not in METHODS:
        raise ValueError(f"The loss is {method!r}; it must be one of {', '.join(METHODS)}.")
    loss_class = METHODS[method].loss_class if isinstance(method, str) else method
    name = method if isinstance(method, str) else loss_class.__name__
    parameters = inspect.signature(loss_class).parameters
    _check_options(name, loss_class, options)
    check_num_classes(num_classes)
    for key, value in options.items():
        if isinstance(value, str) and key in parameters and not isinstance(parameters[key].default, str):
            raise ValueError(f"{key} is {value!r}, a text; {name} takes no text there.")
    if not isinstance(statistics, (CategoryCounts, Mapping, type(None))):
        raise ValueError(
            f"statistics is a {type(statistics).__name__}; it must be category counts, or values by the names of "
            f"{', '.join(STATISTICS)}."
        )
    given: dict[str, Any] = {"num_classes": num_classes, "has_background": has_background}
    if loss_class.has_background != has_background and "has_background" not in parameters:
        raise ValueError(f"{name} {'needs' if loss_class.has_background else 'has no'} background classes.")
    asked = [statistic for statistic in STATISTICS if statistic in parameters]
    if asked:
        known = statistics_of(statistics) if isinstance(statistics, CategoryCounts) else dict(statistics or {})
        needed = [statistic for statistic in asked if parameters[statistic].default is inspect.Parameter.empty]
        absent = [statistic for statistic in needed if statistic not in known]
        if absent:
            raise ValueError(f"{name} needs the {absent[0]} of the training data.")
        given |= {statistic: known[statistic] for statistic in asked if statistic in known}
    return loss_class(**{key: value for key, value in given.items() if key in parameters}, **options)


def _check_options(name: str, loss_class: type[ClassificationLoss], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(loss_class).parameters
    own = [parameter for parameter in parameters if parameter not in _GIVEN]
    unknown = set(options) - set(own)
    if unknown:
        raise ValueError(f"{name} has no option {sorted(unknown)[0]!r}; its options are: {', '.join(own) or 'none'}.")
    missing = [p for p in own if p not in options and parameters[p].default is inspect.Parameter.empty]
    if missing:
        raise ValueError(f"{name} needs a value for {missing[0]}.")


def statistics_of(counts: CategoryCounts) -> dict[str, Tensor]:
    """What category counts say of the training data, (K,) each, by the names of :data:`STATISTICS`."""
    instances = torch.as_tensor(counts.instance_counts, dtype=torch.float64)
    return {
        "image_frequencies": counts.image_frequencies,
        "image_counts": torch.as_tensor(counts.image_counts),
        "instance_counts": torch.as_tensor(counts.instance_counts),
        "class_frequencies": instances / instances.sum().clamp(min=1),
    }


def build_classification_loss(
    name: str, num_classes: int, instance_counts: Tensor, **options: Any
) -> ClassificationLoss:
    """:func:`build_loss` for image classification, from the numbers of images alone.

    Args:
        name: key of :data:`CLASSIFICATION_LOSSES`.
        num_classes: number K of classes.
        instance_counts: (K,) number of training images of each class.
        options: further keywords of the loss's constructor, e.g. ``gamma``. SEQL's ``lambda_`` is a share of the
            training images.

    Raises:
        ValueError: as of :func:`build_loss`.
    """
    if name not in CLASSIFICATION_LOSSES:
        raise ValueError(f"The loss is {name!r}; it must be one of {', '.join(CLASSIFICATION_LOSSES)}.")
    _check_options(name, CLASSIFICATION_LOSSES[name], options)
    counts = class_statistics("instance_counts", instance_counts, num_classes)
    statistics = {"instance_counts": counts, "class_frequencies": counts / counts.sum().clamp(min=1)}
    return build_loss(name, num_classes, statistics, has_background=False, **options)


register_method("softmax", "Softmax cross-entropy", "SoftmaxPredictor")(SoftmaxCrossEntropy)
register_method("sigmoid", "Sigmoid cross-entropy", "SigmoidPredictor")(SigmoidCrossEntropy)
register_method("eql", "Equalization Loss", "EQLPredictor")(EqualizationLoss)
register_method("eqlv2", "Equalization Loss v2", "EQLv2Predictor")(EqualizationLossV2)
register_method("seesaw", "Seesaw Loss", "SeesawPredictor")(SeesawLoss)
register_method("bags", "Balanced Group Softmax", "BAGSPredictor")(BalancedGroupSoftmax)
register_method("seql", "Softmax Equalization Loss", lambda_=0.003)(SoftmaxEqualizationLoss)
register_method("focal", "Focal loss", "FocalPredictor")(FocalLoss)
register_method("class_balanced", "Class-balanced loss", "ClassBalancedPredictor")(ClassBalancedLoss)
register_method("inverse_frequency", "Inverse frequency", "InverseFrequencyPredictor")(InverseFrequencyLoss)
register_method("federated", "Federated loss", "FederatedPredictor")(FederatedLoss)
register_method("drop_loss", "DropLoss", "DropLossPredictor")(DropLoss)
register_method("logit_adjustment", "Logit adjustment", "LogitAdjustmentPredictor")(LogitAdjustmentLoss)
register_method("balanced_softmax", "Balanced softmax", "BalancedSoftmaxPredictor")(BalancedSoftmaxLoss)
register_method("ldam", "LDAM")(LDAMLoss)
register_method("balanced_sigmoid", "Balanced softmax, sigmoid form", "BalancedSigmoidPredictor")(BalancedSigmoidLoss)
register_method("ecm", "Effective Class-Margin loss", "ECMPredictor")(EffectiveClassMarginLoss)
register_method("gumbel", "Gumbel cross-entropy", "GumbelPredictor")(GumbelCrossEntropy)
register_method("ebl", "Equilibrium loss", "EBLPredictor")(EquilibriumLoss)
register_method("fcbl", "Foreground classification balance loss", "FCBLPredictor")(ForegroundBalanceLoss)
register_method("acsl", "Adaptive Class Suppression Loss", "ACSLPredictor")(AdaptiveClassSuppressionLoss)
register_method("grw", "Generalized re-weighting", "GRWPredictor")(GroupReweightedCrossEntropy)
register_method("federated_softmax", "Federated softmax", "FederatedSoftmaxPredictor")(FederatedSoftmaxLoss)
register_method("efl", "Equalized Focal Loss", "EFLPredictor")(EqualizedFocalLoss)
register_method("eqfl", "Equalized Quality Focal Loss", "EQFLPredictor")(EqualizedQualityFocalLoss)

CLASSIFICATION_LOSSES: dict[str, type[ClassificationLoss]] = {
    method.name: method.loss_class for method in METHODS.values() if method.classifies
}
"""Losses that image classification can use, by name; :func:`build_classification_loss` makes one."""
