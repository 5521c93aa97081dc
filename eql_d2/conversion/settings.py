"""What the config of converted weights has to say: pixels, strides, pooling, method."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode

from eql_d2.conversion.layouts import DELTA_STDS, Source
from eql_d2.conversion.recorded_config import find_dict
from eql_d2.conversion.source_file import SourceFile
from eql_d2.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]  # of R, G, B in [0, 255]
MSRA_MEAN = [103.53, 116.28, 123.675]  # of B, G, R; the pixels are not divided
METHODS = {
    "SeesawLoss": ("SeesawPredictor",),
    "EQLv2": ("EQLv2Predictor",),
    "EQL": ("EQLPredictor",),
    "GroupSoftmax": ("BAGSPredictor",),
    "GSBBoxHeadWith0": ("BAGSPredictor",),
    "CrossEntropyLoss": ("SoftmaxPredictor", "SigmoidPredictor"),
}


def needed_settings(source: Source, file: SourceFile, is_cascade: bool) -> dict[str, Any]:
    """Config keys and values under which the model sees and pools what the source's model did.

    What the file records of its config counts; else the values of the source's published models.

    Args:
        source: the code base.
        file: the checkpoint.
        is_cascade: whether the config's model is a Cascade.
    """
    if source.name == "detectron2":  # its later checkpoints say nothing of their pixels: the config's count
        return _recorded_means(file) if "pixel_mean" in file.tensors else {}
    if source.name == "eql":
        return {"INPUT.FORMAT": "BGR", "MODEL.RESNETS.STRIDE_IN_1X1": True} | _recorded_means(file)
    settings = {
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": IMAGENET_MEAN,
        "MODEL.PIXEL_STD": IMAGENET_STD,
        "MODEL.RESNETS.STRIDE_IN_1X1": (_dict_of(file, "backbone").get("style") == "caffe"),
    }
    settings |= _recorded_pixels(file)
    if source.backbone_only:
        return settings
    pooling = {"POOLER_TYPE": "ROIAlignV2", "POOLER_SAMPLING_RATIO": 0}
    if source.background_first:  # mmdetection 1.x pools without Detectron2's later shift by half a pixel
        pooling = {"POOLER_TYPE": "ROIAlign", "POOLER_SAMPLING_RATIO": 2}
    for head in ("ROI_BOX_HEAD", "ROI_MASK_HEAD"):
        settings |= {f"MODEL.{head}.{key}": value for key, value in pooling.items()}
    settings |= {
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
        "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
        "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
        "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    }
    if is_cascade:
        settings["MODEL.ROI_BOX_CASCADE_HEAD.SCORE_AVERAGE"] = "logit"
    for key, part, kind in (
        ("MODEL.ROI_BOX_HEAD.TEMPERATURE", "cls_predictor_cfg", "NormedLinear"),
        ("MODEL.ROI_MASK_HEAD.TEMPERATURE", "predictor_cfg", "NormedConv2d"),
    ):
        predictor = _dict_of(file, part)
        if predictor.get("type") == kind:
            settings[key] = float(predictor.get("tempearture", 20))  # the source's spelling
    return settings


def adapt_config(cfg: CfgNode, settings: dict[str, Any]) -> list[str]:
    """Set what differs, in place.

    Returns:
        A line for each change.
    """
    changes = []
    for key, value in settings.items():
        node = cfg
        *path, last = key.split(".")
        for part in path:
            node = node[part]
        if _plain(node[last]) != _plain(value):
            changes.append(f"{key}: {value} (the config had {node[last]})")
            node[last] = type(node[last])(value) if isinstance(value, list) else value
    return changes


def check_method(cfg: CfgNode, source: Source, file: SourceFile) -> None:
    """Make sure that the config is of the method whose weights these are, as far as the file tells.

    Raises:
        UserError: it is of another; methods may have layers of the same shapes.
    """
    predictor = cfg.MODEL.ROI_BOX_HEAD.PREDICTOR
    if predictor not in source.predictors:
        raise UserError(
            f"The config's MODEL.ROI_BOX_HEAD.PREDICTOR is {predictor}, which --source {source.name} does not have; it "
            f"has {', '.join(sorted(source.predictors))}."
        )
    head = _dict_of(file, "bbox_head")
    loss = find_dict(head, "loss_cls") or {}
    recorded = head.get("type") if head.get("type") in METHODS else (loss.get("loss_cls") or {}).get("type")
    if recorded in METHODS and predictor not in METHODS[recorded]:
        raise UserError(
            f"Weights {file.path} are of {recorded}, but the config's MODEL.ROI_BOX_HEAD.PREDICTOR is {predictor}; "
            f"take a config of {METHODS[recorded][0]}."
        )
    if not file.config:
        return
    for key, part, kind, of_config in (
        ("MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER", "cls_predictor_cfg", "NormedLinear", _has_normed_classifier(cfg)),
        ("MODEL.ROI_MASK_HEAD.NAME", "predictor_cfg", "NormedConv2d", _has_normed_mask(cfg)),
    ):
        has = _dict_of(file, part).get("type") == kind
        if has != of_config:
            raise UserError(
                f"Weights {file.path} are {'' if has else 'not '}of a model with {kind}, but the config's is"
                f"{' not' if has else ''}; see its {key}."
            )


def delta_stds(file: SourceFile, stage: int) -> tuple[float, ...]:
    """The source's standard deviations of box deltas at a Cascade stage, or of a model without stages (0)."""
    model = file.config.get("model") or {}
    heads = (model.get("roi_head") or {}).get("bbox_head") or model.get("bbox_head")
    head = heads[stage] if isinstance(heads, list) and stage < len(heads) else heads
    recorded = find_dict(head, "target_stds") if head else None
    return tuple((recorded or {}).get("target_stds") or DELTA_STDS[stage])


