"""Registration of datasets in Detectron2's catalogs: LVIS, EmojiLVIS and the user's own."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from eql_d2.data.categories import dataset_counts
from eql_d2.data.emoji_lvis import PRESETS, generate_emoji_lvis
from eql_d2.data.emoji_lvis.long_tail import METADATA_DIR
from eql_d2.data.lvis_format import LVISDataset, load_lvis_format
from eql_d2.errors import UserError

LVIS_SPLITS = {
    "lvis_v1": {
        "train": "lvis_v1_train",
        "val": "lvis_v1_val",
        "test_dev": "lvis_v1_image_info_test_dev",
        "test_challenge": "lvis_v1_image_info_test_challenge",
    },
    "lvis_v0.5": {
        "train": "lvis_v0.5_train",
        "val": "lvis_v0.5_val",
        "val_rand_100": "lvis_v0.5_val_rand_100",
        "test": "lvis_v0.5_image_info_test",
    },
}


def datasets_root() -> Path:
    """Detectron2's dataset folder: the environment's DETECTRON2_DATASETS, else ./datasets."""
    return Path(os.getenv("DETECTRON2_DATASETS", "datasets")).expanduser()


def register_lvis_format(
    name: str,
    annotation_file: str | Path,
    image_root: str | Path,
    *,
    prepare: Callable[[], Any] | None = None,
    **metadata: Any,
) -> None:
    """Register an LVIS-format dataset; a registration of the same name is replaced.

    Args:
        name: name for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        annotation_file: LVIS-format JSON; read when the dataset is first used.
        image_root: folder of the images.
        prepare: called before the first reading, e.g. to generate the files.
        metadata: further metadata, e.g. ``category_counts_file``.
    """

    def load() -> LVISDataset:
        if prepare is not None:
            prepare()
        return load_lvis_format(annotation_file, image_root)

    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=str(annotation_file),
        image_root=str(image_root),
        evaluator_type="lvis",
        prepare=prepare,
        **metadata,
    )


def set_class_metadata(name: str) -> None:
    """Give a registered dataset's metadata its class names and category ids, generating its files if need be.

    Raises:
        UserError: the dataset is unknown, or its annotation file is missing or broken.
    """
    if name not in DatasetCatalog.list():
        raise UserError(
            f"Dataset {name!r} is not registered; choose one of {', '.join(project_datasets())} "
            "or describe your own under DATASETS.CUSTOM."
        )
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") == "lvis" and not metadata.get("thing_classes"):
        counts = dataset_counts((name,))
        metadata.thing_classes = list(counts.names)
        metadata.thing_dataset_id_to_contiguous_id = {c: i for i, c in enumerate(counts.category_ids)}


def project_datasets() -> list[str]:
    """Names of the datasets registered by this project."""
    return sorted(name for name in DatasetCatalog.list() if name.startswith(("lvis_", "emoji_lvis_")))


def register_builtin_datasets() -> None:
    """Register LVIS v0.5 and v1.0 in place of Detectron2's own entries, and the presets of EmojiLVIS."""
    root = datasets_root()
    for version, splits in LVIS_SPLITS.items():
        counts = METADATA_DIR / f"{version}_train_category_counts.json"
        for split, file_stem in splits.items():
            register_lvis_format(
                f"{version}_{split}",
                root / "lvis" / f"{file_stem}.json",
                root / "coco",
                category_counts_file=str(counts),
            )
    for preset, spec in PRESETS.items():
        folder = root / "emoji_lvis" / spec.name
        for split in ("train", "val"):
            register_lvis_format(
                f"emoji_lvis_{preset}_{split}",
                folder / f"{split}.json",
                folder,
                prepare=partial(generate_emoji_lvis, spec, root / "emoji_lvis"),
            )


def register_custom_datasets(cfg: CfgNode) -> None:
    """Register the datasets that a config describes under ``DATASETS.CUSTOM``.

    Raises:
        UserError: an entry lacks a key or has an unknown one.
    """
    keys = {"name", "annotations", "images"}
    for entry in cfg.DATASETS.CUSTOM:
        if not isinstance(entry, dict) or set(entry) != keys:
            raise UserError(f"DATASETS.CUSTOM has the entry {entry}; it needs the keys {', '.join(sorted(keys))}.")
        register_lvis_format(entry["name"], entry["annotations"], entry["images"])


register_builtin_datasets()
