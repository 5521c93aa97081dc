"""Datasets by name in Detectron2's catalogs: LVIS, Open Images, EmojiLVIS and the user's own."""

import difflib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from eql_d2.data.annotations.lvis_format import LVISDataset, chosen_categories, load_lvis_format
from eql_d2.data.category_counts import dataset_counts
from eql_d2.data.custom_entries import check_entry, custom_entries
from eql_d2.data.emoji_lvis import PRESETS, generate_emoji_lvis
from eql_d2.data.image_ids import ensure_part, part_file
from eql_d2.data.open_images import (
    CHALLENGE_2019,
    OpenImagesSource,
    challenge_2019_source,
    converted_file,
    count_open_images,
    ensure_converted,
    source_of_entry,
)
from eql_d2.data.registered_records import describe_records
from eql_d2.data.training.ignore_regions import WithIgnoreRegions, with_ignore_regions
from eql_d2.errors import UserError
from eql_d2.long_tail import LVIS_COUNT_FILES, LVIS_DATASETS

# By which rules a dataset of this project is evaluated: LVISEvaluator or OpenImagesEvaluator.
EVALUATORS = ("lvis", "openimages")


def datasets_root() -> Path:
    """Detectron2's dataset folder: the environment's DETECTRON2_DATASETS, else ./datasets."""
    return Path(os.getenv("DETECTRON2_DATASETS", "datasets")).expanduser()


def register_lvis_format(
    name: str,
    annotation_file: str | Path,
    image_root: str | Path,
    *,
    prepare: Callable[[], Any] | None = None,
    categories: Sequence[str] | None = None,
    federated: bool = True,
    evaluator_type: str = "lvis",
    ignore_regions: str | Path | None = None,
    images_outside: bool = False,
    **metadata: Any,
) -> None:
    """Register a dataset in the LVIS or COCO format; a registration of the same name is replaced.

    Args:
        name: name for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        annotation_file: JSON; read when the dataset is first used.
        image_root: folder of the images.
        prepare: called before the first reading, e.g. to generate the files.
        categories: names of the classes to keep; None keeps all.
        federated: False of COCO's format, in which every image is labelled for all classes.
        evaluator_type: one of :data:`EVALUATORS`, or Detectron2's "coco" for a set in COCO's format.
        ignore_regions: a second annotation file of the same images (see :func:`with_ignore_regions`).
        images_outside: whether images may lie outside ``image_root``, by absolute paths or "..".
        metadata: further metadata, e.g. ``category_counts_file``.
    """

    def load() -> LVISDataset | WithIgnoreRegions:
        if prepare is not None:
            prepare()
        dataset = load_lvis_format(
            annotation_file,
            image_root,
            categories=categories,
            federated=federated,
            ignore_defects=ignores_defects(name),
            images_outside=images_outside,
        )
        _say_classes(name, {record["id"]: record["name"] for record in chosen_categories(dataset.packed, categories)})
        return with_ignore_regions(dataset, ignore_regions) if ignore_regions else dataset

    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.remove(name)
    _IGNORING_DEFECTS.discard(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=str(annotation_file),
        image_root=str(image_root),
        evaluator_type=evaluator_type,
        prepare=prepare,
        categories=categories,
        federated=federated,
        ignore_regions=ignore_regions,
        images_outside=images_outside,
        **metadata,
    )


_IGNORING_DEFECTS: set[str] = set()


def _say_classes(name: str, names: dict[int, str]) -> None:
    """Give metadata that have none the classes and their ids, as Detectron2's loaders do.

    Without the ids Detectron2's LVISEvaluator takes them for 1 … K. Detectron2 itself says LVIS's classes, by a synonym
    for one of them, but not their ids.

    Args:
        name: of the dataset.
        names: category id → name.
    """
    metadata = MetadataCatalog.get(name)
    if not metadata.get("thing_dataset_id_to_contiguous_id"):
        metadata.thing_dataset_id_to_contiguous_id = {c: i for i, c in enumerate(sorted(names))}
    if not metadata.get("thing_classes"):
        ids = metadata.thing_dataset_id_to_contiguous_id
        metadata.thing_classes = [names[c] for c in sorted(ids, key=ids.__getitem__)]


def register_open_images(name: str, source: OpenImagesSource, categories: Sequence[str] | None = None) -> None:
    """Register a dataset in the form of Open Images, which is converted when it is first used.

    Args:
        name: as of :func:`register_lvis_format`.
        source: its files.
        categories: as of :func:`register_lvis_format`.
    """
    # Counting reads no image, so that who evaluates needs none of the training set.
    all_count = categories is None and source.missing_images == "error"
    register_lvis_format(
        name,
        converted_file(source),
        source.images,
        prepare=partial(ensure_converted, source),
        categories=categories,
        evaluator_type="lvis" if source.classes else "openimages",
        count_classes=partial(count_open_images, source) if all_count else None,
    )


def ignores_defects(name: str) -> bool:
    """Whether defective entries of a dataset are left out; see :func:`ignore_defects_of`."""
    return name in _IGNORING_DEFECTS


def ignore_defects_of(name: str) -> None:
    """Leave a dataset's defective entries out from now on, instead of refusing it."""
    _IGNORING_DEFECTS.add(name)


