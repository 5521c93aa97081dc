"""A trained detector as one file that runs without this project: TorchScript or ONNX.

The exported detector takes one image (3, H, W) of any size, float32 in [0, 255], resized and in the channel order that
its config says (``INPUT``). It gives boxes (N, 4) in that image's pixels, scores (N,), classes (N,) and, of models with
masks, masks (N, 1, M, M): probabilities inside of the boxes. They are those of the model without its last step, which
scales them to the image on disk.
"""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.proposal_generator import RPN, proposal_utils
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from torch import Tensor, nn

from eql_d2.errors import UserError, import_extra
from eql_d2.modeling import inference, onnx_selection
from eql_d2.modeling.inference import traceable_batched_nms

FORMATS = ("torchscript", "onnx")
OPSET = 17
MODULES_WITH_LEN = ("eql_d2.modeling.box_predictor", "eql_d2.modeling.roi_heads", "eql_d2.modeling.inference")


class TensorDetector(nn.Module):
    """A detector that takes and gives tensors.

    Args:
        model: a Faster, Mask or Cascade R-CNN, in evaluation mode.
    """

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Boxes, scores, classes and, if the model has masks, masks of an image (3, H, W)."""
        (found,) = self.model.inference([{"image": image}], do_postprocess=False)
        outputs = (found.pred_boxes.tensor, found.scores, found.pred_classes)
        return (*outputs, found.pred_masks) if found.has("pred_masks") else outputs


OUTPUT_NAMES = ("boxes", "scores", "classes", "masks")


def export(model: nn.Module, path: str | Path, form: str, image: Tensor) -> None:
    """Write a detector to a file.

    Args:
        model: in evaluation mode, on the CPU or a GPU; a TorchScript file runs where it was traced.
        path: file to write; it must not exist.
        form: one of :data:`FORMATS`.
        image: (3, H, W) float32 in [0, 255], to trace on; that of a photograph, so that there are detections.

    Raises:
        UserError: the model or the form cannot be exported, with the reason, or the file exists.
    """
    path = Path(path)
    check_exportable(model, form)
    if path.exists():
        raise UserError(f"{path} exists already; name another file, or delete it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    detector = TensorDetector(model).eval()
    partial = path.with_name(f".{path.name}.partial")
    try:
        if form == "torchscript":
            trace(detector, image).save(str(partial))
        else:
            _write_onnx(detector, image, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def check_exportable(model: nn.Module, form: str) -> None:
    """Refuse what cannot be exported.

    Raises:
        UserError: with the reason.
    """
    if form in REFUSED_FORMS:
        raise UserError(f"A detector cannot be exported as {form}: {REFUSED_FORMS[form]}")
    if form not in FORMATS:
        raise UserError(f"There is no export to {form}; it must be one of {', '.join(FORMATS)}.")
    if not isinstance(model, GeneralizedRCNN):
        raise UserError(
            f"{type(model).__name__} cannot be exported, only Faster, Mask and Cascade R-CNN can "
            "(MODEL.META_ARCHITECTURE GeneralizedRCNN)."
        )
    if not isinstance(model.roi_heads, (StandardROIHeads, CascadeROIHeads)):
        raise UserError(
            f"{type(model.roi_heads).__name__} cannot be exported; its detections are not known to be the same on "
            "other images than the traced one."
        )
    if not isinstance(model.proposal_generator, RPN):
        raise UserError(f"{type(model.proposal_generator).__name__} cannot be exported; only an RPN makes proposals.")
    if getattr(model.roi_heads, "keypoint_on", False):
        raise UserError(
            "A detector of keypoints cannot be exported; their decoding depends on the number of detections."
        )
    if form == "torchscript" and sys.version_info >= (3, 14):
        raise UserError("PyTorch has no TorchScript on Python 3.14; use Python 3.13 or less, or the format onnx.")


REFUSED_FORMS = {
    "torch.export": "Detectron2's proposals take branches by the data, which torch.export refuses; trace it instead "
    "(--format torchscript).",
    "script": "Detectron2's ROI heads hand over lists of Instances, which TorchScript cannot compile; trace it instead "
    "(--format torchscript), which keeps the branches and loops of the selection all the same.",
}
"""Formats that are asked for, and why there are none."""


def run_exported(path: str | Path, form: str, image: Tensor) -> list[np.ndarray]:
    """What an exported detector says of an image (3, H, W): boxes, scores, classes and, if it has them, masks."""
    if form == "onnx":
        session = import_extra("onnxruntime", "export", "Running ONNX").InferenceSession(str(path))
        return session.run(None, {"image": image.cpu().numpy()})
    with torch.no_grad():
        return [output.cpu().numpy() for output in torch.jit.load(str(path))(image)]


def in_order_of(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Detections in the order of others: rounding may swap two whose scores are all but equal.

    Args:
        expected: boxes, scores, classes and perhaps masks, as :func:`run_exported` gives them.
        found: the same number of detections, to be put in their order.

    Returns:
        ``found``, each row in the place of the expected one of its class with the nearest box; as it is where two rows
        would take one place.
    """
    if not len(found[0]):
        return list(found)
    distance = np.abs(expected[0][:, None] - found[0][None]).max(axis=2)
    distance += np.where(expected[2][:, None] == found[2][None], 0.0, np.inf)
    places = distance.argmin(axis=1)
    if len(set(places.tolist())) < len(places):
        return list(found)
    return [rows[places] for rows in found]


