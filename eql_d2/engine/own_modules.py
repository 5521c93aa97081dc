"""Modules of the user's own that a config asks to import (``ENGINE.IMPORT``), before it is merged."""

import importlib
import os
import sys
from ast import literal_eval
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from detectron2.config import CfgNode

from eql_d2.errors import UserError

KEY = "ENGINE.IMPORT"


def import_modules(names: Sequence[str]) -> None:
    """Import modules, also from the current folder.

    Raises:
        UserError: a module does not exist.
    """
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            way_out = "check the name and the folder"
            if name.endswith(".py"):
                way_out = f"it takes modules, not files: name {os.path.basename(name)[:-3]}, and start in its folder"
            raise UserError(f"{KEY} names {name}, but {error}; {way_out}.") from None


def imports_named(contents: Sequence[dict[str, Any]], overrides: Sequence[str]) -> tuple[str, ...]:
    """The modules that a config file, or a file that it is based on, and overrides of it ask to import.

    They come first, since a loss that one of them registers has keys of its own.

    Args:
        contents: of the file and its bases, that which overrules the others first.
        overrides: alternating keys and values.
    """
    value: Any = None
    for content in reversed(contents):
        node = content.get("ENGINE")
        value = node.get("IMPORT", value) if isinstance(node, dict) else value
    for key, text in zip(overrides[::2], overrides[1::2], strict=False):
        value = text if key == KEY else value
    if isinstance(value, str):
        with suppress(ValueError, SyntaxError):  # a name as it is
            value = literal_eval(value)
    return _as_tuple(value)


@contextmanager
def one_name_allowed(cfg: CfgNode) -> Iterator[None]:
    """Let what is merged into a config name a single module, as ``ENGINE.IMPORT my_losses``."""
    before = cfg.ENGINE.IMPORT
    cfg.ENGINE.IMPORT = None  # takes a value of any type
    try:
        yield
    finally:
        merged = cfg.ENGINE.IMPORT
        cfg.ENGINE.IMPORT = before if merged is None else _as_tuple(merged)


def _as_tuple(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else (str(value),)
