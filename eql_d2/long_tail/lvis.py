"""How often each class occurs in LVIS's training sets."""

from functools import lru_cache
from pathlib import Path

from eql_d2.long_tail.counts import read_count_file

LVIS_COUNT_FILES: dict[str, Path] = {
    version: Path(__file__).parent / f"{version}_train_category_counts.json" for version in ("lvis_v0.5", "lvis_v1")
}
"""Count files (see :func:`read_count_file`) by LVIS's version; they are part of the package."""

LVIS_DATASETS: dict[str, str] = {
    f"{version}_{split}": version
    for version, splits in {
        "lvis_v1": ("train", "val", "test_dev", "test_challenge"),
        "lvis_v0.5": ("train", "val", "val_rand_100", "test"),
    }.items()
    for split in splits
}
"""LVIS's version by the names under which Detectron2 registers its datasets."""


@lru_cache
def lvis_train_image_counts(version: str = "lvis_v1") -> tuple[int, ...]:
    """Image counts of every class of an LVIS train set, ascending.

    Args:
        version: "lvis_v1" (1203 classes) or "lvis_v0.5" (1230 classes).
    """
    return tuple(sorted(read_count_file(str(LVIS_COUNT_FILES[version])).image_counts))