def trace(detector: TensorDetector, image: Tensor) -> torch.jit.ScriptModule:
    """Trace a detector so that it does on every image what it does in PyTorch.

    Args:
        detector: in evaluation mode.
        image: (3, H, W), on the detector's device.
    """
    # Detectron2's RPN is to suppress as it does outside of a trace.
    with torch.no_grad(), _traceable(mock.patch.object(proposal_utils, "batched_nms", traceable_batched_nms)):
        return torch.jit.trace(detector, (image,), check_trace=False)


@contextmanager
def _traceable(*stand_ins: Any) -> Iterator[None]:
    """Let Detectron2 count in tensors, with stand-ins for what cannot be exported."""
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")  # of branches, all of which were looked at; and that tracing is old
        for stand_in in (patch_builtin_len(MODULES_WITH_LEN), *stand_ins):
            stack.enter_context(stand_in)
        yield


def _write_onnx(detector: TensorDetector, image: Tensor, path: Path) -> None:
    import_extra("onnx", "export", "Export to ONNX")
    has_masks = bool(getattr(detector.model.roi_heads, "mask_on", False))
    names = OUTPUT_NAMES if has_masks else OUTPUT_NAMES[:3]
    axes: dict[str, Any] = {"image": {1: "height", 2: "width"}} | {name: {0: "detections"} for name in names}
    selection = mock.patch.object(inference, "select_of_proposals", onnx_selection.select_of_proposals)
    torch.onnx.register_custom_op_symbolic("aten::sort", _sort, OPSET)
    try:
        with torch.no_grad(), _traceable(selection):
            torch.onnx.export(
                detector,
                (image,),
                str(path),
                input_names=["image"],
                output_names=list(names),
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::sort", OPSET)


def _sort(g: Any, values: Any, *options: Any) -> Any:
    """PyTorch's sort, stable too: ONNX's TopK puts the lower index first among equals."""
    from torch.onnx import symbolic_helper

    dim, descending = options[-3:-1] if len(options) == 3 and options[-1] is None else options[-2:]
    dim, descending = symbolic_helper._get_const(dim, "i", "dim"), symbolic_helper._get_const(descending, "i", "desc")
    size = g.op("Gather", g.op("Shape", values), g.op("Constant", value_t=torch.tensor([dim])), axis_i=0)
    return g.op("TopK", values, size, axis_i=dim, largest_i=descending, sorted_i=1, outputs=2)
