"""Backbones of timm as the bottom of a feature pyramid: any of its feature extractors, in YAML and in lazy configs."""

import difflib
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

from eql_d2.errors import UserError, import_extra
from eql_d2.once_a_machine import first_on_each_machine

FIRST_STRIDE = 4
"""Stride of the first stage; what is below is the stem."""


class TimmBackbone(Backbone):
    """A feature extractor of timm (``features_only=True``).

    Its maps are named by their strides, as Detectron2's ResNets: stride 4 is res2, 8 res3, 16 res4, 32 res5.

    Args:
        name: of a model that timm can build as a feature extractor, as ``convnext_tiny``.
        out_features: names of the maps to give.
        pretrained: whether timm fetches weights.
        checkpoint_path: file of weights, as timm saves them; empty for none.
        freeze_at: how many of the stem and the stages do not train, from the bottom: 0 none, 1 the stem, 2 the stem and
            the first stage, as ``MODEL.BACKBONE.FREEZE_AT``.
        options: further arguments of the model, as ``{"drop_path_rate": 0.1}``.

    Raises:
        UserError: timm is not installed or has no such model, its maps have other strides, or the file does not fit.
    """

    def __init__(
        self,
        name: str,
        *,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        pretrained: bool = False,
        checkpoint_path: str = "",
        freeze_at: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.net = _create(name, pretrained, checkpoint_path, dict(options or {}))
        info: Any = self.net.feature_info
        self._info = info
        strides, channels = info.reduction(), info.channels()
        self._names = [f"res{stride.bit_length() - 1}" for stride in strides]
        absent = [feature for feature in out_features if feature not in self._names]
        if absent:
            raise UserError(
                f"{name} of timm has no map {absent[0]}, only {', '.join(self._names)} (strides "
                f"{', '.join(map(str, strides))}); set the names of the maps to some of these."
            )
        self._out_features = list(out_features)
        self._out_feature_strides = dict(zip(self._names, strides, strict=True))
        self._out_feature_channels = dict(zip(self._names, channels, strict=True))
        # Transformers give their maps with channels last.
        formats = getattr(self.net, "output_fmt", None)
        self._channels_last = str(getattr(formats, "value", formats)).upper() == "NHWC"
        self._freeze(freeze_at)

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Nothing but sides that the strides divide."""
        return {}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """The maps of a batch (N, 3, H, W), normalized; each (N, C, H / stride, W / stride)."""
        maps = dict(zip(self._names, self.net(image), strict=True))
        return {
            name: maps[name].permute(0, 3, 1, 2).contiguous() if self._channels_last else maps[name]
            for name in self._out_features
        }

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }

    def depth_of(self, parameter: str) -> int:
        """How far from the bottom a parameter is: 0 in the stem, then its stage, from 1."""
        infos = [info for info in self._info.get_dicts() if info["reduction"] >= FIRST_STRIDE]
        stages = [info["module"].replace(".", "_") for info in infos]
        flat = parameter.removeprefix("net.").replace(".", "_")
        for place, stage in enumerate(stages, start=1):
            if flat.startswith(f"{stage}_"):
                return place
        return 0

    def _freeze(self, freeze_at: int) -> None:
        for name, parameter in self.named_parameters():
            if self.depth_of(name) < freeze_at:
                parameter.requires_grad_(False)


def _create(name: str, pretrained: bool, checkpoint_path: str, options: dict[str, Any]) -> nn.Module:
    timm = import_extra("timm", "timm", f"The backbone {name}")
    if name.partition(".")[0] not in timm.list_models():
        nearest = difflib.get_close_matches(name, timm.list_models(), n=1)
        raise UserError(f"timm has no model {name}{f'; did you mean {nearest[0]}?' if nearest else '.'}")
    if name.startswith("swin_"):
        options.setdefault("strict_img_size", False)  # images come in many sizes

    def create() -> nn.Module:
        try:
            return timm.create_model(
                name, features_only=True, pretrained=pretrained, checkpoint_path=checkpoint_path, **options
            )
        except (RuntimeError, OSError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"timm cannot build {name} ({reason}); check its weights, or the network if they are to be fetched."
            ) from None

    return first_on_each_machine(create) if pretrained else create()


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A feature pyramid on the extractor that ``MODEL.TIMM`` names, with Detectron2's keys ``MODEL.FPN``."""
    options = cfg.MODEL.TIMM
    bottom_up = TimmBackbone(
        options.NAME,
        out_features=cfg.MODEL.FPN.IN_FEATURES,
        pretrained=options.PRETRAINED,
        checkpoint_path=options.WEIGHTS,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        options={"drop_path_rate": options.DROP_PATH_RATE} if options.DROP_PATH_RATE else {},
    )
    return FPN(
        bottom_up=bottom_up,
        in_features=list(cfg.MODEL.FPN.IN_FEATURES),
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
