"""The mask of each RoI's own class, without those of all other classes."""

import torch
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from torch import Tensor

from eql_d2.errors import UserError
from eql_d2.modeling.normed_layers import NormedConv2d, normalized


def own_class_name(name: str, own_class_only: bool) -> str:
    """The mask head to build for a name: Detectron2's standard head in the form that computes each RoI's own class."""
    return "OwnClassMaskRCNNConvUpsampleHead" if own_class_only and name == "MaskRCNNConvUpsampleHead" else name


def own_class_logits(head: MaskRCNNConvUpsampleHead, x: Tensor, classes: Tensor) -> Tensor:
    """What a head's ``layers`` computes, of one class a RoI.

    Args:
        head: its last layer, ``predictor``, is a convolution with a kernel of 1 x 1, plain or normalized.
        x: pooled features (R, C, H, W).
        classes: (R,) int64 in [0, K).

    Returns:
        Logits (R, 1, H', W').
    """
    *hidden, predictor = head
    for layer in hidden:
        x = layer(x)
    if isinstance(predictor, NormedConv2d):
        return _own_class_normed_convolution(predictor, x, classes)
    return own_class_convolution(x, predictor.weight[classes], predictor.bias[classes])


def _own_class_normed_convolution(layer: NormedConv2d, x: Tensor, classes: Tensor) -> Tensor:
    occurring, place = classes.unique(return_inverse=True)  # each class's weight is normalized once
    weight = normalized(layer.weight[occurring])[place]
    return own_class_convolution(layer.temperature * normalized(x), weight, layer.bias[classes])


def own_class_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution with a kernel of 1 x 1 and one output channel, whose weights differ from RoI to RoI.

    Args:
        x: (R, C, H, W).
        weight: (R, C, 1, 1).
        bias: (R,).

    Returns:
        (R, 1, H, W).
    """
    # The bias goes into the product, so that autocast gives it the precision that it has in a convolution.
    product = torch.baddbmm(bias[:, None, None], weight.flatten(1)[:, None], x.flatten(2))
    return product.unflatten(2, x.shape[2:])


def checked_classes(instances: list[Instances], training: bool, num_classes: int) -> Tensor:
    """The class of each RoI of all images, (R,) int64.

    Args:
        instances: one a image, with ``gt_classes`` in training, else ``pred_classes``.
        training: which of them.
        num_classes: K.

    Raises:
        UserError: a class is outside [0, K); a GPU would end the process with an assertion that names nothing.
    """
    name = "gt_classes" if training else "pred_classes"
    of_images = [of_image.get(name) for of_image in instances if of_image.has(name)]
    if not of_images:
        return torch.zeros(0, dtype=torch.int64)
    classes = torch.cat(of_images).to(torch.int64)
    if len(classes) and not torch.jit.is_tracing():
        low, high = (int(bound) for bound in classes.aminmax())
        if low < 0 or high >= num_classes:
            raise UserError(
                f"A RoI of the mask head has the class {low if low < 0 else high}, but its classes are 0 to "
                f"{num_classes - 1}; set MODEL.ROI_HEADS.NUM_CLASSES to that of the dataset, or to auto."
            )
    return classes
