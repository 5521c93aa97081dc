"""Box predictors with the losses that the long-tail papers compare their own with."""

from eql_d2.losses import ClassBalancedLoss, DropLoss, FederatedLoss, FocalLoss, InverseFrequencyLoss
from eql_d2.modeling.box_predictor import BOX_PREDICTOR_REGISTRY, LongTailPredictor


@BOX_PREDICTOR_REGISTRY.register()
class FocalPredictor(LongTailPredictor):
    """Focal loss."""

    loss_class = FocalLoss
    config_node = "FOCAL"


@BOX_PREDICTOR_REGISTRY.register()
class ClassBalancedPredictor(LongTailPredictor):
    """Softmax cross-entropy re-weighted by effective numbers of samples."""

    loss_class = ClassBalancedLoss
    config_node = "CLASS_BALANCED"


@BOX_PREDICTOR_REGISTRY.register()
class InverseFrequencyPredictor(LongTailPredictor):
    """Softmax cross-entropy re-weighted by a power of the inverse class frequency."""

    loss_class = InverseFrequencyLoss
    config_node = "INVERSE_FREQUENCY"


@BOX_PREDICTOR_REGISTRY.register()
class FederatedPredictor(LongTailPredictor):
    """Federated loss."""

    loss_class = FederatedLoss
    config_node = "FEDERATED"


@BOX_PREDICTOR_REGISTRY.register()
class DropLossPredictor(LongTailPredictor):
    """DropLoss."""

    loss_class = DropLoss
    config_node = "DROP_LOSS"
