"""Weights as a safetensors file: tensors by name, opened without running code, with a checksum of its own."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from eql_d2.errors import UserError

SUFFIX = ".safetensors"
_CHECKSUM = "sha256"


def save_weights(tensors: Mapping[str, torch.Tensor], path: str | Path, about: Mapping[str, str]) -> None:
    """Write tensors, and what the file says about itself, with the SHA-256 of both.

    Args:
        tensors: by name.
        path: file to write.
        about: plain text by key, such as where the weights are from and their licence.

    Raises:
        OSError: the disk does not take it.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    says = {"format": "pt", **about}
    Path(path).write_bytes(save(kept, {**says, _CHECKSUM: _digest(kept, says)}))


def load_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file, of this project or another.

    Args:
        path: local file.

    Raises:
        OSError: it cannot be read.
        UserError: it has a checksum of :func:`save_weights`, and another content.
        safetensors.SafetensorError: it is no such file, or truncated.
    """
    with safe_open(str(path), framework="pt") as file:
        about = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    kept = about.pop(_CHECKSUM, None)
    if kept is not None and kept != _digest(tensors, about):
        raise UserError(
            f"Weights {path} are damaged: their SHA-256 is not the one that they were written with; take another copy."
        )
    return tensors


def read_about(path: str | Path) -> dict[str, str]:
    """What a safetensors file says about itself, its checksum included; the content is not read."""
    with safe_open(str(path), framework="pt") as file:
        return dict(file.metadata() or {})


def _digest(tensors: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> str:
    """SHA-256 over the texts, and over each tensor's name, type, shape and bytes."""
    digest = hashlib.sha256()
    for key in sorted(about):
        digest.update(f"{key}={about[key]}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