def set_class_metadata(name: str) -> None:
    """Give a registered dataset's metadata its class names and category ids, generating its files if need be.

    A dataset that was registered elsewhere gets them from its annotation file, as Detectron2's loader would set them;
    one without such a file is loaded, which may set them, and gets one (see :func:`describe_records`).

    Raises:
        UserError: the dataset is unknown, its annotation file is missing or broken, or it has no class names.
    """
    if name not in DatasetCatalog.list():
        nearest = difflib.get_close_matches(name, DatasetCatalog.list(), n=1)
        hint = f"choose one of {', '.join(project_datasets())} or describe your own under DATASETS.CUSTOM."
        if nearest:
            hint = f"did you mean {nearest[0]}, or one that is to be described under DATASETS.CUSTOM?"
        raise UserError(f"Dataset {name!r} is not registered; {hint}")
    metadata = MetadataCatalog.get(name)
    others = ("json_file", "category_counts", "count_classes", "prepare")
    if metadata.get("evaluator_type") not in EVALUATORS and not any(metadata.get(key) for key in others):
        describe_records(name)
    if metadata.get("thing_classes") and metadata.get("thing_dataset_id_to_contiguous_id"):
        return
    if metadata.get("evaluator_type") in EVALUATORS or metadata.get("json_file"):
        counts = dataset_counts((name,))
        _say_classes(name, dict(zip(counts.category_ids, counts.names, strict=True)))
        return
    if not metadata.get("thing_classes"):
        raise UserError(
            f"Dataset {name!r} has no class names; describe it under DATASETS.CUSTOM, or set thing_classes in its "
            "metadata."
        )


def is_federated(name: str) -> bool:
    """Whether a registered dataset is labelled and evaluated by LVIS's rules, and not by COCO's.

    Detectron2's own COCO datasets, and those of its ``register_coco_instances``, say so by their evaluator.
    """
    metadata = MetadataCatalog.get(name)
    return metadata.get("federated", metadata.get("evaluator_type") in EVALUATORS)


def project_datasets() -> list[str]:
    """Names of the datasets registered by this project."""
    return sorted(name for name in DatasetCatalog.list() if name.startswith(("lvis_", "emoji_lvis_", "openimages_")))


def register_builtin_datasets() -> None:
    """Register Open Images, the presets of EmojiLVIS and LVIS's minival.

    LVIS itself is registered by Detectron2; see :func:`load_dataset`.
    """
    root = datasets_root()
    val, ids = root / "lvis" / "lvis_v1_val.json", root / "lvis" / "lvis_v1_minival_ids.json"
    register_lvis_format(
        "lvis_v1_minival",
        part_file(val, ids),
        root / "coco",
        prepare=partial(ensure_part, val, ids),
        category_counts_file=str(LVIS_COUNT_FILES["lvis_v1"]),
    )
    for split in CHALLENGE_2019:
        source = challenge_2019_source(root / "openimages" / "challenge2019", split)
        register_open_images(f"openimages_challenge2019_{split}", source)
    for preset, spec in PRESETS.items():
        folder = root / "emoji_lvis" / spec.name
        for split in spec.num_images:
            register_lvis_format(
                f"emoji_lvis_{preset}_{split}",
                folder / f"{split}.json",
                folder,
                prepare=partial(generate_emoji_lvis, spec, root / "emoji_lvis"),
            )


def register_lvis_datasets() -> None:
    """Register LVIS v0.5 and v1.0 in place of Detectron2's own entries, read without the package ``lvis``.

    The tools do so; importing this module does not. What else is known of a dataset stays, as ``class_image_count``.
    """
    for name, version in LVIS_DATASETS.items():
        metadata = MetadataCatalog.get(name)
        if metadata.get("federated") is not None:  # this was here before, or it is the user's own
            continue
        kept = {key: value for key, value in metadata.as_dict().items() if key == "class_image_count"}
        register_lvis_format(
            name,
            metadata.json_file,
            metadata.image_root,
            category_counts_file=str(LVIS_COUNT_FILES[version]),
            **kept,
        )


def load_dataset(name: str) -> Any:
    """The samples of a registered dataset; LVIS as this project reads it, whoever has registered it.

    Detectron2's reader leaves the ids of ``neg_category_ids`` as they are in the file, which image-level labels would
    take for other classes.
    """
    metadata = MetadataCatalog.get(name)
    if name in LVIS_DATASETS and metadata.get("federated") is None:
        return load_lvis_format(metadata.json_file, metadata.image_root, ignore_defects=ignores_defects(name))
    return DatasetCatalog.get(name)


def register_datasets(cfg: CfgNode) -> None:
    """Register LVIS for this project's engine, and what the config describes.

    Raises:
        UserError: as of :func:`register_custom_datasets`.
    """
    register_lvis_datasets()
    register_custom_datasets(cfg)


def register_custom_datasets(cfg: CfgNode) -> None:
    """Register the datasets that a config describes, under ``DATASETS.CUSTOM`` and in ``DATASETS.CUSTOM_FILE``.

    Raises:
        UserError: the file is broken, or an entry lacks a key or has an unknown one.
    """
    for entry, source in custom_entries(cfg):
        _register_entry(entry, source, cfg.DATASETS.IMAGES_OUTSIDE)


def _register_entry(entry: Any, source: str, images_outside: bool) -> None:
    check_entry(entry, source)
    if entry.get("format") == "openimages":
        register_open_images(entry["name"], source_of_entry(entry, source), entry.get("categories"))
        return
    image_ids = entry.get("image_ids")
    federated = entry.get("format", "lvis") == "lvis"
    register_lvis_format(
        entry["name"],
        part_file(entry["annotations"], image_ids) if image_ids else entry["annotations"],
        entry["images"],
        prepare=partial(ensure_part, entry["annotations"], image_ids) if image_ids else None,
        categories=entry.get("categories"),
        federated=federated,
        evaluator_type="lvis" if federated else "coco",  # by which other trainers choose theirs
        ignore_regions=entry.get("ignore_regions"),
        images_outside=images_outside,
        described_in=source,
    )


register_builtin_datasets()
