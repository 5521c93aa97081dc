"""What identifies the training that a config describes, wherever and with whatever seed it runs."""

import hashlib
import json
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

import eql_d2.config  # as a module: it imports engine/config.py, and thereby this package
from eql_d2.losses.registry import METHODS

# What may differ between two runs of one row of a table: places, the machine and the seed.
NOT_IN_HASH = (
    "OUTPUT_DIR",
    "SEED",
    "VERSION",
    "MODEL.DEVICE",
    "DATALOADER.NUM_WORKERS",
    "ENGINE.CPU_THREADS",
    "ENGINE.COLLECTIVE_TIMEOUT",
    "ENGINE.STOP_GRACE",
    "TEST.SHOW_CLASSES",
    "ENGINE.TRACKERS",
    "ENGINE.TRACKER_PROJECT",
)
# Files, of which the folder may differ.
FILES_IN_CONFIG = ("MODEL.WEIGHTS", "MODEL.LONG_TAIL.CATEGORY_COUNTS", "DATASETS.CUSTOM_FILE")
FILES_OF_DATASET = ("annotations", "images", "image_ids", "ignore_regions")


def run_name(output_dir: str) -> str:
    """The name of a run: the last three parts of its folder, such as ``table/row/seed_0``."""
    return "/".join(part for part in Path(output_dir).parts[-3:] if part not in ("/", ".", ".."))


def plain_config(cfg: CfgNode) -> dict[str, Any]:
    """A config as nested dicts of what JSON can hold."""
    return _plain(cfg)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def config_hash(config: dict[str, Any], ignored: Collection[str] = ()) -> str:
    """What identifies the training that a config describes, wherever and with whatever seed it runs.

    Args:
        config: of :func:`plain_config`.
        ignored: dotted keys to leave out besides :data:`NOT_IN_HASH`.

    Returns:
        16 hexadecimal digits.
    """
    text = json.dumps(config_identity(config, ignored), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_identity(config: dict[str, Any], ignored: Collection[str] = ()) -> dict[str, Any]:
    """{dotted key: value} of what a config changes, without the seed and what is the machine's.

    Files are known by their names. Keys that have their default value say nothing, so that a key that is added later
    leaves old hashes as they are.
    """
    left_out = {*NOT_IN_HASH, *ignored}
    defaults = _defaults(tuple(METHODS))
    values = {key: value for key, value in flat(config) if key not in left_out and _differs(defaults, key, value)}
    for key in FILES_IN_CONFIG:
        if values.get(key) and "://" not in values[key]:
            values[key] = Path(values[key]).name
    if "DATASETS.CUSTOM" in values:
        values["DATASETS.CUSTOM"] = [
            {key: Path(value).name if key in FILES_OF_DATASET else value for key, value in dataset.items()}
            for dataset in values["DATASETS.CUSTOM"]
        ]
    return values


@lru_cache(maxsize=1)
def _defaults(methods: tuple[str, ...]) -> dict[str, Any]:
    """Of all keys, also of the methods that have been registered since."""
    return dict(flat(plain_config(eql_d2.config.get_eql_d2_config())))


def _differs(defaults: dict[str, Any], key: str, value: Any) -> bool:
    return key not in defaults or defaults[key] != value


def flat(config: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted key, value) of nested dicts."""
    pairs = []
    for key, value in config.items():
        pairs += flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return pairs
