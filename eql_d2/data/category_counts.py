"""The category counts of a config, of registered datasets and of an annotation file."""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from eql_d2.data.annotations.cache import PackedAnnotations, open_annotations
from eql_d2.data.annotations.findings import defects_error
from eql_d2.data.annotations.lvis_format import chosen_categories
from eql_d2.data.registered_records import describe_records
from eql_d2.errors import UserError
from eql_d2.long_tail import LVIS_COUNT_FILES, LVIS_DATASETS, CategoryCounts, FrequencyThresholds, read_count_file

ONE_STAGE = ("RetinaNet", "LongTailRetinaNet", "LongTailFCOS")
"""Values of ``MODEL.META_ARCHITECTURE`` whose classes ``MODEL.RETINANET.NUM_CLASSES`` counts."""


def category_counts(cfg: CfgNode, check_classes: bool = True) -> CategoryCounts:
    """The category counts of a config's training data.

    Sources, in this order: the file ``MODEL.LONG_TAIL.CATEGORY_COUNTS``; the dataset's metadata, which has
    ``category_counts`` or the name of a ``category_counts_file``; this package's counts of LVIS; the annotation files
    of ``DATASETS.TRAIN``, counted once.

    Args:
        cfg: full config.
        check_classes: make sure that the counts are of as many classes as the model has.

    Raises:
        UserError: there is no source, or its number of classes is not the model's.
    """
    explicit = cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS
    if explicit:
        counts, source = read_count_file(explicit), f"MODEL.LONG_TAIL.CATEGORY_COUNTS ({explicit})"
    elif cfg.DATASETS.TRAIN:
        _require_registered(cfg)
        counts, source = (
            dataset_counts(tuple(cfg.DATASETS.TRAIN)),
            f"DATASETS.TRAIN ({', '.join(cfg.DATASETS.TRAIN)})",
        )
    else:
        raise UserError(
            "No source of category counts: set DATASETS.TRAIN to a registered dataset "
            "or MODEL.LONG_TAIL.CATEGORY_COUNTS to a JSON file."
        )
    counts = with_thresholds(counts, cfg)
    key, num_classes = num_classes_of_model(cfg)
    if check_classes and counts.num_classes != num_classes:
        raise UserError(
            f"{key} is {num_classes}, but {source} has {counts.num_classes} classes; set it to {counts.num_classes}."
        )
    return counts


def with_thresholds(counts: CategoryCounts, cfg: CfgNode) -> CategoryCounts:
    """The counts with the config's thresholds of the groups rare, common and frequent.

    Raises:
        UserError: the thresholds are out of order.
    """
    thresholds = cfg.MODEL.LONG_TAIL.FREQUENCY_THRESHOLDS
    try:
        return dataclasses.replace(counts, thresholds=FrequencyThresholds(*thresholds))
    except (TypeError, ValueError):
        raise UserError(
            f"MODEL.LONG_TAIL.FREQUENCY_THRESHOLDS is {thresholds}; it takes two numbers of images, the smaller first, "
            "or auto."
        ) from None


def _require_registered(cfg: CfgNode) -> None:
    """Say what to do where a config is used outside of a run, as by Detectron2's DefaultPredictor."""
    described = {entry.get("name") for entry in cfg.DATASETS.CUSTOM if isinstance(entry, dict)}
    for name in cfg.DATASETS.TRAIN:
        if name not in MetadataCatalog.list() and (name in described or cfg.DATASETS.CUSTOM_FILE):
            raise UserError(
                f"Dataset {name!r} is described in the config, but not registered; call "
                "eql_d2.data.registration.register_datasets(cfg) first, or use "
                "eql_d2.prediction.predictor.Predictor, which needs no dataset."
            )


def no_instances_error(dataset_names: Sequence[str]) -> UserError | None:
    """The error of training data without an annotated object, which says why; None where there is one.

    Args:
        dataset_names: registered datasets; those without annotation file are not looked at.
    """
    crowds = 0
    for name in dataset_names:
        metadata = MetadataCatalog.get(name)
        if metadata.get("category_counts") or metadata.get("count_classes"):
            return None
        if metadata.get("prepare"):
            metadata.prepare()
        if not metadata.get("json_file"):
            return None
        if sum(count_annotations(metadata.json_file, metadata.get("categories")).instance_counts):
            return None
        defects = defects_error(metadata.json_file, open_annotations(metadata.json_file).findings)
        if defects:
            return defects
        crowds += int(open_annotations(metadata.json_file).regions.sum())
    why = f": all {crowds} annotations are crowds (iscrowd or ignore 1), which train nothing" if crowds else ""
    return UserError(f"DATASETS.TRAIN ({', '.join(dataset_names)}) has no annotated image{why}.")


