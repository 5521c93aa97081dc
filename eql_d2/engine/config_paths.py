"""Relative paths in a config file are relative to that file; to the current folder only where that leads nowhere."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from eql_d2.data.custom_entries import PATH_KEYS

# Keys that name a file to be read. OUTPUT_DIR is one to be written: it is relative to the current folder.
FILE_KEYS = ("DATASETS.CUSTOM_FILE", "MODEL.LONG_TAIL.CATEGORY_COUNTS", "MODEL.WEIGHTS")


def resolve_paths(cfg: CfgNode, contents: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Make the paths that a config file or one of its bases says good for the current folder, in place.

    Args:
        cfg: what the file was merged into.
        contents: the file and its bases, each with its content, that which overrules the others first.
    """
    for key in (*FILE_KEYS, "DATASETS.CUSTOM"):
        folder = next((path.parent for path, content in contents if _says(content, key)), None)
        if folder is None:
            continue
        *parents, last = key.split(".")
        node = cfg
        for name in parents:
            node = node[name]
        node[last] = (
            _resolved_entries(node[last], folder) if key == "DATASETS.CUSTOM" else _resolved(node[last], folder)
        )


def _resolved_entries(entries: list[Any], folder: Path) -> list[Any]:
    return [
        {key: _resolved(value, folder) if key in PATH_KEYS else value for key, value in entry.items()}
        if isinstance(entry, dict)
        else entry
        for entry in entries
    ]


def _resolved(path: Any, folder: Path) -> Any:
    """A path from the folder of its file, if it leads somewhere or nothing does; absolute unless that is the same."""
    if not isinstance(path, str) or not path or "://" in path or os.path.isabs(path) or path.startswith("~"):
        return path
    from_folder = os.path.abspath(folder / path)
    if from_folder == os.path.abspath(path) or (os.path.exists(path) and not os.path.exists(from_folder)):
        return path
    return from_folder if os.path.exists(from_folder) or not path.startswith("datasets/") else path


def _says(content: dict[str, Any], key: str) -> bool:
    node: Any = content
    for name in key.split("."):
        if not isinstance(node, dict) or name not in node:
            return False
        node = node[name]
    return True
