"""Classifiers with constrained weights: cosine similarity (Seesaw Loss), learned scales (LWS)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eql_d2.losses.base import at_least_float32

NORM_EPSILON = 1e-6


class NormedLinear(nn.Linear):
    """A linear layer on normalized features with normalized weights: τ · (w / ‖w‖)ᵀ (x / ‖x‖) + b.

    From Seesaw Loss (Wang et al., CVPR 2021, section 3). The classifier then cannot prefer frequent classes by the
    length of their weights.

    Args:
        in_features: length of x.
        out_features: number of outputs.
        temperature: τ, above 0.
        bias: whether there is b; without it and with τ = 1 the outputs are cosines.
    """

    def __init__(self, in_features: int, out_features: int, temperature: float = 20.0, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """(R, in_features) to (R, out_features)."""
        return F.linear(self.temperature * normalized(x), normalized(self.weight), self.bias)


class ScaledLinear(nn.Linear):
    """A linear layer whose outputs have a learned scale each: s · (wᵀx + b), with s = 1 at first.

    Learnable weight scaling (LWS: Kang et al., ICLR 2020, section 4.2) trains the scales alone.

    Args:
        in_features: length of x.
        out_features: number of outputs.
        scales_bias: whether s also scales b, as in Kang et al.'s code; False is s · wᵀx + b, as in EQLv2's code
            (mmdet/models/roi_heads/bbox_heads/lws_layer.py).
    """

    def __init__(self, in_features: int, out_features: int, scales_bias: bool = True) -> None:
        super().__init__(in_features, out_features)
        self.scale = nn.Parameter(torch.ones(out_features))
        self.scales_bias = scales_bias

    def forward(self, x: Tensor) -> Tensor:
        """(R, in_features) to (R, out_features)."""
        if self.scales_bias:
            return self.scale * super().forward(x)
        return self.scale * F.linear(x, self.weight) + self.bias


class NormedConv2d(nn.Conv2d):
    """A convolution without padding, stride or groups that normalizes x and w over channels.

    Args:
        in_channels: channels of x.
        out_channels: channels of the output.
        kernel_size: side of the kernel; 1 for mask prediction.
        temperature: τ, above 0.
    """

    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, temperature: float = 20.0) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H', W')."""
        return F.conv2d(self.temperature * normalized(x), normalized(self.weight), self.bias)


def normalized(tensor: Tensor) -> Tensor:
    """Divide by the norm over dimension 1, plus a small number (which half precision could not hold)."""
    tensor = at_least_float32(tensor)
    return tensor / (tensor.norm(dim=1, keepdim=True) + NORM_EPSILON)
