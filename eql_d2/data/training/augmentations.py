"""Training augmentations by config keys: Detectron2's, and large-scale jitter."""

from collections.abc import Callable
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform, PadTransform, TransformList

from eql_d2.data.training.visible_boxes import visible_boxes
from eql_d2.errors import UserError


def training_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """What a training image goes through, in this order.

    Crop (``INPUT.CROP``); resizing, either of the shortest edge (``INPUT.MIN_SIZE_TRAIN``) or by large-scale jitter
    (``INPUT.LSJ``); flip (``INPUT.RANDOM_FLIP``).

    Args:
        cfg: full config.

    Returns:
        For the argument ``augmentations`` of Detectron2's mapper. Masks that reach out of the image are not clipped:
        wrap the mapper with :func:`with_tight_boxes`.

    Raises:
        UserError: a key of ``INPUT.LSJ`` is out of its range.
    """
    resize, *flips = detection_utils.build_augmentation(cfg, is_train=True)
    augmentations: list[T.Augmentation] = []
    if cfg.INPUT.CROP.ENABLED:
        augmentations.append(RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    augmentations += large_scale_jitter(cfg) if cfg.INPUT.LSJ.ENABLED else [resize]
    return augmentations + flips


def large_scale_jitter(cfg: CfgNode) -> list[T.Augmentation]:
    """Large-scale jitter (Ghiasi et al., CVPR 2021, figure 2): resize at random, then crop or pad to a fixed size.

    The padding has the colour of ``MODEL.PIXEL_MEAN``, so that it is zero to the network, as where Detectron2 pads
    the images of a batch; the paper has "gray", and its authors' code pads after normalisation.

    Args:
        cfg: full config.

    Raises:
        UserError: a key of ``INPUT.LSJ`` is out of its range.
    """
    low, high, size = cfg.INPUT.LSJ.MIN_SCALE, cfg.INPUT.LSJ.MAX_SCALE, cfg.INPUT.LSJ.IMAGE_SIZE
    if not 0 < low <= high:
        raise UserError(f"INPUT.LSJ has MIN_SCALE {low} and MAX_SCALE {high}; set them to 0 < MIN_SCALE <= MAX_SCALE.")
    if size < 1:
        raise UserError(f"INPUT.LSJ.IMAGE_SIZE is {size}; set it to the side of the training images in pixels.")
    return [ScaleJitter(low, high, size, size), CropOrPad((size, size), cfg.MODEL.PIXEL_MEAN)]


def with_tight_boxes(cfg: CfgNode, mapper: Callable[[dict], dict]) -> Callable[[dict], dict]:
    """Let the boxes of a mapper with :func:`training_augmentations` be those of the visible parts, if it crops.

    Args:
        cfg: full config.
        mapper: built with ``recompute_boxes=False``; Detectron2's own way fails on images without masks.
    """
    crops = cfg.INPUT.CROP.ENABLED or cfg.INPUT.LSJ.ENABLED
    return TightBoxesMapper(mapper) if crops and cfg.MODEL.MASK_ON else mapper


class TightBoxesMapper:
    """Gives instances whose masks a crop has cut the boxes of what is left, and drops those of which nothing is.

    Args:
        mapper: gives samples with ``instances``; those without masks keep their boxes.
    """

    def __init__(self, mapper: Callable[[dict], dict]) -> None:
        self._mapper = mapper

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one dataset dict."""
        sample = self._mapper(dataset_dict)
        instances = sample.get("instances")
        if instances is not None and instances.has("gt_masks"):
            boxes = visible_boxes(instances.gt_masks, instances.image_size)
            if instances.has("gt_has_mask"):  # the masks of the others only stand in
                boxes.tensor[~instances.gt_has_mask] = instances.gt_boxes.tensor[~instances.gt_has_mask]
            instances.gt_boxes = boxes
            sample["instances"] = instances[instances.gt_boxes.nonempty(threshold=1e-5)]
        return sample


class MovingCropTransform(CropTransform):
    """A crop that moves polygons and leaves what is outside to those who draw or measure them.

    The clipping of the base class needs the package shapely, and loses parts of outlines that cross themselves.
    """

    def apply_polygons(self, polygons: list[np.ndarray]) -> list[np.ndarray]:
        """Move polygons, a list of (n, 2) points in pixels."""
        return [self.apply_coords(polygon) for polygon in polygons]


class MeanPadTransform(PadTransform):
    """Padding with one colour; segmentation masks are padded with 0.

    Args:
        x1: columns added on the right.
        y1: rows added at the bottom.
        color: of the image's channels, in [0, 255].
    """

    def __init__(self, x1: int, y1: int, color: tuple[float, ...]) -> None:
        super().__init__(0, 0, x1, y1)
        self.color = color

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Pad an (H, W, C) image."""
        height, width, channels = img.shape
        padded = np.empty((height + self.y1, width + self.x1, channels), dtype=img.dtype)
        padded[:] = np.round(self.color) if img.dtype == np.uint8 else self.color
        padded[:height, :width] = img
        return padded


class RandomCrop(T.RandomCrop):
    """Detectron2's random crop, without shapely (see :class:`MovingCropTransform`)."""

    def get_transform(self, image: np.ndarray) -> MovingCropTransform:
        """Draw the crop of an (H, W, C) image."""
        return _moving(super().get_transform(image))


class ScaleJitter(T.ResizeScale):
    """Detectron2's resizing by a random scale, which leaves at least a pixel of a narrow image."""

    def get_transform(self, image: np.ndarray) -> T.ResizeTransform:
        """Draw the size of an (H, W, C) image."""
        drawn = super().get_transform(image)
        height, width = max(1, int(drawn.new_h)), max(1, int(drawn.new_w))
        return T.ResizeTransform(drawn.h, drawn.w, height, width, drawn.interp)


class CropOrPad(T.FixedSizeCrop):
    """Detectron2's crop or padding to a fixed size, with padding of one colour that belongs to no mask.

    Args:
        crop_size: height and width in pixels.
        color: of the padding, one number per channel, in [0, 255].
    """

    def __init__(self, crop_size: tuple[int, int], color: tuple[float, ...]) -> None:
        super().__init__(crop_size)
        self.color = color

    def get_transform(self, image: np.ndarray) -> TransformList:
        """Draw the crop of an (H, W, C) image."""
        crop, pad = super().get_transform(image).transforms
        return TransformList([_moving(crop), MeanPadTransform(int(pad.x1), int(pad.y1), self.color)])


def _moving(crop: CropTransform) -> MovingCropTransform:
    return MovingCropTransform(int(crop.x0), int(crop.y0), int(crop.w), int(crop.h))
