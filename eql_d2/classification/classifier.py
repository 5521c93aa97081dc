"""The image classifier, one of Detectron2's meta-architectures."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from eql_d2.classification.backbones import globally_pooled
from eql_d2.errors import UserError
from eql_d2.losses import METHODS, ClassificationLoss
from eql_d2.modeling.calibration import Calibration
from eql_d2.modeling.loss_config import loss_of_config
from eql_d2.modeling.normed_layers import NormedLinear, ScaledLinear

LAYERS = ("linear", "normed", "scaled")
LOG_PERIOD = 20


@META_ARCH_REGISTRY.register()
class ImageClassifier(nn.Module):
    """A backbone, the mean over its last feature map, and a classifier with one of this project's losses.

    N is the number of images of a batch, K the number of classes.

    Args:
        backbone: Detectron2's; its last output is used.
        cls_score: the classifier, as wide as the loss says.
        loss: computes the loss and turns logits into scores.
        calibration: of the logits in a test.
        pixel_mean: of each channel, for pixels in [0, 255].
        pixel_std: likewise.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        cls_score: nn.Linear,
        loss: ClassificationLoss,
        calibration: Calibration,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.cls_score = cls_score
        self.loss = loss
        self.calibration = calibration
        self._feature = list(backbone.output_shape())[-1]
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        loss = build_loss(cfg)
        shape = list(backbone.output_shape().values())[-1]
        return {
            "backbone": backbone,
            "cls_score": build_classifier_layer(cfg, shape.channels, loss),
            "loss": loss,
            "calibration": Calibration(
                loss, tau_norm=cfg.TEST.TAU_NORM, tau_norm_keep_scale=cfg.TEST.TAU_NORM_KEEP_SCALE
            ),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | Tensor:
        """Losses in training, scores otherwise.

        Args:
            batched_inputs: N dicts with ``image``, uint8 (C, H, W), all of one size, and in training ``label``.

        Returns:
            In training the loss's scalars by name; otherwise (N, K) scores.
        """
        logits = self.cls_score(self.features([record["image"] for record in batched_inputs]))
        if not self.training:
            logits = self.calibration.logits(logits, self.cls_score)
            return self.loss.scores(logits)
        labels = torch.tensor([record["label"] for record in batched_inputs], device=self.device)
        self._log_accuracy(logits, labels)
        return self.loss(logits, labels)

    def features(self, images: list[Tensor]) -> Tensor:
        """What the classifier sees of N images: (N, channels).

        Raises:
            UserError: the images have different sizes.
        """
        sizes = {tuple(image.shape[1:]) for image in images}
        if len(sizes) > 1:
            (height, width), (other_height, other_width) = sorted(sizes)[:2]
            raise UserError(
                f"A batch has images of {width}x{height} and of {other_width}x{other_height} pixels; bring all to one "
                "size with RandomResizedCrop, or Resize and CenterCrop, in INPUT.TRAIN_TRANSFORMS and TEST_TRANSFORMS."
            )
        batch = torch.stack(images).to(self.device, non_blocking=True)
        batch = (batch.float() - self.pixel_mean) / self.pixel_std
        return globally_pooled(self.backbone(batch)[self._feature])

    @torch.no_grad()
    def _log_accuracy(self, logits: Tensor, labels: Tensor) -> None:
        storage = get_event_storage()
        if (storage.iter + 1) % LOG_PERIOD == 0:  # when the writers write
            correct = self.loss.scores(logits).argmax(dim=1) == labels
            storage.put_scalar("training_accuracy", correct.float().mean().item())


def build_loss(cfg: CfgNode) -> ClassificationLoss:
    """Build the loss that ``MODEL.CLASSIFIER.LOSS`` names, from its node below ``MODEL.LONG_TAIL`` and the counts.

    Raises:
        UserError: there is no such loss, or an option does not fit it.
    """
    name = cfg.MODEL.CLASSIFIER.LOSS
    method = METHODS.get(name)
    if method is None or not method.classifies:
        known = [method.name for method in METHODS.values() if method.classifies]
        raise UserError(f"MODEL.CLASSIFIER.LOSS is {name!r}; it must be one of {', '.join(known)}.")
    return loss_of_config(method.loss_class, cfg, method.node, has_background=False)


def build_classifier_layer(cfg: CfgNode, in_features: int, loss: ClassificationLoss) -> nn.Linear:
    """Build the layer that ``MODEL.CLASSIFIER.LAYER`` names, as wide as the loss needs it.

    Raises:
        UserError: there is no such layer, or the loss needs another.
    """
    options = cfg.MODEL.CLASSIFIER
    if options.LAYER not in LAYERS:
        raise UserError(f"MODEL.CLASSIFIER.LAYER is {options.LAYER!r}; it must be {', '.join(LAYERS)}.")
    if loss.needs_cosines and (options.LAYER, options.TEMPERATURE) != ("normed", 1.0):
        raise UserError(
            f"MODEL.CLASSIFIER.LOSS {options.LOSS} needs cosines: set MODEL.CLASSIFIER.LAYER normed and "
            "MODEL.CLASSIFIER.TEMPERATURE 1.0."
        )
    if options.LAYER == "normed":
        layer: nn.Linear = NormedLinear(in_features, loss.num_logits, options.TEMPERATURE, bias=False)
    else:
        layer = (ScaledLinear if options.LAYER == "scaled" else nn.Linear)(in_features, loss.num_logits)
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        with torch.no_grad():
            layer.bias.copy_(loss.initial_bias(cfg.MODEL.LONG_TAIL.PRIOR_PROB))
    return layer
