"""Detections whose masks stay as they leave the mask head, for whoever does not need them in the picture's size."""

from typing import Any

from detectron2.modeling import GeneralizedRCNN, detector_postprocess
from detectron2.structures import Instances, ROIMasks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def keep_roi_masks(model: nn.Module) -> nn.Module:
    """A model with the detections of this one, but ``pred_masks`` are :class:`ROIMasks`, on the device.

    Args:
        model: in evaluation mode or not; also inside PyTorch's wrapper for several processes.

    Returns:
        The same model if it has no masks, or a forward pass of its own, whose results nobody can know.
    """
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    plain = isinstance(inner, GeneralizedRCNN) and all(
        getattr(type(inner), name) is getattr(GeneralizedRCNN, name) for name in ("forward", "inference")
    )
    return _WithRoIMasks(inner) if plain and getattr(inner.roi_heads, "mask_on", False) else model


class _WithRoIMasks(nn.Module):
    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # what Detectron2's evaluation puts back when it is done

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """What the model itself gives but for the masks."""
        outputs = []
        for image, found in zip(
            batched_inputs, self.model.inference(batched_inputs, do_postprocess=False), strict=True
        ):
            found.pred_masks = UnpastedMasks(found.pred_masks[:, 0])
            height, width = (
                image.get(key, size) for key, size in zip(("height", "width"), found.image_size, strict=True)
            )
            outputs.append({"instances": as_roi_masks(detector_postprocess(found, height, width))})
        return outputs


class UnpastedMasks(ROIMasks):
    """RoI masks that Detectron2's post-processing selects with their boxes, but leaves in their size."""

    def __getitem__(self, item: Any) -> "UnpastedMasks":
        return UnpastedMasks(super().__getitem__(item).tensor)

    def to_bitmasks(self, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> "UnpastedMasks":
        """These masks, where Detectron2 asks for bitmaps and takes their ``tensor``."""
        return self


def as_roi_masks(instances: Instances) -> Instances:
    """Put the masks, (N, M, M) of :class:`UnpastedMasks`, into :class:`ROIMasks`, which say what they are."""
    instances.pred_masks = ROIMasks(instances.pred_masks)
    return instances
