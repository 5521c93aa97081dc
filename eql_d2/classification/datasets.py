"""Image sets by their names in ``DATASETS.TRAIN`` and ``DATASETS.TEST``, in Detectron2's catalogs."""

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from eql_d2.classification.cifar import read_cifar
from eql_d2.classification.image_files import READERS, read_image_list
from eql_d2.classification.image_set import ImageSet
from eql_d2.classification.imbalance import long_tailed_indices
from eql_d2.classification.small_sets import GLYPH_CLASSES, draw_glyphs, glyph_labels, read_digits
from eql_d2.data.custom_entries import custom_entries
from eql_d2.data.registration import datasets_root
from eql_d2.errors import UserError

EVALUATOR_TYPE = "classification"
SPLITS = {
    "cifar10": ("train", "test"),
    "cifar100": ("train", "test"),
    "digits": ("train", "test"),
    "glyphs": ("train", "test"),
    "imagenet_lt": ("train", "val", "test"),
}
NAME = re.compile(
    r"(?P<family>[a-z0-9_]+?)(?:_lt(?P<imbalance>[0-9]+(?:\.[0-9]+)?)(?:_seed(?P<seed>[0-9]+))?)?_(?P<split>[a-z]+)"
)


def register_classification_datasets(cfg: CfgNode) -> None:
    """Register what the config names or describes; no images are read yet.

    Raises:
        UserError: a name is unknown, or an entry lacks a key or has an unknown one.
    """
    for entry, source in custom_entries(cfg):
        _register_entry(entry, source)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if MetadataCatalog.get(name).get("evaluator_type") != EVALUATOR_TYPE:
            family, split, imbalance, seed = parse_name(name)
            _register(name, lambda *key: _read_builtin(*key), (name, family, split, imbalance, seed, datasets_root()))


def parse_name(name: str) -> tuple[str, str, float, int]:
    """Take the name of a built-in set apart.

    Args:
        name: e.g. ``cifar100_lt100_seed1_train``.

    Returns:
        Family ("cifar100"), split ("train"), imbalance (1 as it is) and seed of the cut (0).

    Raises:
        UserError: there is no such set.
    """
    match = NAME.fullmatch(name)
    if match is None or match["split"] not in SPLITS.get(match["family"], ()):
        known = ", ".join(f"{family}_{'/'.join(splits)}" for family, splits in SPLITS.items())
        raise UserError(
            f"Dataset {name!r} is not known; it must be of {known}, with a long tail as in cifar100_lt50_train, or be "
            "described under DATASETS.CUSTOM."
        )
    return match["family"], match["split"], float(match["imbalance"] or 1), int(match["seed"] or 0)


def load_image_set(name: str) -> ImageSet:
    """The images of a registered set; its classes and counts go to its metadata.

    Raises:
        UserError: it cannot be read.
    """
    image_set = DatasetCatalog.get(name)
    metadata = MetadataCatalog.get(name)
    if not metadata.get("category_counts"):
        metadata.set(category_counts=image_set.counts, thing_classes=list(image_set.classes))
    return image_set


def check_classification_datasets(cfg: CfgNode, eval_only: bool) -> None:
    """Make sure that the image sets can be used and fit the model and each other.

    Raises:
        UserError: one is missing or broken, or has other classes; the sentence says which.
    """
    if not (cfg.DATASETS.TRAIN or eval_only):
        raise UserError("DATASETS.TRAIN is empty; name a dataset to train on.")
    # Counts of the training images are needed by losses and by the metrics' groups, also in an evaluation.
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    num_classes = cfg.MODEL.CLASSIFIER.NUM_CLASSES
    first = load_image_set(names[0]).classes if names else ()
    for name in names:
        classes = load_image_set(name).classes
        if len(classes) != num_classes:
            raise UserError(
                f"MODEL.CLASSIFIER.NUM_CLASSES is {num_classes}, but dataset {name} has labels of {len(classes)} "
                f"classes; set it to {len(classes)} or to auto, or mend the labels."
            )
        if classes != first:
            differing = next(pair for pair in zip(first, classes, strict=True) if pair[0] != pair[1])
            raise UserError(
                f"Datasets {names[0]} and {name} have different classes ({differing[0]!r} and {differing[1]!r} first); "
                "give both the same folders or labels."
            )


def _register(name: str, read: Callable[..., ImageSet], key: tuple) -> None:
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.remove(name)
    DatasetCatalog.register(name, lambda: read(*key))
    MetadataCatalog.get(name).set(evaluator_type=EVALUATOR_TYPE, prepare=lambda: load_image_set(name))


def _register_entry(entry: Any, source: str) -> None:
    required, optional = {"name", "images"}, {"format", "annotations", "imbalance", "seed"}
    if not isinstance(entry, dict) or not required <= set(entry) <= required | optional:
        raise UserError(
            f"{source} has the entry {entry}; for images with one label each it needs the keys "
            f"{', '.join(sorted(required))}, and may have {', '.join(sorted(optional))}."
        )
    name, kind = entry["name"], entry.get("format", "image_folder")
    if kind not in READERS:
        raise UserError(f"{source}: dataset {name!r} has the format {kind!r}; it must be one of {', '.join(READERS)}.")
    imbalance, seed = entry.get("imbalance", 1), entry.get("seed", 0)
    if not isinstance(imbalance, (int, float)) or not isinstance(seed, int) or seed < 0:
        raise UserError(
            f"{source}: dataset {name!r} has imbalance {imbalance!r} and seed {seed!r}; they must be a number of at "
            "least 1 and a whole number of at least 0."
        )
    annotations = Path(entry["annotations"]) if entry.get("annotations") else None
    _register(name, _read_custom, (name, kind, Path(entry["images"]), annotations, float(imbalance), seed))


@lru_cache(maxsize=8)
def _read_custom(name: str, kind: str, images: Path, annotations: Path | None, imbalance: float, seed: int) -> ImageSet:
    return _cut(READERS[kind](name, images, annotations), name, imbalance, seed)


@lru_cache(maxsize=8)
def _read_builtin(name: str, family: str, split: str, imbalance: float, seed: int, root: Path) -> ImageSet:
    if family == "glyphs":  # only the images of the long tail are drawn
        labels = glyph_labels(split)
        everything = np.arange(len(labels))
        is_cut = imbalance != 1
        chosen = long_tailed_indices(labels, GLYPH_CLASSES, imbalance, seed, name) if is_cut else everything
        return draw_glyphs(split, chosen).subset(np.arange(len(chosen)), name)
    if family == "imagenet_lt":
        folder = root / "imagenet"
        image_set = read_image_list(name, folder, root / "imagenet_lt" / f"ImageNet_LT_{split}.txt")
    elif family == "digits":
        image_set = read_digits(split)
    else:
        image_set = read_cifar(family, split, root)
    return _cut(image_set, name, imbalance, seed)


def _cut(image_set: ImageSet, name: str, imbalance: float, seed: int) -> ImageSet:
    if imbalance == 1:
        return image_set
    return image_set.subset(long_tailed_indices(image_set.labels, len(image_set.classes), imbalance, seed, name), name)
