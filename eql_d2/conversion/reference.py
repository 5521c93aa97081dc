"""A detector in the source's layout, in plain PyTorch: what the published weights compute where they come from.

Written after the layer descriptions of mmdetection 1.x and 2.x; shares nothing with this project's models, so that
equal outputs prove the conversion.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from eql_d2.conversion.layouts import Source
from eql_d2.conversion.names import detector_name
from eql_d2.conversion.source_file import SourceFile

BATCH_NORM_EPS = 1e-5
NORMED_EPS = 1e-6


class SourceModel:
    """The source's forward pass in float64, on its tensors under their names.

    Args:
        source: the code base.
        file: the checkpoint.
        settings: what the source's config says: ``caffe_style``, ``mean``, ``std``, ``rgb``, ``method`` (a
            predictor's name), ``normed_classifier``, ``temperature``, ``normed_mask``, ``mask_temperature``,
            ``instance_counts`` and ``bin_edges`` (of BAGS), ``stages``, ``objectness``.
    """

    def __init__(self, source: Source, file: SourceFile, settings: dict[str, Any]) -> None:
        self.source = source
        self.settings = settings
        self.tensors = {
            name.removeprefix("roi_head."): value.double() for name, value in file.tensors.items() if value.dim()
        }

    def has(self, name: str) -> bool:
        """Whether there is a tensor of a name."""
        return self._name(name) in self.tensors

    def get(self, name: str) -> Tensor:
        """A tensor by its name in mmdetection."""
        return self.tensors[self._name(name)]

    def _name(self, name: str) -> str:
        if self.source.name == "torchvision":
            return name.removeprefix("backbone.")
        # The first EQL code has Detectron2's names, as this project: nothing is renamed.
        return (detector_name(name) or name) if self.source.name == "eql" else name

    def pixels(self, image: Tensor) -> Tensor:
        """(H, W, 3) uint8, BGR as OpenCV reads it, to the normalized (1, 3, H, W)."""
        image = image.double().flip(-1) if self.settings["rgb"] else image.double()
        mean, std = (torch.tensor(self.settings[key]).double() for key in ("mean", "std"))
        return ((image - mean) / std).permute(2, 0, 1)[None]

    def convolve(self, name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        """A convolution, with the bias that it has and the groups that its weight has."""
        weight = self.get(f"{name}.weight")
        bias = self.get(f"{name}.bias") if self.has(f"{name}.bias") else None
        return F.conv2d(x, weight, bias, stride, padding, groups=x.shape[1] // weight.shape[1])

    def normalize(self, name: str, x: Tensor) -> Tensor:
        """A BatchNorm layer with its collected statistics."""
        mean, variance = self.get(f"{name}.running_mean"), self.get(f"{name}.running_var")
        weight, bias = self.get(f"{name}.weight"), self.get(f"{name}.bias")
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=BATCH_NORM_EPS)

    def backbone(self, x: Tensor) -> list[Tensor]:
        """The outputs of ResNet's or ResNeXt's four stages."""
        x = self.normalize("backbone.bn1", self.convolve("backbone.conv1", x, 2, 3)).relu()
        x = F.max_pool2d(x, 3, 2, 1)
        outputs = []
        for stage in range(1, 5):
            block = 0
            while self.has(f"backbone.layer{stage}.{block}.conv1.weight"):
                x = self._block(f"backbone.layer{stage}.{block}", x, 2 if stage > 1 and block == 0 else 1)
                block += 1
            outputs.append(x)
        return outputs

    def _block(self, name: str, x: Tensor, stride: int) -> Tensor:
        is_bottleneck = self.has(f"{name}.conv3.weight")
        layers = ("1", "2", "3") if is_bottleneck else ("1", "2")
        strided = "2" if is_bottleneck and not self.settings["caffe_style"] else "1"
        out = x
        for layer in layers:
            kernel = self.get(f"{name}.conv{layer}.weight").shape[-1]
            out = self.convolve(f"{name}.conv{layer}", out, stride if layer == strided else 1, kernel // 2)
            out = self.normalize(f"{name}.bn{layer}", out)
            out = out if layer == layers[-1] else out.relu()
        if self.has(f"{name}.downsample.0.weight"):
            x = self.normalize(f"{name}.downsample.1", self.convolve(f"{name}.downsample.0", x, stride))
        return (out + x).relu()

    def neck(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """FPN: five levels of strides 4 to 64."""
        merged = [self.convolve(f"neck.lateral_convs.{level}.conv", x) for level, x in enumerate(stages)]
        for level in range(len(merged) - 1, 0, -1):
            size = merged[level - 1].shape[-2:]
            merged[level - 1] = merged[level - 1] + F.interpolate(merged[level], size=size, mode="nearest")
        levels = [self.convolve(f"neck.fpn_convs.{level}.conv", x, padding=1) for level, x in enumerate(merged)]
        return [*levels, F.max_pool2d(levels[-1], 1, 2)]

    def proposals(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Objectness logits (1, A, H, W) and box deltas (1, 4A, H, W) of a level."""
        x = self.convolve("rpn_head.rpn_conv", level, padding=1).relu()
        return self.convolve("rpn_head.rpn_cls", x), self.convolve("rpn_head.rpn_reg", x)

    def pool(self, levels: Sequence[Tensor], boxes: Tensor, size: int) -> Tensor:
        """RoI features (R, C, size, size), each from the level of its size."""
        scale = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        level_of = (scale / 56 + 1e-6).log2().floor().clamp(0, 3).long()
        features = boxes.new_zeros(len(boxes), levels[0].shape[1], size, size)
        old = self.source.background_first
        for level in range(4):
            chosen = level_of == level
            if chosen.any():
                rois = F.pad(boxes[chosen], (1, 0))
                features[chosen] = roi_align(
                    levels[level], rois, size, 1 / (4 * 2**level), sampling_ratio=2 if old else 0, aligned=not old
                )
        return features

    def box_head(self, features: Tensor, stage: int) -> tuple[Tensor, Tensor]:
        """Class logits and box deltas, in the source's order, of pooled features."""
        prefix = f"bbox_head.{stage}." if self.settings["stages"] > 1 else "bbox_head."
        x, layer = features.flatten(1), 0
        while self.has(f"{prefix}shared_fcs.{layer}.weight"):
            x = self._linear(f"{prefix}shared_fcs.{layer}", x).relu()
            layer += 1
        deltas = self._linear(f"{prefix}fc_reg", x)
        weight, bias = self.get(f"{prefix}fc_cls.weight"), self.get(f"{prefix}fc_cls.bias")
        if self.has(f"{prefix}fc_cls.weight_scaler"):
            weight = weight * self.get(f"{prefix}fc_cls.weight_scaler")
        if self.settings["normed_classifier"]:
            weight = weight / (weight.norm(dim=1, keepdim=True) + NORMED_EPS)
            x = x / (x.norm(dim=1, keepdim=True) + NORMED_EPS) * self.settings["temperature"]
        return F.linear(x, weight, bias), deltas

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.get(f"{name}.weight"), self.get(f"{name}.bias"))

    def scores(self, logits: Tensor) -> Tensor:
        """(R, K + 1) scores with background last, whatever its place among the logits."""
        method = self.settings["method"]
        if method == "BAGSPredictor":
            return self._group_scores(logits)
        if method in ("SigmoidPredictor", "EQLPredictor"):
            return F.pad(logits.sigmoid(), (0, 1))
        if method == "EQLv2Predictor":
            probabilities = logits.sigmoid()
            background = probabilities[:, -1:]
            return torch.cat([probabilities[:, :-1] * (1 - background), background], dim=1)
        if method == "SeesawPredictor":
            objectness = logits[:, -2:].softmax(dim=1)
            return torch.cat([logits[:, :-2].softmax(dim=1) * objectness[:, :1], objectness[:, 1:]], dim=1)
        probabilities = logits.softmax(dim=1)
        return probabilities.roll(-1, dims=1) if self.source.background_first else probabilities

    def _group_scores(self, logits: Tensor) -> Tensor:
        """BAGS: a softmax a group, first [background, foreground]; in EQLv2's code last [foreground, background]."""
        counts, edges = self.settings["instance_counts"], self.settings["bin_edges"]
        groups = [[k for k, n in enumerate(counts) if bisect_right(edges, n) == g] for g in range(len(edges) + 1)]
        first = self.source.background_first
        start = 2 if first else 0
        two = (logits[:, :2] if first else logits[:, -2:].flip(1)).softmax(dim=1)  # [background, foreground]
        scores = logits.new_zeros(len(logits), len(counts) + 1)
        for group in groups:
            scores[:, group] = logits[:, start : start + len(group) + 1].softmax(dim=1)[:, 1:] * two[:, 1:]
            start += len(group) + 1
        scores[:, -1] = two[:, 0]
        return scores

    def masks(self, features: Tensor) -> Tensor:
        """(R, K, 2H, 2W) probabilities, the mean over a Cascade's heads, of pooled features."""
        prefixes = [prefix for prefix in self._mask_prefixes() if self.has(f"{prefix}conv_logits.weight")]
        masks = torch.stack([self._mask_logits(prefix, features).sigmoid() for prefix in prefixes]).mean(dim=0)
        return masks[:, 1:] if self.source.background_first and masks.shape[1] > 1 else masks

    @staticmethod
    def _mask_prefixes() -> list[str]:
        return ["mask_head.", *(f"mask_head.{stage}." for stage in range(3))]

    def _mask_logits(self, prefix: str, x: Tensor) -> Tensor:
        layer = 0
        while self.has(f"{prefix}convs.{layer}.conv.weight"):
            x = self.convolve(f"{prefix}convs.{layer}.conv", x, padding=1).relu()
            layer += 1
        weight, bias = self.get(f"{prefix}upsample.weight"), self.get(f"{prefix}upsample.bias")
        x = F.conv_transpose2d(x, weight, bias, stride=2).relu()
        if not self.settings["normed_mask"]:
            return self.convolve(f"{prefix}conv_logits", x)
        weight, bias = self.get(f"{prefix}conv_logits.weight"), self.get(f"{prefix}conv_logits.bias")
        weight = weight / (weight.norm(dim=1, keepdim=True) + NORMED_EPS)
        x = x / (x.norm(dim=1, keepdim=True) + NORMED_EPS) * self.settings["mask_temperature"]
        return F.conv2d(x, weight, bias)
