"""Checkpoints of other projects, read without running code that they may hold."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eql_d2.conversion.recorded_config import read_recorded_config
from eql_d2.errors import UserError
from eql_d2.plain_files import load_checkpoint, load_pickle


@dataclass(frozen=True)
class SourceFile:
    """A checkpoint of another project.

    Attributes:
        path: where it is.
        tensors: its tensors by their names there, without a wrapper's ``module.``.
        config: the source's config as far as the file records it; empty if it does not.
        classes: class names in the source's order; empty if the file does not record them.
    """

    path: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()


def read_source_file(path: str | Path) -> SourceFile:
    """Read a checkpoint: a .pth of mmdetection, Detectron2 or torchvision, or a .pkl of Detectron2.

    Args:
        path: local file.

    Raises:
        UserError: the file is missing, truncated, or holds no weights.
    """
    path = Path(path)
    try:
        content = _load(path)
    except OSError as error:
        raise UserError(f"Weights {path} cannot be read ({error.strerror or error}); check --weights.") from None
    except UserError:
        raise
    # Whatever the bytes of a broken file say, unpickling can raise.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"Weights {path} are truncated or no checkpoint of PyTorch ({reason}).") from None
    tensors = _tensors_in(content)
    if not tensors:
        raise UserError(f"Weights {path} hold no tensors by name; check --weights.")
    meta = content.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    dataset_meta = meta.get("dataset_meta")
    dataset_meta = dataset_meta if isinstance(dataset_meta, Mapping) else {}
    classes = meta.get("CLASSES") or dataset_meta.get("CLASSES") or dataset_meta.get("classes") or ()
    is_names = isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes)
    text = meta.get("config") or meta.get("cfg")
    return SourceFile(
        path=path,
        tensors=tensors,
        config=read_recorded_config(text) if isinstance(text, str) else {},
        classes=tuple(classes) if is_names else (),
    )


def _load(path: Path) -> Any:
    if path.suffix == ".pkl" and not zipfile.is_zipfile(path):
        return load_pickle(path)
    return load_checkpoint(path)


def _tensors_in(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        if isinstance(name, str) and isinstance(value, Tensor):
            tensors[name.removeprefix("module.")] = value.detach()
    return tensors
