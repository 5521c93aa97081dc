"""Names of tensors: where each of a source's tensors belongs in this project's models."""

import re

_STATE = {"pos_neg": "pos_neg_ratio"}  # of EQLv2
_PARTS = (
    (r"neck\.lateral_convs\.(\d)\.conv\.(.+)", lambda m: f"backbone.fpn_lateral{int(m[1]) + 2}.{m[2]}"),
    (r"neck\.fpn_convs\.(\d)\.conv\.(.+)", lambda m: f"backbone.fpn_output{int(m[1]) + 2}.{m[2]}"),
    (r"rpn_head\.rpn_conv\.(.+)", lambda m: f"proposal_generator.rpn_head.conv.{m[1]}"),
    (r"rpn_head\.rpn_cls\.(.+)", lambda m: f"proposal_generator.rpn_head.objectness_logits.{m[1]}"),
    (r"rpn_head\.rpn_reg\.(.+)", lambda m: f"proposal_generator.rpn_head.anchor_deltas.{m[1]}"),
    (r"bbox_head\.(\d\.)?shared_fcs\.(\d)\.(.+)", lambda m: f"roi_heads.box_head.{m[1] or ''}fc{int(m[2]) + 1}.{m[3]}"),
    (r"bbox_head\.(\d\.)?fc_cls\.(.+)", lambda m: f"roi_heads.box_predictor.{m[1] or ''}cls_score.{m[2]}"),
    (r"bbox_head\.(\d\.)?fc_reg\.(.+)", lambda m: f"roi_heads.box_predictor.{m[1] or ''}bbox_pred.{m[2]}"),
    (
        r"bbox_head\.(\d\.)?loss_cls\.(.+)",
        lambda m: f"roi_heads.box_predictor.{m[1] or ''}loss.{_STATE.get(m[2], m[2])}",
    ),
    (r"mask_head\.(\d\.)?convs\.(\d)\.conv\.(.+)", lambda m: _mask(m[1], f"mask_fcn{int(m[2]) + 1}.{m[3]}")),
    (r"mask_head\.(\d\.)?upsample\.(.+)", lambda m: _mask(m[1], f"deconv.{m[2]}")),
    (r"mask_head\.(\d\.)?conv_logits\.(.+)", lambda m: _mask(m[1], f"predictor.{m[2]}")),
)
_RESNET = re.compile(r"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.(\d))\.(.+)")


def _mask(stage: str | None, rest: str) -> str:
    return f"roi_heads.mask_head.{f'heads.{stage}' if stage else ''}{rest}"


def resnet_name(name: str) -> str | None:
    """The place of a tensor of torchvision's ResNet, which is also mmdetection's; None if it is not one."""
    stem = re.fullmatch(r"(conv1|bn1)\.(.+)", name)
    if stem:
        return f"backbone.bottom_up.stem.conv1.{'norm.' if stem[1] == 'bn1' else ''}{stem[2]}"
    match = _RESNET.fullmatch(name)
    if not match:
        return None
    stage, block, kind, number, shortcut, rest = match.groups()
    is_norm = kind == "bn" or shortcut == "1"
    layer = "shortcut" if shortcut else f"conv{number}"
    return f"backbone.bottom_up.res{int(stage) + 1}.{block}.{layer}.{'norm.' if is_norm else ''}{rest}"


def detector_name(name: str) -> str | None:
    """The place of a tensor of mmdetection's detectors (without 2.x's ``roi_head.``); None if there is none."""
    if name.startswith("backbone."):
        return resnet_name(name.removeprefix("backbone."))
    for pattern, place in _PARTS:
        match = re.fullmatch(pattern, name)
        if match:
            return place(match)
    return None
