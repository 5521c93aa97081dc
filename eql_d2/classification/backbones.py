"""Backbones for image classification, by their names in ``MODEL.BACKBONE.NAME``."""

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from eql_d2.errors import UserError

TORCHVISION_RESNETS = {
    10: (BasicBlock, [1, 1, 1, 1]),
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
    152: (Bottleneck, [3, 8, 36, 3]),
}
CIFAR_WIDTHS = (16, 32, 64)
SMALL_WIDTHS = (32, 64, 128)


class LastFeatureBackbone(Backbone):
    """A backbone with one output, ``features``.

    Args:
        channels: of the output.
        stride: of the output.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self._out_features = ["features"]
        self._out_feature_channels = {"features": channels}
        self._out_feature_strides = {"features": stride}


def _init_convolutions(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)


class CifarBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut that has no parameters: pooled by leaving pixels out, padded with zeros.

    Option A of He et al. (CVPR 2016, section 4.2).

    Args:
        in_channels: channels of the input.
        channels: channels of the output, at least as many.
        stride: of the first convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.added = channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = F.pad(shortcut, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return F.relu(self.bn2(self.conv2(out)) + shortcut)


@BACKBONE_REGISTRY.register()
class CifarResNet(LastFeatureBackbone):
    """The residual network for CIFAR of He et al. (CVPR 2016, section 4.2): 6n + 2 layers, 64 channels at the end.

    Args:
        cfg: full config; ``MODEL.RESNETS.DEPTH`` is 6n + 2, as 32.
        input_shape: channels of the images.

    Raises:
        UserError: there is no network of this depth.
    """

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec) -> None:
        super().__init__(CIFAR_WIDTHS[-1], stride=4)
        depth = cfg.MODEL.RESNETS.DEPTH
        if depth < 8 or (depth - 2) % 6:
            raise UserError(f"MODEL.RESNETS.DEPTH is {depth}; for CifarResNet it must be 6n + 2, as 20, 32 or 56.")
        self.stem = nn.Sequential(
            nn.Conv2d(input_shape.channels, CIFAR_WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(CIFAR_WIDTHS[0])
        )
        blocks, channels = [], CIFAR_WIDTHS[0]
        for stage, width in enumerate(CIFAR_WIDTHS):
            for number in range((depth - 2) // 6):
                blocks.append(CifarBlock(channels, width, stride=2 if stage and not number else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        _init_convolutions(self)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (N, C, H, W) to features (N, 64, H / 4, W / 4)."""
        return {"features": self.blocks(F.relu(self.stem(x)))}


@BACKBONE_REGISTRY.register()
class TorchvisionResNet(LastFeatureBackbone):
    """torchvision's ResNet and ResNeXt without their classifier, and ResNet-10 with one block a stage.

    Args:
        cfg: full config; ``MODEL.RESNETS.DEPTH`` is a key of :data:`TORCHVISION_RESNETS`, ``NUM_GROUPS`` and
            ``WIDTH_PER_GROUP`` are 32 and 4 for ResNeXt-50 (32x4d).
        input_shape: channels of the images: 3.

    Raises:
        UserError: there is no network of this depth, or the images are grey.
    """

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec) -> None:
        options = cfg.MODEL.RESNETS
        if options.DEPTH not in TORCHVISION_RESNETS:
            known = ", ".join(map(str, TORCHVISION_RESNETS))
            raise UserError(f"MODEL.RESNETS.DEPTH is {options.DEPTH}; for TorchvisionResNet it must be one of {known}.")
        if input_shape.channels != 3:
            raise UserError("TorchvisionResNet takes images with three channels; set INPUT.FORMAT to RGB.")
        block, layers = TORCHVISION_RESNETS[options.DEPTH]
        super().__init__(512 * block.expansion, stride=32)
        groups = {"groups": options.NUM_GROUPS, "width_per_group": options.WIDTH_PER_GROUP}
        self.body = ResNet(block, layers, **(groups if block is Bottleneck else {}))
        del self.body.fc, self.body.avgpool

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W) to features (N, channels, H / 32, W / 32)."""
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(x))))
        return {"features": body.layer4(body.layer3(body.layer2(body.layer1(x))))}


@BACKBONE_REGISTRY.register()
class SmallConvNet(LastFeatureBackbone):
    """A few convolutions for tiny images on a CPU: three stages of 32, 64 and 128 channels, each at half the size.

    Args:
        cfg: full config.
        input_shape: channels of the images.
    """

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec) -> None:
        super().__init__(SMALL_WIDTHS[-1], stride=4)
        layers: list[nn.Module] = []
        channels = input_shape.channels
        for width in SMALL_WIDTHS:
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if width != SMALL_WIDTHS[-1] else []
            channels = width
        self.layers = nn.Sequential(*layers)
        _init_convolutions(self)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (N, C, H, W) to features (N, 128, H / 4, W / 4)."""
        return {"features": self.layers(x)}


def globally_pooled(features: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C): the mean over all pixels."""
    return torch.flatten(F.adaptive_avg_pool2d(features, 1), 1)
