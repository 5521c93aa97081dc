"""Whether a checkpoint goes with a run: its classes, its predictor, its optimizer, and the form of its file."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import nn

from eql_d2.data.checks.split_findings import first_difference
from eql_d2.engine.method_in_use import METHOD_KEYS
from eql_d2.errors import UserError
from eql_d2.losses import ClassificationLoss
from eql_d2.plain_files import read_yaml

_NAMES_SHOWN = 5
# Hyperparameters that tell optimizers apart, and whose they are.
_OPTIMIZERS = {"betas": "an Adam-like one", "momentum": "SGD"}


def class_names(description: Mapping[str, Any]) -> list[str] | None:
    """The class names that a checkpoint carries, in the order of its outputs; None where it carries none."""
    records = description.get("classes")
    return [record["name"] for record in records["categories"]] if records else None


def dataset_with_names(cfg: CfgNode) -> tuple[str, list[str]] | None:
    """The first dataset of a config that is registered with class names, and these."""
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        names = MetadataCatalog.get(name).get("thing_classes") if name in MetadataCatalog.list() else None
        if names:
            return name, list(names)
    return None


def class_difference(description: Mapping[str, Any], cfg: CfgNode) -> str | None:
    """How the classes of a checkpoint differ from those of the config's datasets, as the middle of a sentence.

    Args:
        description: see :func:`eql_d2.engine.description.read_description`.
        cfg: full config, whose datasets are registered.

    Returns:
        None where they are the same, or one of both is unknown.
    """
    theirs, dataset = class_names(description), dataset_with_names(cfg)
    if theirs is None or dataset is None:
        return None
    name, ours = dataset
    difference = first_difference(theirs, {}, ours, {})
    if difference is None:
        return None
    number, in_theirs, in_ours = difference
    return (
        f"{len(theirs)} classes ({_listed(theirs)}), and dataset {name} has {len(ours)} ({_listed(ours)}): class "
        f"{number} is {in_theirs} in the checkpoint and {in_ours} in the dataset"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (" …" if len(names) > _NAMES_SHOWN else "")


def check_resumable(path: str, description: Mapping[str, Any], cfg: CfgNode) -> None:
    """Make sure that a run can go on from a checkpoint.

    Args:
        path: of the checkpoint.
        description: what it says about itself.
        cfg: full config, whose datasets are registered.

    Raises:
        UserError: its classes or its predictor are others; the sentence names both.
    """
    difference = class_difference(description, cfg)
    if difference:
        raise UserError(
            f"--resume: checkpoint {path} has {difference}; start anew in another OUTPUT_DIR, with "
            f"MODEL.WEIGHTS {path} and MODEL.WEIGHTS_MATCH_CLASSES True to begin with its weights, class by class."
        )
    kept = read_yaml(description["config"], f"The config in {path}") if "config" in description else {}
    for key in ("MODEL.META_ARCHITECTURE", *METHOD_KEYS):
        before, now = kept, cfg
        for part in key.split("."):
            before, now = (before or {}).get(part), now.get(part)
        if before is not None and before != now:
            raise UserError(
                f"--resume: checkpoint {path} was trained with {key} {before}, and the config says {now}; set it back, "
                "or start anew in another OUTPUT_DIR."
            )


def check_optimizer(kept: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Make sure that an optimizer can go on from a checkpoint's.

    Args:
        kept: its state.
        optimizer: the run's.

    Raises:
        UserError: it is another one, or of other parameters; the sentence says both sides.
    """
    before, now = (
        [len(group["params"]) for group in groups] for groups in (kept["param_groups"], optimizer.param_groups)
    )
    if sum(before) != sum(now) or len(before) != len(now):
        raise UserError(
            f"--resume: the checkpoint's optimizer has {sum(before)} tensors in {len(before)} groups, this run's "
            f"{sum(now)} in {len(now)}; set SOLVER.TRAINABLE, the model's keys and the solver's as they were, or start "
            "anew in another OUTPUT_DIR."
        )
    kinds = [
        next((name for key, name in _OPTIMIZERS.items() if key in groups[0]), "another")
        for groups in (kept["param_groups"], optimizer.param_groups)
    ]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"--resume: the checkpoint's optimizer is {kinds[0]}, this run's {kinds[1]}; set it back, or start anew in "
            "another OUTPUT_DIR."
        )


def loss_state_names(model: nn.Module) -> set[str]:
    """Names of the tensors that losses keep of the training data: statistics, which may always start afresh."""
    return {
        f"{name}.{key}" if name else key
        for name, module in model.named_modules()
        if isinstance(module, ClassificationLoss)
        for key in module.state_dict()
    }


def check_form(path: str, weights: Any) -> None:
    """Make sure that what a file holds are weights by their names.

    Args:
        path: of the file, for messages.
        weights: what stands in the place of the model.

    Raises:
        UserError: it is something else; where it is another code base's, the sentence names the command that converts.
    """
    if not isinstance(weights, Mapping):
        raise UserError(
            f"Weights {path} hold a {type(weights).__name__} in the place of weights by their names; save the "
            "model's state_dict() instead."
        )
    strange = [name for name, value in weights.items() if not isinstance(value, (torch.Tensor, np.ndarray, np.generic))]
    if not strange:
        return
    nested = next((name for name in strange if _is_weights(weights[name])), None)
    if nested is None:
        raise UserError(
            f"Weights {path} are no checkpoint of Detectron2's form: {strange[0]!r} in them is a "
            f"{type(weights[strange[0]]).__name__}, no tensor; check MODEL.WEIGHTS."
        )
    raise UserError(
        f"Weights {path} hold a {nested}, as mmdetection's files and many others do, and are not in Detectron2's form; "
        f"convert them: python tools/convert_checkpoint.py --source mmdet --weights {path} --config-file CONFIG "
        "--output NEW.pth (its --help names the other sources)."
    )


def _is_weights(value: Any) -> bool:
    if isinstance(value, nn.Module):
        return True
    tensors = value.values() if isinstance(value, Mapping) else ()
    return bool(tensors) and all(isinstance(tensor, (torch.Tensor, np.ndarray)) for tensor in tensors)
