"""Turns published weights of other code bases into checkpoints of this project's models."""

import contextlib
import os
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, build_model
from torch import Tensor, nn

from eql_d2.conversion.imagenet_weights import check_imagenet_weights
from eql_d2.conversion.layouts import (
    SOURCES,
    Source,
    in_our_order,
    merge_learned_scales,
    reason_not_needed,
    rescale_deltas,
)
from eql_d2.conversion.settings import (
    adapt_config,
    check_classes,
    check_method,
    delta_stds,
    needed_settings,
)
from eql_d2.conversion.source_file import SourceFile, read_source_file
from eql_d2.data.registration import register_datasets
from eql_d2.engine.auto_values import resolve_auto_values
from eql_d2.engine.description import describe_run
from eql_d2.errors import UserError


@dataclass
class Conversion:
    """Converted weights, and an account of every tensor.

    Attributes:
        cfg: the config that they need.
        model: the model that holds them, in evaluation mode on the CPU.
        changes: what the config said otherwise, a line each.
        used: the source's name of each tensor that has a place, by its name here.
        not_needed: reasons by the source's names of tensors without a place.
        not_found: reasons by the names of this model's tensors that the source does not have.
        remarks: what else is to be known of the file, a sentence each.
    """

    cfg: CfgNode
    model: GeneralizedRCNN
    changes: list[str]
    used: dict[str, str] = field(default_factory=dict)
    not_needed: dict[str, str] = field(default_factory=dict)
    not_found: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def convert(source_name: str, weights: str | Path, cfg: CfgNode) -> tuple[Conversion, SourceFile]:
    """Convert a checkpoint of another code base.

    Args:
        source_name: key of ``SOURCES``.
        weights: its file.
        cfg: config of this project that describes the same model; changed in place where the weights need it.

    Returns:
        The conversion, and what was read.

    Raises:
        UserError: the file is broken or of another source, or a tensor fits no place of the model, or a place no
            tensor.
    """
    source = SOURCES[source_name]
    file = read_source_file(weights)
    _check_source(source, file)
    remarks = [check_imagenet_weights(file.path)] if source_name == "torchvision" else []
    register_datasets(cfg)
    resolve_auto_values(cfg)
    if not source.backbone_only:
        check_method(cfg, source, file)
    changes = adapt_config(cfg, needed_settings(source, file, "Cascade" in cfg.MODEL.ROI_HEADS.NAME))
    if any(re.match(r"(roi_head\.)?mask_head\.\d\.", name) for name in file.tensors):
        head = cfg.MODEL.ROI_MASK_HEAD
        if head.NAME != "AveragedMaskHeads":
            changes += adapt_config(
                cfg, {"MODEL.ROI_MASK_HEAD.AVERAGED": head.NAME, "MODEL.ROI_MASK_HEAD.NAME": "AveragedMaskHeads"}
            )
    device, cfg.MODEL.DEVICE = cfg.MODEL.DEVICE, "cpu"
    conversion = Conversion(cfg, build_model(cfg).eval(), changes, remarks=remarks)
    cfg.MODEL.DEVICE = device
    if not source.backbone_only:
        with contextlib.suppress(KeyError):  # the classes of some datasets have no names
            check_classes([record["name"] for record in describe_run(cfg)["classes"]["categories"]], file)
    _place_tensors(conversion, source, file)
    return conversion, file


