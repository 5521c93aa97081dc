"""Image transforms by their names in a config, through torchvision."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional

from eql_d2.data.pictures import eight_bits
from eql_d2.errors import UserError

MODES = {"RGB": 3, "L": 1}


class Cutout:
    """Fills a square of an image with one colour (DeVries and Taylor, arXiv 1708.04552).

    The middle of the square is any pixel, so that a part of it may lie outside.

    Args:
        size: side in pixels.
        fill: colour, one number in [0, 255] a channel.
    """

    def __init__(self, size: int, fill: Sequence[int]) -> None:
        self.size = size
        self.fill = list(fill)

    def __call__(self, image: Image.Image) -> Image.Image:
        """A copy with the square filled."""
        x, y = (int(torch.randint(length, ())) - self.size // 2 for length in image.size)
        image = image.copy()
        fill = tuple(self.fill) if len(self.fill) > 1 else self.fill[0]
        image.paste(fill, (max(x, 0), max(y, 0), max(x + self.size, 0), max(y + self.size, 0)))
        return image


def _auto_augment(policy: str = "imagenet", **options: Any) -> transforms.AutoAugment:
    return transforms.AutoAugment(transforms.AutoAugmentPolicy(policy.lower()), **options)


TRANSFORMS: dict[str, Callable[..., Callable[[Image.Image], Image.Image]]] = {
    "AutoAugment": _auto_augment,
    "CenterCrop": transforms.CenterCrop,
    "ColorJitter": transforms.ColorJitter,
    "Cutout": Cutout,
    "RandAugment": transforms.RandAugment,
    "RandomAffine": transforms.RandomAffine,
    "RandomCrop": transforms.RandomCrop,
    "RandomHorizontalFlip": transforms.RandomHorizontalFlip,
    "RandomResizedCrop": transforms.RandomResizedCrop,
    "RandomRotation": transforms.RandomRotation,
    "Resize": transforms.Resize,
    "TrivialAugmentWide": transforms.TrivialAugmentWide,
}
"""Transforms of PIL images that draw from PyTorch's random numbers only, so that runs repeat."""
POLICIES = ("cifar10", "imagenet", "svhn")


def build_transforms(cfg: CfgNode, is_train: bool) -> Callable[[Image.Image], Tensor]:
    """What ``INPUT.TRAIN_TRANSFORMS`` or ``INPUT.TEST_TRANSFORMS`` says, then a uint8 tensor (C, H, W).

    Args:
        cfg: full config; Cutout fills with ``MODEL.PIXEL_MEAN`` if not told otherwise.
        is_train: which of the two.

    Raises:
        UserError: a transform or an option of it is unknown.
    """
    key = f"INPUT.{'TRAIN' if is_train else 'TEST'}_TRANSFORMS"
    if cfg.INPUT.FORMAT not in MODES:
        raise UserError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}; for image classification it must be RGB or L (grey).")
    if len(cfg.MODEL.PIXEL_MEAN) != MODES[cfg.INPUT.FORMAT] or len(cfg.MODEL.PIXEL_STD) != MODES[cfg.INPUT.FORMAT]:
        raise UserError(
            f"MODEL.PIXEL_MEAN and MODEL.PIXEL_STD need {MODES[cfg.INPUT.FORMAT]} numbers each for INPUT.FORMAT "
            f"{cfg.INPUT.FORMAT}, one per channel."
        )
    listed = cfg.INPUT.TRAIN_TRANSFORMS if is_train else cfg.INPUT.TEST_TRANSFORMS
    mean = [round(value) for value in cfg.MODEL.PIXEL_MEAN]
    return transforms.Compose([*(_build_one(entry, key, mean) for entry in listed), functional.pil_to_tensor])


def _build_one(entry: Any, key: str, mean: list[int]) -> Callable[[Image.Image], Image.Image]:
    name: Any = entry
    options: Any = {}
    if isinstance(entry, dict) and len(entry) == 1:
        ((name, options),) = entry.items()
    if name not in list(TRANSFORMS):  # a list, for what cannot be a key
        raise UserError(f"{key} has the unknown {name!r}; it must be one of {', '.join(sorted(TRANSFORMS))}.")
    if not isinstance(options, dict | None):
        raise UserError(f"{key}: {name} has the options {options!r}; give each by its name, as in {{size: 32}}.")
    options = dict(options or {})
    if name == "AutoAugment" and options.get("policy", "imagenet") not in POLICIES:
        raise UserError(f"{key}: AutoAugment has the policy {options['policy']!r}; it must be {', '.join(POLICIES)}.")
    if name == "Cutout":
        options.setdefault("fill", mean)
    try:
        inspect.signature(TRANSFORMS[name]).bind(**options)
        return TRANSFORMS[name](**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: {name} does not take {options or 'no options'} ({error}).") from None


class ImageMapper:
    """Turns a record of an :class:`ImageSet` into the model's input, with a uint8 ``image`` (C, H, W).

    Args:
        cfg: full config.
        is_train: whether to augment for training.
    """

    def __init__(self, cfg: CfgNode, is_train: bool) -> None:
        self._mode = cfg.INPUT.FORMAT
        self._key = f"INPUT.{'TRAIN' if is_train else 'TEST'}_TRANSFORMS"
        self._transform = build_transforms(cfg, is_train)

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Read the image, if it is in a file, and transform it.

        Raises:
            UserError: a transform does not take it, as one too small for a crop.
        """
        image = record["image"] if "image" in record else Image.open(record["file_name"])
        image = eight_bits(image).convert(self._mode)
        try:
            return {**record, "image": self._transform(image)}
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(
                f"{self._key} cannot be applied to image {record['file_name']} of {image.width}x{image.height} pixels: "
                f"{error}"
            ) from None
