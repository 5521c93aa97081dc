"""Files from anywhere, read as the plain values that they hold; no code that a file brings or names ever runs.

Pickles and checkpoints give tensors, arrays and containers of plain values; in place of any other object stands an
empty :class:`Inert`. YAML is read without the tags that make Python objects. What is written for spreadsheets is no
formula.
"""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import torch
import yaml

from eql_d2.errors import UserError
from eql_d2.safetensors_file import SUFFIX, load_weights

# Tensors and arrays in a pickle are made by these.
_TORCH_FUNCTIONS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
_NUMPY_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
_NUMPY_NAMES = ("_reconstruct", "ndarray", "dtype", "scalar")
_PLAIN_TYPES = {"bytes": bytes, "bytearray": bytearray, "set": set, "frozenset": frozenset}
# Before this version PyTorch's own restricted reader could be made to run code (CVE-2025-32434).
_SAFE_TORCH = (2, 6)
_MAX_YAML_NODES = 200_000  # hundreds of times those of the largest config
_MAX_YAML_DEPTH = 100
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def load_checkpoint(path: str | Path, mmap: bool = False) -> Any:
    """Read a file of ``torch.save``, or of safetensors, which holds tensors alone.

    Args:
        path: local file.
        mmap: read tensors only when they are used.

    Returns:
        What was saved, on the CPU.

    Raises:
        OSError: it cannot be read.
        UserError: it has a checksum, and another content.
        Exception: whatever unpickling raises over the bytes of a broken file.
    """
    if Path(path).suffix == SUFFIX:
        return load_weights(path)
    options: dict[str, Any] = {"map_location": "cpu", "mmap": mmap and zipfile.is_zipfile(path)}
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version >= _SAFE_TORCH:
        try:
            return torch.load(path, weights_only=True, **options)
        except pickle.UnpicklingError:  # objects of other libraries beside the tensors, or no checkpoint
            pass
    plain = SimpleNamespace(Unpickler=PlainUnpickler, load=_plain_load, __name__="plain_pickle")
    return torch.load(path, weights_only=False, pickle_module=plain, **options)


def load_pickle(path: str | Path) -> Any:
    """Read a pickle of arrays and plain values, as Detectron2's model zoo has them; also one of Python 2.

    Args:
        path: local file.

    Raises:
        OSError: it cannot be read.
        Exception: whatever unpickling raises over the bytes of a broken file.
    """
    with open(path, "rb") as file:
        return PlainUnpickler(file, encoding="latin1").load()


class Inert:
    """Stands in for an object whose code is not to run; takes whatever unpickling does to it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """As unpickling a list calls it."""

    def extend(self, values: Any) -> None:
        """As unpickling a list calls it."""

    def add(self, value: Any) -> None:
        """As unpickling a set calls it."""


class PlainUnpickler(pickle.Unpickler):
    """Makes tensors, arrays and plain containers only."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may call: one of a few names, exactly; else a class without content."""
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module in ("builtins", "__builtin__") and name in _PLAIN_TYPES:
            return _PLAIN_TYPES[name]
        is_storage = module in ("torch", "torch.storage") and name.isidentifier() and name.endswith("Storage")
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        is_size = (module, name) == ("torch", "Size")
        is_function = module == "torch._utils" and name in _TORCH_FUNCTIONS
        is_numpy = (module in _NUMPY_MODULES and name in _NUMPY_NAMES) or (
            module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer"
        )
        if is_storage or is_dtype or is_size or is_function or is_numpy:
            return super().find_class(module, name)
        return type("Inert", (Inert,), {})  # its own class, which a pickle may write attributes to


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """Bytes, as old pickles hold them; any other encoding would import a module of that name."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in {encoding}")
    return text.encode("latin1")


def _plain_load(file: BinaryIO, **options: Any) -> Any:
    return PlainUnpickler(file, **options).load()


def tensors_by_name(content: Any) -> dict[str, torch.Tensor] | None:
    """The entries of a mapping that are tensors or arrays, as tensors; None if it is no mapping."""
    if not hasattr(content, "items"):
        return None
    tensors = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(value)
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            tensors[name] = value.detach()
    return tensors


def read_yaml(text: str, source: str) -> Any:
    """Plain values of YAML.

    Args:
        text: the YAML.
        source: where it is from, for error messages.

    Raises:
        UserError: it is not YAML, asks for a Python object, or is nested or repeated beyond reason.
    """
    try:
        _check_size(yaml.compose(text, Loader=yaml.SafeLoader), source)
        return yaml.safe_load(text)
    except yaml.constructor.ConstructorError as error:
        tag = next((word.strip("'") for word in str(error).split() if "python/" in word), "")
        if not tag:
            raise UserError(f"{source} is not valid YAML: {' '.join(str(error).split())}.") from None
        raise UserError(
            f"{source} asks to run Python ({tag.removeprefix('tag:yaml.org,2002:')}), which no file is let do; write "
            "the values themselves."
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not valid YAML: {' '.join(str(error).split())}.") from None
    except (RecursionError, MemoryError):
        raise UserError(f"{source} is nested too deeply to be read.") from None
    except ValueError as error:  # of a date that is none, and the like
        raise UserError(f"{source} is not valid YAML: {error}.") from None


def _check_size(root: yaml.Node | None, source: str) -> None:
    """Refuse what a few lines of repeated aliases would blow up to gigabytes, and what refers to itself."""
    count, pending = 0, [(root, 1)]
    while pending:
        node, depth = pending.pop()
        count += 1
        if count > _MAX_YAML_NODES or depth > _MAX_YAML_DEPTH:
            raise UserError(f"{source} is nested too deeply or too large to be read.")
        if isinstance(node, yaml.MappingNode):
            pending += [(part, depth + 1) for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            pending += [(part, depth + 1) for part in node.value]


def csv_text(text: Any) -> Any:
    """A text for a cell of a CSV file, so that no spreadsheet takes it for a formula; :func:`text_of_csv` undoes it."""
    return f"'{text}" if isinstance(text, str) and text.startswith(_FORMULA_STARTS) else text


def text_of_csv(cell: str) -> str:
    """The text that :func:`csv_text` made a cell of."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA_STARTS) else cell
