"""Ledger entries made up for tests."""

from typing import Any


def made_up_entry(**changes: Any) -> dict[str, Any]:
    """A complete entry; keyword arguments replace its values."""
    entry = {
        "version": 1,
        "name": "table/row/seed_0",
        "config_file": "configs/x.yaml",
        "config": {},
        "config_hash": "0" * 16,
        "git": None,
        "datasets": {},
        "seed": 0,
        "versions": {},
        "hardware": {"processes": 1},
        "started": "2020-01-01T00:00:00+00:00",
        "seconds": {"training": 60.0, "evaluation": 6.0},
        "peak_memory_mb": {"host": 1000.0, "gpu": None},
        "iterations": 10,
        "metrics": {"val": {"segm": {"AP": 20.0, "APr": 5.0}, "bbox": {"AP": 21.0}}},
        "class_ap": {},
        "classes": [],
        "curve": {"iteration": []},
    }
    return {**entry, **changes}
