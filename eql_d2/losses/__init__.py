"""Classification losses for long-tailed data, in plain PyTorch."""

from eql_d2.long_tail import lambda_for_tail_ratio, quantile_bin_edges, tail_ratio
from eql_d2.losses.adaptive_class_suppression import AdaptiveClassSuppressionLoss
from eql_d2.losses.balanced_group_softmax import BalancedGroupSoftmax
from eql_d2.losses.balanced_sigmoid import BalancedSigmoidLoss
from eql_d2.losses.base import ClassificationLoss
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
from eql_d2.losses.registry import (
    CLASSIFICATION_LOSSES,
    METHODS,
    Method,
    build_classification_loss,
    build_loss,
    list_methods,
    register_method,
)
from eql_d2.losses.reweighting import ClassBalancedLoss, GroupReweightedCrossEntropy, InverseFrequencyLoss
from eql_d2.losses.seesaw import SeesawLoss
from eql_d2.losses.softmax_equalization import SoftmaxEqualizationLoss

__all__ = [
    "CLASSIFICATION_LOSSES",
    "METHODS",
    "AdaptiveClassSuppressionLoss",
    "BalancedGroupSoftmax",
    "BalancedSigmoidLoss",
    "BalancedSoftmaxLoss",
    "ClassBalancedLoss",
    "ClassificationLoss",
    "DropLoss",
    "EffectiveClassMarginLoss",
    "EqualizationLoss",
    "EqualizationLossV2",
    "EqualizedFocalLoss",
    "EqualizedQualityFocalLoss",
    "EquilibriumLoss",
    "FederatedLoss",
    "FederatedSoftmaxLoss",
    "FocalLoss",
    "ForegroundBalanceLoss",
    "GroupReweightedCrossEntropy",
    "GumbelCrossEntropy",
    "InverseFrequencyLoss",
    "LDAMLoss",
    "LogitAdjustmentLoss",
    "Method",
    "SeesawLoss",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "SoftmaxEqualizationLoss",
    "build_classification_loss",
    "build_loss",
    "lambda_for_tail_ratio",
    "list_methods",
    "quantile_bin_edges",
    "register_method",
    "tail_ratio",
]
