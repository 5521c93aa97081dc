"""Registration of datasets in Detectron2's catalogs: LVIS, EmojiLVIS and the user's own."""

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from eql_d2.data.annotation_cache import open_annotations
from eql_d2.data.categories import dataset_counts
from eql_d2.data.dataset_checks.image_files import missing_images
from eql_d2.data.emoji_lvis import PRESETS, generate_emoji_lvis
from eql_d2.data.emoji_lvis.long_tail import METADATA_DIR
from eql_d2.data.findings import defects_error
from eql_d2.data.ignore_regions import WithIgnoreRegions, with_ignore_regions
from eql_d2.data.lvis_format import LVISDataset, check_annotations, check_files_exist, load_lvis_format
from eql_d2.data.open_images import (
    CHALLENGE_2019,
    OpenImagesSource,
    challenge_2019_source,
    converted_file,
    count_open_images,
    ensure_converted,
)
from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

# By which rules a dataset of this project is evaluated: LVISEvaluator or OpenImagesEvaluator.
EVALUATORS = ("lvis", "openimages")

# Kinds of findings without which a set can train but not be evaluated on.
NEEDED_TO_EVALUATE = ("annotation without id", "annotation without area")

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
    categories: Sequence[str] | None = None,
    federated: bool = True,
    evaluator_type: str = "lvis",
    ignore_regions: str | Path | None = None,
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
        evaluator_type: one of :data:`EVALUATORS`.
        ignore_regions: a second annotation file of the same images (see :func:`with_ignore_regions`).
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
        )
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
        **metadata,
    )


_IGNORING_DEFECTS: set[str] = set()


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
    """Whether defective entries of a dataset are left out, as :func:`check_dataset` was told."""
    return name in _IGNORING_DEFECTS


def check_dataset(name: str, ignore_defects: bool = False, evaluated: bool = False) -> None:
    """Make sure early that a dataset can be used, and tell what is remarkable about it.

    Args:
        name: of a dataset registered by this project; others are not checked.
        ignore_defects: leave defective entries out, from now on, instead of raising an error.
        evaluated: whether metrics will be computed on it.

    Raises:
        UserError: a file or folder is missing, or the annotations have defects.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") not in EVALUATORS:
        return
    if metadata.get("prepare"):
        metadata.prepare()
    check_files_exist(metadata.json_file, metadata.image_root)
    if metadata.get("ignore_regions"):
        open_annotations(metadata.ignore_regions)
    annotations = open_annotations(metadata.json_file)
    check_annotations(annotations, metadata.federated, ignore_defects)
    missing = missing_images(annotations, metadata.image_root)
    if missing and (evaluated or not ignore_defects):  # metrics on a part of the set would be of another set
        raise defects_error(metadata.json_file, [missing], ignorable=not evaluated)
    if ignore_defects:
        _IGNORING_DEFECTS.add(name)
    for finding in (*annotations.findings, *([missing] if missing else [])):
        if evaluated and finding.kind in NEEDED_TO_EVALUATE:
            raise UserError(f"Annotation file {metadata.json_file}: {finding}; add it, or evaluate on another set.")
        if finding.level == "defect" or not evaluated:
            logger.warning("%s: %s%s", name, finding, " (left out)" if finding.level == "defect" else "")


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
    if metadata.get("evaluator_type") in EVALUATORS and not metadata.get("thing_classes"):
        counts = dataset_counts((name,))
        metadata.thing_classes = list(counts.names)
        metadata.thing_dataset_id_to_contiguous_id = {c: i for i, c in enumerate(counts.category_ids)}


def project_datasets() -> list[str]:
    """Names of the datasets registered by this project."""
    return sorted(name for name in DatasetCatalog.list() if name.startswith(("lvis_", "emoji_lvis_", "openimages_")))


def register_builtin_datasets() -> None:
    """Register LVIS v0.5 and v1.0 in place of Detectron2's own entries, Open Images, and the presets of EmojiLVIS."""
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
    for split in CHALLENGE_2019:
        source = challenge_2019_source(root / "openimages" / "challenge2019", split)
        register_open_images(f"openimages_challenge2019_{split}", source)
    for preset, spec in PRESETS.items():
        folder = root / "emoji_lvis" / spec.name
        for split in ("train", "val"):
            register_lvis_format(
                f"emoji_lvis_{preset}_{split}",
                folder / f"{split}.json",
                folder,
                prepare=partial(generate_emoji_lvis, spec, root / "emoji_lvis"),
            )


register_builtin_datasets()
