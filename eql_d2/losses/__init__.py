"""Classification losses for long-tailed data, in plain PyTorch."""

from eql_d2.losses.balanced_group_softmax import BalancedGroupSoftmax
from eql_d2.losses.base import ClassificationLoss
from eql_d2.losses.cross_entropy import SigmoidCrossEntropy, SoftmaxCrossEntropy
from eql_d2.losses.equalization import EqualizationLoss, lambda_for_tail_ratio, tail_ratio
from eql_d2.losses.equalization_v2 import EqualizationLossV2
from eql_d2.losses.seesaw import SeesawLoss
from eql_d2.losses.softmax_equalization import SoftmaxEqualizationLoss

__all__ = [
    "BalancedGroupSoftmax",
    "ClassificationLoss",
    "EqualizationLoss",
    "EqualizationLossV2",
    "SeesawLoss",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "SoftmaxEqualizationLoss",
    "lambda_for_tail_ratio",
    "tail_ratio",
]
