"""The user's own datasets, as a config describes them."""

from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from eql_d2.data.datasets import register_lvis_format, register_open_images
from eql_d2.data.open_images import source_of_entry
from eql_d2.data.open_images.source import FILE_KEYS
from eql_d2.errors import UserError

# Keys of an entry of DATASETS.CUSTOM_FILE that are paths, relative to the file.
PATH_KEYS = ("annotations", "images", "ignore_regions", *FILE_KEYS)


def register_custom_datasets(cfg: CfgNode) -> None:
    """Register the datasets that a config describes, under ``DATASETS.CUSTOM`` and in ``DATASETS.CUSTOM_FILE``.

    Raises:
        UserError: the file is broken, or an entry lacks a key or has an unknown one.
    """
    for entry, source in custom_entries(cfg):
        _register_entry(entry, source)


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
        entries = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"DATASETS.CUSTOM_FILE {path} cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"DATASETS.CUSTOM_FILE {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(entries, list):
        raise UserError(
            f"DATASETS.CUSTOM_FILE {path} must hold a list of datasets, each with name, annotations, images."
        )
    return [
        {key: str(path.parent / value) if key in PATH_KEYS else value for key, value in entry.items()}
        if isinstance(entry, dict)
        else entry
        for entry in entries
    ]


def _register_entry(entry: Any, source: str) -> None:
    if isinstance(entry, dict) and entry.get("format") == "openimages":
        register_open_images(entry.get("name"), source_of_entry(entry, source), entry.get("categories"))
        return
    required, optional = {"name", "annotations", "images"}, {"format", "categories", "ignore_regions"}
    if not isinstance(entry, dict) or not required <= set(entry) <= required | optional:
        raise UserError(
            f"{source} has the entry {entry}; it needs the keys {', '.join(sorted(required))}, and may have "
            f"{', '.join(sorted(optional))}."
        )
    annotation_format = entry.get("format", "lvis")
    if annotation_format not in ("lvis", "coco"):
        raise UserError(
            f"{source}: dataset {entry['name']!r} has the format {annotation_format!r}; it must be lvis, coco or "
            "openimages."
        )
    register_lvis_format(
        entry["name"],
        entry["annotations"],
        entry["images"],
        categories=entry.get("categories"),
        federated=annotation_format == "lvis",
        ignore_regions=entry.get("ignore_regions"),
    )
