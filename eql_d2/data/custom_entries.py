"""The datasets that a config describes, under ``DATASETS.CUSTOM`` and in a file, read and checked."""

import os
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from eql_d2.data.open_images.source import FILE_KEYS
from eql_d2.errors import UserError
from eql_d2.plain_files import read_yaml

# Keys of an entry that are paths; in DATASETS.CUSTOM_FILE they are relative to the file.
PATH_KEYS = ("annotations", "images", "image_ids", "ignore_regions", *FILE_KEYS)

REQUIRED_KEYS = frozenset({"name", "annotations", "images"})
OPTIONAL_KEYS = frozenset({"format", "categories", "ignore_regions", "image_ids"})


def custom_entries(cfg: CfgNode) -> list[tuple[Any, str]]:
    """The datasets that a config describes, each with the key (and file) that has it; not checked yet.

    Raises:
        UserError: ``DATASETS.CUSTOM_FILE`` cannot be read.
    """
    entries = [(entry, "DATASETS.CUSTOM") for entry in cfg.DATASETS.CUSTOM]
    if cfg.DATASETS.CUSTOM_FILE:
        path = Path(cfg.DATASETS.CUSTOM_FILE)
        entries += [(entry, f"DATASETS.CUSTOM_FILE {path}") for entry in _entries_of_file(path)]
    return entries


def _entries_of_file(path: Path) -> list[dict[str, Any]]:
    """The entries of a YAML file, their paths made relative to the current folder instead of the file's."""
    try:
        entries = read_yaml(path.read_text(encoding="utf-8"), f"DATASETS.CUSTOM_FILE {path}")
    except OSError as error:
        raise UserError(f"DATASETS.CUSTOM_FILE {path} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise UserError(f"DATASETS.CUSTOM_FILE {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(entries, list):
        raise UserError(
            f"DATASETS.CUSTOM_FILE {path} must hold a list of datasets, each with name, annotations, images."
        )
    return [
        {
            key: str(path.parent / value) if key in PATH_KEYS and isinstance(value, str) else value
            for key, value in entry.items()
        }
        if isinstance(entry, dict)
        else entry
        for entry in entries
    ]


def check_entry(entry: Any, source: str) -> None:
    """Make sure that an entry can be registered; one of Open Images' form is checked further where it is read.

    Args:
        entry: of :func:`custom_entries`.
        source: the key (and file) that has it.

    Raises:
        UserError: it lacks a key, or has an unknown one or a value that cannot be used.
    """
    for key in ("name", *PATH_KEYS) if isinstance(entry, dict) else ():
        if key in entry and not isinstance(entry[key], (str, os.PathLike)):
            raise UserError(f"{source} has an entry whose {key} is {entry[key]!r}, no text; write it in quotes.")
    if isinstance(entry, dict) and entry.get("format") == "openimages":
        return
    if not isinstance(entry, dict) or not REQUIRED_KEYS <= set(entry) <= REQUIRED_KEYS | OPTIONAL_KEYS:
        raise UserError(
            f"{source} has the entry {entry}; it needs the keys {', '.join(sorted(REQUIRED_KEYS))}, and may have "
            f"{', '.join(sorted(OPTIONAL_KEYS))}."
        )
    if entry.get("format", "lvis") not in ("lvis", "coco"):
        raise UserError(
            f"{source}: dataset {entry['name']!r} has the format {entry['format']!r}; it must be lvis, coco or "
            "openimages."
        )
