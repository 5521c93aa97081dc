"""Simple copy–paste (Ghiasi et al., CVPR 2021): instances of one training image pasted onto another."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor

from eql_d2.data.category_counts import category_counts
from eql_d2.data.training.build_sampler import fitting_counts
from eql_d2.data.training.image_classes import ImageClasses
from eql_d2.data.training.samplers import category_repeat_factors
from eql_d2.errors import UserError

Sample = dict[str, Any]
# Fields that mapped instances may lack, and what they are then.
ABSENT_FIELDS = {"gt_has_mask": True}


class CopyPaste:
    """Makes a training sample of an image and a random subset of the instances of a second one.

    Both are mapped, hence augmented, by themselves. Of the second image's n instances with a mask m are pasted, in
    their places, m uniform in 0 … n. If the images differ in size, the one frame is put at random into the other.
    Edges are not blended: the paper finds no gain in it (section 4.1), and its code leaves it out.

    All that is random comes from NumPy's global state.

    Args:
        make_sample: maps an index to a mapped image, e.g. :class:`MappedImages`.
        weights: (N,) how often each image is drawn as the second one, relative to the others.
        hidden_area: see :func:`paste`.
        hidden_shift: see :func:`paste`.
    """

    def __init__(
        self,
        make_sample: Callable[[int], Sample],
        weights: Sequence[float] | Tensor,
        *,
        hidden_area: float = 300,
        hidden_shift: float = 10,
    ) -> None:
        self._make_sample = make_sample
        self._cumulative = np.cumsum(np.asarray(weights, dtype=np.float64))
        self._hidden = {"hidden_area": hidden_area, "hidden_shift": hidden_shift}

    def __call__(self, index: int) -> Sample:
        """The sample of an image.

        Raises:
            UnreadableImageError: one of the two images cannot be read.
        """
        target = self._make_sample(index)
        source = self._make_sample(self._draw_source())
        masked = _indices_with_mask(source["instances"])
        count = np.random.randint(len(masked) + 1)
        chosen = torch.from_numpy(np.random.permutation(masked)[:count])
        sizes = zip(target["image"].shape[1:], source["image"].shape[1:], strict=True)
        row, column = (_random_offset(*sides) for sides in sizes)
        return paste(target, source, chosen, (row, column), **self._hidden)

    def _draw_source(self) -> int:
        place = np.random.random_sample() * self._cumulative[-1]
        return int(np.searchsorted(self._cumulative, place, side="right"))


def build_copy_paste(cfg: CfgNode, make_sample: Callable[[int], Sample], classes: ImageClasses) -> CopyPaste:
    """Copy–paste as the config says (``INPUT.COPY_PASTE``).

    Args:
        cfg: full config.
        make_sample: maps an index to a mapped image.
        classes: the classes of the images.

    Raises:
        UserError: the config leaves no masks to paste, or a key is out of its range.
    """
    if not cfg.MODEL.MASK_ON:
        raise UserError(
            "INPUT.COPY_PASTE.ENABLED is True, but MODEL.MASK_ON is not: there are no masks; set it to True."
        )
    if cfg.MODEL.KEYPOINT_ON:
        raise UserError("INPUT.COPY_PASTE.ENABLED is True, but pastes no keypoints; set MODEL.KEYPOINT_ON to False.")
    options = cfg.INPUT.COPY_PASTE
    if options.REPEAT_THRESHOLD < 0:
        raise UserError(f"INPUT.COPY_PASTE.REPEAT_THRESHOLD is {options.REPEAT_THRESHOLD}; set it to 0 or a share.")
    weights = torch.ones(classes.num_images)
    if options.REPEAT_THRESHOLD:
        frequencies = fitting_counts(category_counts(cfg), classes, cfg.DATASETS.TRAIN).image_frequencies
        weights = classes.largest(category_repeat_factors(frequencies, options.REPEAT_THRESHOLD))
    return CopyPaste(make_sample, weights, hidden_area=options.HIDDEN_AREA, hidden_shift=options.HIDDEN_SHIFT)


def _random_offset(target: int, source: int) -> int:
    """Where the source's frame begins in the target's: it lies within it, or covers it."""
    low, high = sorted((0, target - source))
    return np.random.randint(low, high + 1)


def _indices_with_mask(instances: Instances) -> np.ndarray:
    """Indices of the instances with a mask of their own (``gt_has_mask``, where it is, tells those without)."""
    if not instances.has("gt_masks"):
        return np.zeros(0, dtype=np.int64)
    has_mask = instances.gt_masks.nonempty()
    if instances.has("gt_has_mask"):
        has_mask = has_mask & instances.gt_has_mask
    return np.flatnonzero(has_mask.numpy())


def paste(
    target: Sample,
    source: Sample,
    chosen: Tensor,
    offset: tuple[int, int] = (0, 0),
    *,
    hidden_area: float = 300,
    hidden_shift: float = 10,
) -> Sample:
    """Paste instances of one mapped image onto another.

    The target's masks are cut and its boxes are those of what stays visible. An instance that is cut, by a pasted one
    or by the frame, is left out if nothing of it is visible, or if at most ``hidden_area`` pixels are and a side of
    its box has moved by more than ``hidden_shift``: the rule of the authors' code, with its thresholds.

    Args:
        target: Detectron2's mapped dict with ``image`` (C, H, W) and ``instances``; not changed. What it says of the
            image beyond its instances is kept. If its instances have no masks, nothing is pasted.
        source: a mapped dict; of its instances only fields that the target's have too are pasted.
        chosen: (m,) int64, instances of the source; they need masks.
        offset: row and column of the target at which the source's frame begins.
        hidden_area: in pixels.
        hidden_shift: in pixels.

    Returns:
        A dict as the target, with bit masks. If its ``Instances`` are of a class with a method
        ``with_present_classes(classes)``, it is called with the classes of what was pasted, (m,) int64, to return
        instances that know of them.
    """
    instances = _with_bit_masks(target["instances"])
    result = {**target, "instances": instances}
    if not len(chosen) or (len(instances) and not instances.has("gt_masks")):
        return result
    rule = {"hidden_area": hidden_area, "hidden_shift": hidden_shift}
    pasted = _moved(_with_bit_masks(source["instances"][chosen]), instances.image_size, offset, rule)
    if not len(pasted):
        return result
    cover = pasted.gt_masks.tensor.any(dim=0)
    if len(instances):
        touched = (instances.gt_masks.tensor & cover).flatten(1).any(dim=1)
        boxes = instances.gt_boxes.tensor
        instances = _cut(instances, instances.gt_masks.tensor & ~cover, boxes, touched, **rule)
    merged = _merged(instances, pasted)
    if hasattr(merged, "with_present_classes"):
        merged = merged.with_present_classes(pasted.gt_classes)
    image = _painted(target["image"], source["image"], cover, offset)
    return {**result, "image": image, "instances": merged}


def _with_bit_masks(instances: Instances) -> Instances:
    """A shallow copy with bit masks for polygons: cut masks are no polygons."""
    instances = copy.copy(instances)
    instances._fields = dict(instances.get_fields())
    if instances.has("gt_masks") and isinstance(instances.gt_masks, PolygonMasks):
        instances.gt_masks = BitMasks.from_polygon_masks(instances.gt_masks, *instances.image_size)
    return instances


def _moved(instances: Instances, size: tuple[int, int], offset: tuple[int, int], rule: dict[str, float]) -> Instances:
    """Instances with masks and boxes in a frame of another size, which may cut them."""
    masks = instances.gt_masks.tensor
    if tuple(masks.shape[1:]) == tuple(size) and tuple(offset) == (0, 0):
        return instances
    here, there = _overlap(size, masks.shape[1:], offset)
    framed = masks.new_zeros(len(masks), *size)
    framed[_ALL + here] = masks[_ALL + there]
    boxes = instances.gt_boxes.tensor + torch.tensor([offset[1], offset[0]] * 2)
    cut = _areas(framed) < _areas(masks)
    return _cut(instances, framed, boxes, cut, **rule)


def _cut(
    instances: Instances, masks: Tensor, boxes: Tensor, cut: Tensor, hidden_area: float, hidden_shift: float
) -> Instances:
    """Instances of which only a part is visible any more, without the hidden ones.

    Args:
        instances: N instances.
        masks: (N, H, W) bool, what is visible of each.
        boxes: (N, 4), of the whole instances.
        cut: (N,) bool, which are cut; the others keep their boxes.
        hidden_area: see :func:`paste`.
        hidden_shift: see :func:`paste`.
    """
    tight = BitMasks(masks[cut]).get_bounding_boxes().tensor
    areas = _areas(masks[cut])
    shift = (tight - boxes[cut]).abs().amax(dim=1)
    kept = torch.ones(len(instances), dtype=torch.bool)
    kept[cut] = (areas > 0) & ((areas > hidden_area) | (shift <= hidden_shift))
    boxes = boxes.clone()
    boxes[cut] = tight
    visible = instances[kept]
    visible.gt_masks, visible.gt_boxes = BitMasks(masks[kept]), Boxes(boxes[kept])
    return visible


def _areas(masks: Tensor) -> Tensor:
    """(N,) numbers of pixels of masks (N, H, W); PyTorch takes a hundred times as long to sum booleans."""
    return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.int64)


def _merged(instances: Instances, pasted: Instances) -> Instances:
    """The fields that both have, one after the other, in a copy of the first: it keeps what it knows of its image."""
    first, second = instances.get_fields(), pasted.get_fields()
    if not len(instances):
        fields = second
    else:
        names = [name for name in first | second if (name in first and name in second) or name in ABSENT_FIELDS]
        parts = [
            {name: part[name] if name in part else torch.full((count,), ABSENT_FIELDS[name]) for name in names}
            for part, count in ((first, len(instances)), (second, len(pasted)))
        ]
        fields = Instances.cat([Instances(instances.image_size, **part) for part in parts]).get_fields()
    merged = copy.copy(instances)
    merged._fields = fields
    return merged


def _painted(target: Tensor, source: Tensor, cover: Tensor, offset: tuple[int, int]) -> Tensor:
    """The target's image (C, H, W) with the source's pixels under the cover (H, W)."""
    here, there = _overlap(target.shape[1:], source.shape[1:], offset)
    image = target.clone()
    window = image[_ALL + here]
    window.copy_(torch.where(cover[here], source[_ALL + there], window))
    return image


_ALL = (slice(None),)  # of the first dimension


def _overlap(
    size: Sequence[int], source_size: Sequence[int], offset: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a frame that begins at an offset lies within another: rows and columns of the other, and of itself."""
    ranges = [
        (max(0, start), min(side, start + length))
        for side, length, start in zip(size, source_size, offset, strict=True)
    ]
    here = tuple(slice(begin, end) for begin, end in ranges)
    there = tuple(slice(begin - start, end - start) for (begin, end), start in zip(ranges, offset, strict=True))
    return here, there