def num_classes_of_model(cfg: CfgNode) -> tuple[str, int]:
    """The number of classes that the config's model tells apart, and the key that says it."""
    if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier":
        return "MODEL.CLASSIFIER.NUM_CLASSES", cfg.MODEL.CLASSIFIER.NUM_CLASSES
    if cfg.MODEL.META_ARCHITECTURE in ONE_STAGE:
        return "MODEL.RETINANET.NUM_CLASSES", cfg.MODEL.RETINANET.NUM_CLASSES
    return "MODEL.ROI_HEADS.NUM_CLASSES", cfg.MODEL.ROI_HEADS.NUM_CLASSES


def dataset_counts(dataset_names: str | Sequence[str]) -> CategoryCounts:
    """Counts of registered datasets trained on together.

    Args:
        dataset_names: one name or several.

    Raises:
        UserError: the datasets have different classes.
    """
    dataset_names = (dataset_names,) if isinstance(dataset_names, str) else tuple(dataset_names)
    parts = [_counts_of_one(name) for name in dataset_names]
    if any(part.names != parts[0].names for part in parts):
        raise UserError(f"The datasets of DATASETS.TRAIN ({', '.join(dataset_names)}) have different classes.")
    return CategoryCounts(
        category_ids=parts[0].category_ids,
        names=parts[0].names,
        image_counts=tuple(map(sum, zip(*(part.image_counts for part in parts), strict=True))),
        instance_counts=tuple(map(sum, zip(*(part.instance_counts for part in parts), strict=True))),
        num_images=sum(part.num_images for part in parts),
    )


def official_counts_file(dataset_name: str) -> str | None:
    """The file of counts that a dataset comes with, as LVIS's do under Detectron2's names; None without one."""
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("category_counts_file"):
        return metadata.category_counts_file
    # A dataset of the user's own under LVIS's name has "federated", as all that this project registers.
    if dataset_name in LVIS_DATASETS and metadata.get("federated") is None:
        return str(LVIS_COUNT_FILES[LVIS_DATASETS[dataset_name]])
    return None


def _counts_of_one(dataset_name: str) -> CategoryCounts:
    if dataset_name not in MetadataCatalog.list():
        raise UserError(f"Dataset {dataset_name!r} is not registered; describe it under DATASETS.CUSTOM.")
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("category_counts"):
        return metadata.category_counts
    official = official_counts_file(dataset_name)
    if official:
        return read_count_file(official)
    if metadata.get("count_classes"):
        return metadata.count_classes()
    if metadata.get("prepare"):
        metadata.prepare()
    if metadata.get("category_counts"):  # of images with one label each, which have no annotation file
        return metadata.category_counts
    if not metadata.get("json_file"):
        describe_records(dataset_name)
    if not metadata.get("json_file"):
        raise UserError(
            f"Dataset {dataset_name!r} has no annotation file to count its classes in; name a file of counts with "
            "MODEL.LONG_TAIL.CATEGORY_COUNTS."
        )
    return count_annotations(metadata.json_file, metadata.get("categories"))


def count_annotations(path: str, categories: Sequence[str] | None = None) -> CategoryCounts:
    """Count the classes of an annotation file, over its images that have annotations.

    Args:
        path: JSON in the LVIS or COCO format; crowds and other regions to ignore do not count.
        categories: names of the classes to count; None counts all.
    """
    return _count(open_annotations(path), None if categories is None else tuple(categories))


@lru_cache(maxsize=8)
def _count(annotations: PackedAnnotations, names: tuple[str, ...] | None) -> CategoryCounts:
    categories = chosen_categories(annotations, names)
    place = {record["id"]: index for index, record in enumerate(categories)}
    class_of = np.array([place.get(record["id"], -1) for record in annotations.category_records] + [-1])
    classes = class_of[annotations.categories]
    image_of = np.repeat(np.arange(len(annotations)), np.diff(annotations.annotation_starts))
    kept = (classes >= 0) & ~annotations.regions
    classes, image_of = classes[kept], image_of[kept]
    pairs = np.sort(image_of * len(categories) + classes, kind="stable")
    once_an_image = pairs[np.diff(pairs, prepend=-1) > 0] % max(len(categories), 1)  # np.unique takes 30 times as long
    image_counts, instance_counts = (
        np.bincount(counted, minlength=len(categories)).tolist() for counted in (once_an_image, classes)
    )
    return CategoryCounts(
        category_ids=tuple(record["id"] for record in categories),
        names=tuple(record["name"] for record in categories),
        image_counts=tuple(image_counts),
        instance_counts=tuple(instance_counts),
        num_images=int((np.bincount(image_of) > 0).sum()),
    )
