"""Checkpoints with random weights under the names, shapes and class order of other code bases."""

import torch
import torchvision

K = 6  # classes of the tiny set
FC, MASK, FPN = 32, 8, 32


def resnet(depth=18, seed=0):
    """torchvision's ResNet with random weights and statistics that are no identity."""
    torch.manual_seed(seed)
    model = getattr(torchvision.models, f"resnet{depth}")().eval()
    for name, value in model.named_buffers():
        if value.dim():
            value.copy_(torch.rand_like(value) + (0.5 if name.endswith("var") else -0.5))
    return model


def layer(tensors, name, *shape, scale=None):
    """Add a weight and a bias of random values that keep the signal's size."""
    fan_in = torch.Size(shape[1:]).numel()
    tensors[f"{name}.weight"] = torch.randn(*shape) * (scale or fan_in**-0.5)
    outputs = shape[1] if name.endswith("upsample") else shape[0]
    tensors[f"{name}.bias"] = torch.randn(outputs) * 0.3


def mmdet(num_logits, *, first=False, stages=1, agnostic=False, depth=18, masks=True):
    """A Faster, Mask or Cascade R-CNN of mmdetection; ``first``: of 1.x, with background first and no ``roi_head.``."""
    tensors = {f"backbone.{name}": value for name, value in resnet(depth).state_dict().items() if "fc." not in name}
    channels = (64, 128, 256, 512) if depth < 50 else (256, 512, 1024, 2048)
    for level, width in enumerate(channels):
        layer(tensors, f"neck.lateral_convs.{level}.conv", FPN, width, 1, 1)
        layer(tensors, f"neck.fpn_convs.{level}.conv", FPN, FPN, 3, 3)
    layer(tensors, "rpn_head.rpn_conv", FPN, FPN, 3, 3)
    layer(tensors, "rpn_head.rpn_cls", 3, FPN, 1, 1)
    layer(tensors, "rpn_head.rpn_reg", 12, FPN, 1, 1)
    prefix, boxes = ("" if first else "roi_head."), (1 if agnostic else K + first)
    for stage in [f"{stage}." for stage in range(stages)] if stages > 1 else [""]:
        layer(tensors, f"{prefix}bbox_head.{stage}shared_fcs.0", FC, FPN * 49)
        layer(tensors, f"{prefix}bbox_head.{stage}shared_fcs.1", FC, FC)
        layer(tensors, f"{prefix}bbox_head.{stage}fc_cls", num_logits, FC)
        layer(tensors, f"{prefix}bbox_head.{stage}fc_reg", 4 * boxes, FC)
        if masks:
            layer(tensors, f"{prefix}mask_head.{stage}convs.0.conv", MASK, FPN, 3, 3)
            layer(tensors, f"{prefix}mask_head.{stage}upsample", MASK, MASK, 2, 2)
            layer(tensors, f"{prefix}mask_head.{stage}conv_logits", K + first, MASK, 1, 1)
    return tensors


def write(folder, tensors, **meta):
    """Write a checkpoint as mmcv does."""
    path = folder / "source.pth"
    torch.save({"meta": {"mmdet_version": "2.14.0", "epoch": 24, **meta}, "state_dict": tensors}, path)
    return path