def check_classes(names: Sequence[str], file: SourceFile) -> None:
    """Make sure that the file's classes, where it records them, are the config's in their order.

    Args:
        names: the config's.
        file: the checkpoint.

    Raises:
        UserError: a class stands elsewhere there.
    """
    if len(file.classes) != len(names):
        return  # other names than those of the classifier, whose width is checked
    ours = {_letters(name): place for place, name in enumerate(names)}
    for place, name in enumerate(file.classes):
        if ours.get(_letters(name), place) != place:
            raise UserError(
                f"Weights {file.path} have class {name!r} in place {place}, but in the config's dataset it is in place "
                f"{ours[_letters(name)]}; take the config of the dataset that they were trained on."
            )


def _has_normed_classifier(cfg: CfgNode) -> bool:
    return cfg.MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER


def _has_normed_mask(cfg: CfgNode) -> bool:
    head = cfg.MODEL.ROI_MASK_HEAD
    return "Normed" in (head.AVERAGED if head.NAME == "AveragedMaskHeads" else head.NAME)


def _recorded_means(file: SourceFile) -> dict[str, Any]:
    """A checkpoint of Detectron2 0.1 holds pixel means and anchors."""
    mean, std = (
        file.tensors.get(f"pixel_{name}", torch.tensor(default)).flatten().tolist()
        for name, default in (("mean", MSRA_MEAN), ("std", [1.0, 1.0, 1.0]))
    )
    return {
        "MODEL.PIXEL_MEAN": [round(value, 4) for value in mean],
        "MODEL.PIXEL_STD": [round(value, 4) for value in std],
    }


def _recorded_pixels(file: SourceFile) -> dict[str, Any]:
    for holder in (find_dict(file.config, "to_rgb"), find_dict(file.config, "bgr_to_rgb")):
        if holder and holder.get("mean") and holder.get("std"):
            is_rgb = holder.get("to_rgb", holder.get("bgr_to_rgb"))
            return {
                "INPUT.FORMAT": "RGB" if is_rgb else "BGR",
                "MODEL.PIXEL_MEAN": [float(value) for value in holder["mean"]],
                "MODEL.PIXEL_STD": [float(value) for value in holder["std"]],
            }
    return {}


def _dict_of(file: SourceFile, key: str) -> dict[str, Any]:
    value = (find_dict(file.config.get("model") or {}, key) or {}).get(key)
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, dict) else {}


def _letters(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