def save(conversion: Conversion, path: str | Path) -> Path:
    """Write the checkpoint, with its config and classes in it, and the config beside it as ``.yaml``.

    Args:
        conversion: see :func:`convert`.
        path: .pth; a .pkl is written in the form of Detectron2's model zoo, with what was found only.

    Returns:
        The file of the config.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    check_output(path)
    cfg = conversion.cfg.clone()
    cfg.MODEL.WEIGHTS = str(path)
    tensors = {name: value for name, value in conversion.model.state_dict().items() if name in conversion.used}
    content: dict[str, Any] = {"model": tensors, "__author__": "eql_d2", **describe_run(cfg)}
    partial, config_file = path.with_name(f".{path.name}.partial"), path.with_suffix(".yaml")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".pkl":
            content["model"] = {name: value.numpy() for name, value in tensors.items()}
            partial.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, partial)
        os.replace(partial, path)
        config_file.write_text(cfg.dump())
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UserError(f"--output {path} cannot be written ({str(error).splitlines()[0]}).") from None
    return config_file


def check_output(path: str | Path) -> None:
    """Make sure that :func:`save` knows the form of a file.

    Raises:
        UserError: the name ends with neither .pth nor .pkl.
    """
    if Path(path).suffix not in (".pth", ".pkl"):
        raise UserError(f"--output {path} must end with .pth or .pkl.")


def _check_source(source: Source, file: SourceFile) -> None:
    """Tell weights of another code base by their names, before a hundred of them fit nowhere."""

    def fits(candidate: Source) -> bool:
        return any(name.startswith(candidate.sign) for name in file.tensors)

    if not fits(source):
        others = [other.name for other in SOURCES.values() if fits(other)]
        hint = f"they look like those of --source {' or '.join(others)}" if others else "check --weights"
        raise UserError(
            f"Weights {file.path} have no tensor named {source.sign}…, as --source {source.name} has; {hint}."
        )


def _place_tensors(conversion: Conversion, source: Source, file: SourceFile) -> None:
    model = conversion.model
    state = model.state_dict()
    placed: dict[str, Tensor] = {}
    for name, tensor in file.tensors.items():
        place = source.place(name)
        reason = reason_not_needed(source, name)
        if reason:
            conversion.not_needed[name] = reason
        elif place:
            conversion.used[place], placed[place] = name, tensor
        else:
            raise UserError(
                f"Tensor {name} of {file.path}, shape {tuple(tensor.shape)}, is of no layer that --source "
                f"{source.name} can convert."
            )
    for name in [name for name in placed if name.endswith("weight_scaler")]:
        conversion.used[name.replace("weight_scaler", "scale")] = conversion.used.pop(name)
    placed = merge_learned_scales(placed)
    for name, tensor in placed.items():
        origin = conversion.used[name]
        if name not in state:
            raise UserError(
                f"Tensor {origin} of {file.path}, shape {tuple(tensor.shape)}, would be {name}, which the config's "
                "model does not have; check --config-file and its method."
            )
        converted = _in_our_units(conversion, source, file, name, tensor)
        if converted.shape != state[name].shape:
            here = f", which makes {tuple(converted.shape)} here" if converted.shape != tensor.shape else ""
            raise UserError(
                f"Tensor {origin} of {file.path} has shape {tuple(tensor.shape)}{here}, but the config's model has "
                f"{tuple(state[name].shape)} in {name}; check --config-file and --source."
            )
        if converted.is_floating_point() and not converted.isfinite().all():
            raise UserError(f"Tensor {origin} of {file.path} has values that are not finite; the file is broken.")
        placed[name] = converted.to(state[name].dtype).contiguous()
    for name in state.keys() - placed.keys():
        conversion.not_found[name] = _reason_not_found(source, file, name, state[name])
    model.load_state_dict({**state, **placed})
    _check_anchors(model, file)


def _check_anchors(model: GeneralizedRCNN, file: SourceFile) -> None:
    """Compare the anchors that checkpoints of Detectron2 0.1 hold."""
    for name, theirs in file.tensors.items():
        level = re.fullmatch(r"proposal_generator\.anchor_generator\.cell_anchors\.(\d)", name)
        if not level:
            continue
        ours = list(model.proposal_generator.anchor_generator.cell_anchors)
        place = int(level[1])
        if (
            place >= len(ours)
            or ours[place].shape != theirs.shape
            or not torch.allclose(ours[place], theirs, atol=0.01)
        ):
            raise UserError(
                f"Tensor {name} of {file.path} has other anchors than the config's model; see its "
                "MODEL.ANCHOR_GENERATOR."
            )


def _in_our_units(conversion: Conversion, source: Source, file: SourceFile, name: str, tensor: Tensor) -> Tensor:
    """A tensor with this project's order of classes and scale of box deltas."""
    match = re.match(r"roi_heads\.box_predictor\.(\d)?", name)
    heads = conversion.model.roi_heads
    if match or name.startswith("roi_heads.mask_head."):
        stage = int(match[1] or 0) if match else 0
        is_cascade = isinstance(heads.box_predictor, nn.ModuleList)
        predictor = heads.box_predictor[stage] if is_cascade else heads.box_predictor
        tensor = in_our_order(source, name, tensor, predictor.loss)
        if ".bbox_pred." in name and source.normalized_deltas and len(tensor) % 4 == 0:
            tensor = rescale_deltas(tensor, delta_stds(file, stage), predictor.box2box_transform.weights)
    return tensor


def _reason_not_found(source: Source, file: SourceFile, name: str, ours: Tensor) -> str:
    if source.backbone_only and not name.startswith("backbone.bottom_up."):
        return "trained later"
    if name.endswith(".num_batches_tracked"):
        return "counts training steps of a BatchNorm, which evaluation does not use"
    if ".loss." in name:
        return "the loss's state, which evaluation does not use; training on would start it afresh"
    raise UserError(
        f"{file.path} has no tensor for {name}, shape {tuple(ours.shape)}, of the config's model; check --config-file "
        "and --source, or the file is not complete."
    )
