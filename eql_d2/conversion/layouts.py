"""What differs between a source's tensors and this project's: names, order of classes, scale of box deltas."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from eql_d2.conversion.names import detector_name, resnet_name
from eql_d2.losses import BalancedGroupSoftmax, ClassificationLoss

NOT_NEEDED = (
    ("num_batches_tracked", "counts training steps of a BatchNorm whose statistics are fixed here"),
    ("pixel_mean", "compared with MODEL.PIXEL_MEAN"),
    ("pixel_std", "compared with MODEL.PIXEL_STD"),
    ("cell_anchors.", "compared with MODEL.ANCHOR_GENERATOR"),
)
FEDERATED_WEIGHTS = (
    ("fed_loss_cls_weights", "computed from the category counts"),
    ("freq_weight", "computed from the category counts"),  # CenterNet2's name
)
IMAGENET_CLASSIFIER = (("fc.weight", "ImageNet's classifier"), ("fc.bias", "ImageNet's classifier"))


@dataclass(frozen=True)
class Source:
    """A code base whose weights can be converted.

    Attributes:
        name: value of ``--source``.
        sign: a tensor's beginning that only this kind of code base has.
        place: from a tensor's name there to its name here, or None.
        background_first: whether class 0 is background, in the classifier, the box deltas and the masks.
        normalized_deltas: whether box deltas are divided by standard deviations, not multiplied by weights.
        backbone_only: whether only the backbone is to be found.
        spare_background: whether a sigmoid classifier has a last column for background, which nothing uses.
        predictors: the box predictors that the code base has.
        remark: what cannot be converted, one sentence.
        not_needed: (end of a name, or a part if it ends with a dot; reason) of tensors without a place.
    """

    name: str
    sign: str
    place: Callable[[str], str | None]
    background_first: bool = False
    normalized_deltas: bool = True
    backbone_only: bool = False
    spare_background: bool = False
    predictors: frozenset[str] = frozenset()
    remark: str = ""
    not_needed: tuple[tuple[str, str], ...] = NOT_NEEDED


def _without_roi_head(name: str) -> str | None:
    return detector_name(name.removeprefix("roi_head."))


def _same_name(name: str) -> str | None:
    return None if any(part in name for part, _ in NOT_NEEDED) else name


_MMDET = {"SoftmaxPredictor", "SigmoidPredictor", "EQLPredictor", "SeesawPredictor"}
SOURCES = {
    source.name: source
    for source in (
        Source("mmdet", "roi_head.bbox_head.", _without_roi_head, predictors=frozenset(_MMDET)),
        Source(
            "eqlv2",
            "roi_head.bbox_head.",
            _without_roi_head,
            predictors=frozenset(_MMDET - {"SeesawPredictor"} | {"EQLv2Predictor", "BAGSPredictor"}),
        ),
        Source(
            "bags",
            "bbox_head.",
            detector_name,
            background_first=True,
            predictors=frozenset({"SoftmaxPredictor", "BAGSPredictor"}),
            remark="mmdetection 1.x takes x2 - x1 + 1 as the width of a box in anchors, pooling and decoding, which "
            "Detectron2 cannot; detections differ by about a pixel of the resized image.",
        ),
        Source(
            "eql",
            "backbone.bottom_up.",
            _same_name,
            normalized_deltas=False,
            predictors=frozenset({"SoftmaxPredictor", "SigmoidPredictor", "EQLPredictor"}),
        ),
        Source(
            "detectron2",
            "roi_heads.box_predictor",
            _same_name,
            normalized_deltas=False,
            spare_background=True,
            predictors=frozenset({"SoftmaxPredictor", "SigmoidPredictor", "FederatedPredictor", "EQLPredictor"}),
            remark="what the config's model does not have by itself, such as CenterNet2's proposals and their scores.",
            not_needed=NOT_NEEDED + FEDERATED_WEIGHTS,
        ),
        Source(
            "torchvision",
            "layer1.",
            resnet_name,
            normalized_deltas=False,
            backbone_only=True,
            not_needed=NOT_NEEDED + IMAGENET_CLASSIFIER,
        ),
    )
}
# mmdetection's target_stds by Cascade stage; the first are those of models without a Cascade.
DELTA_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


def reason_not_needed(source: Source, name: str) -> str | None:
    """Why a tensor of the source has no place here; None if there is no reason."""
    for part, reason in source.not_needed:
        if name == part or name.endswith(f".{part}") or (part.endswith(".") and part in name):
            return reason
    return None


def merge_learned_scales(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LWS of EQLv2's code, (s · w) x + b, as this project's s' · (w' x + b): s goes into w', and s' is 1.

    Args:
        tensors: by their names here; ``cls_score.weight_scaler`` (C, 1) is the source's scale.
    """
    merged = dict(tensors)
    for name in [name for name in tensors if name.endswith("cls_score.weight_scaler")]:
        scale = merged.pop(name)
        classifier = name.removesuffix("weight_scaler")
        merged[classifier + "weight"] = merged[classifier + "weight"] * scale
        merged[classifier + "scale"] = torch.ones_like(scale.flatten())
    return merged


def in_our_order(source: Source, name: str, tensor: Tensor, loss: ClassificationLoss) -> Tensor:
    """A tensor of a prediction layer or of the loss's state, in the order of this project's classes.

    Args:
        source: where it is from.
        name: its name here.
        tensor: the source's.
        loss: of the model's box predictor; says what the logits are.
    """
    if name.endswith("loss.cum_samples") and len(tensor) == loss.num_classes + 1:
        return tensor[:-1]  # mmdetection also counts background, but does not use it
    if source.spare_background and ".cls_score." in name and len(tensor) == loss.num_logits + 1 and not loss.exclusive:
        return tensor[:-1]
    if not source.background_first:
        return tensor
    if ".cls_score." in name:
        if isinstance(loss, BalancedGroupSoftmax):
            # [background, foreground], then the groups, each [others, its classes]; here foreground, background end.
            return torch.cat([tensor[2:], tensor[1:2], tensor[:1]])
        return torch.cat([tensor[1:], tensor[:1]])
    if ".bbox_pred." in name and len(tensor) > 4:
        return tensor[4:]
    if name.startswith("roi_heads.mask_head.") and ".predictor." in name and len(tensor) > 1:
        return tensor[1:]
    return tensor


def rescale_deltas(tensor: Tensor, stds: tuple[float, ...], weights: tuple[float, ...]) -> Tensor:
    """A box delta layer's rows (dx, dy, dw, dh, dx, …) for other units, so that boxes come out the same.

    Args:
        tensor: weight (4n, C) or bias (4n,).
        stds: of the source, which multiplies its outputs by them.
        weights: of this project, which divides its outputs by them.
    """
    factors = torch.tensor(stds, dtype=torch.float64) * torch.tensor(weights, dtype=torch.float64)
    if torch.allclose(factors, torch.ones_like(factors), rtol=1e-12):
        return tensor
    rows = factors.repeat(len(tensor) // 4).reshape(-1, *[1] * (tensor.dim() - 1))
    return (tensor.double() * rows).to(tensor.dtype)
