"""The methods of the papers as box predictors: a loss and its node of the config each."""

from eql_d2.losses import (
    BalancedGroupSoftmax,
    EqualizationLoss,
    EqualizationLossV2,
    SeesawLoss,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
)
from eql_d2.modeling.box_predictor import BOX_PREDICTOR_REGISTRY, LongTailPredictor


@BOX_PREDICTOR_REGISTRY.register()
class SoftmaxPredictor(LongTailPredictor):
    """Softmax cross-entropy, the baseline."""

    loss_class = SoftmaxCrossEntropy


@BOX_PREDICTOR_REGISTRY.register()
class SigmoidPredictor(LongTailPredictor):
    """Sigmoid cross-entropy, EQL's baseline."""

    loss_class = SigmoidCrossEntropy


@BOX_PREDICTOR_REGISTRY.register()
class EQLPredictor(LongTailPredictor):
    """Equalization Loss."""

    loss_class = EqualizationLoss
    config_node = "EQL"


@BOX_PREDICTOR_REGISTRY.register()
class EQLv2Predictor(LongTailPredictor):
    """Equalization Loss v2."""

    loss_class = EqualizationLossV2
    config_node = "EQLV2"


@BOX_PREDICTOR_REGISTRY.register()
class SeesawPredictor(LongTailPredictor):
    """Seesaw Loss."""

    loss_class = SeesawLoss
    config_node = "SEESAW"


@BOX_PREDICTOR_REGISTRY.register()
class BAGSPredictor(LongTailPredictor):
    """Balanced Group Softmax."""

    loss_class = BalancedGroupSoftmax
    config_node = "BAGS"
