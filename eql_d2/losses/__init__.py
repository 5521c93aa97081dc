"""Classification losses for long-tailed data, in plain PyTorch."""

from eql_d2.losses.base import ClassificationLoss
from eql_d2.losses.cross_entropy import SigmoidCrossEntropy, SoftmaxCrossEntropy
from eql_d2.losses.equalization import EqualizationLoss, lambda_for_tail_ratio, tail_ratio

__all__ = [
    "ClassificationLoss",
    "EqualizationLoss",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "lambda_for_tail_ratio",
    "tail_ratio",
]
