"""What a training sampler makes of the classes: how often it shows each, against showing every image once."""

import csv
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from tabulate import tabulate

from eql_d2.data.category_counts import category_counts
from eql_d2.data.training.build_sampler import fitting_counts
from eql_d2.data.training.image_classes import ImageClasses
from eql_d2.data.training.samplers import TrainingStream
from eql_d2.errors import UserError
from eql_d2.long_tail import CategoryCounts
from eql_d2.plain_files import csv_text

FILE_NAME = "sampler_classes.csv"
GROUP_NAMES = {"r": "rare", "c": "common", "f": "frequent"}
NUM_EXTREMES = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassesShown:
    """Images and instances of K classes among as many images as there are training images.

    Attributes:
        images: (K,) int64, when every image is shown once.
        instances: (K,) int64, likewise.
        images_shown: (K,) int64, among the first images of the sampler's stream.
        instances_shown: (K,) int64, likewise.
    """

    images: np.ndarray
    instances: np.ndarray
    images_shown: np.ndarray
    instances_shown: np.ndarray


def classes_shown(sampler: TrainingStream, classes: ImageClasses, num_classes: int) -> ClassesShown:
    """Count the classes in the first N indices of a sampler's stream, N being the number of training images."""
    size = classes.num_images
    indices = np.fromiter(itertools.islice(sampler.stream(), size), np.int64, size)
    natural = classes.counts(np.ones(size), num_classes)
    return ClassesShown(*natural, *classes.counts(np.bincount(indices, minlength=size), num_classes))


def report_classes_shown_by(cfg: CfgNode, sampler: TrainingStream, classes: ImageClasses) -> None:
    """:func:`report_classes_shown` of a config; where its data has no fitting category counts, a warning says so."""
    try:
        counts = fitting_counts(category_counts(cfg), classes, cfg.DATASETS.TRAIN)
    except UserError as error:  # a sampler without need of counts samples without them
        logger.warning("What the sampler shows of each class is not counted: %s", error)
        return
    report_classes_shown(sampler, classes, counts, cfg.OUTPUT_DIR)


def report_classes_shown(
    sampler: TrainingStream, classes: ImageClasses, counts: CategoryCounts, output_dir: str | Path
) -> None:
    """Log the sampler's classes by group, and write those of all classes to ``OUTPUT_DIR/sampler_classes.csv``.

    The numbers are of the run's own stream, over one epoch's worth of images. Called by the first process alone.

    Args:
        sampler: the run's sampler.
        classes: the classes of the training images.
        counts: of the training data.
        output_dir: folder of the run.
    """
    shown = classes_shown(sampler, classes, counts.num_classes)
    path = Path(output_dir) / FILE_NAME
    name = type(sampler).__name__
    _write_file(path, shown, counts)
    if np.array_equal(shown.images_shown, shown.images) and np.array_equal(shown.instances_shown, shown.instances):
        logger.info("%s shows each class as often as it is there (%s).", name, path)
        return
    logger.info(
        "What %s shows in %d images, and how that compares with every image once (each class: %s):\n%s",
        name,
        classes.num_images,
        path,
        table(shown, counts),
    )


def _write_file(path: Path, shown: ClassesShown, counts: CategoryCounts) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    facts = zip(counts.category_ids, map(csv_text, counts.names), counts.frequency_groups, strict=True)
    columns = (shown.images, shown.images_shown, shown.instances, shown.instances_shown)
    with open(partial, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["category_id", "name", "frequency", "images", "images_shown", "instances", "instances_shown"])
        numbers = zip(*(column.tolist() for column in columns), strict=True)
        writer.writerows((*fact, *values) for fact, values in zip(facts, numbers, strict=True))
    partial.replace(path)


def table(shown: ClassesShown, counts: CategoryCounts) -> str:
    """A text table: the groups rare, common and frequent, and the classes whose share changes most."""
    groups = np.array(counts.frequency_groups)
    rows = [
        _row(f"{name} ({(groups == letter).sum()} classes)", np.flatnonzero(groups == letter), shown)
        for letter, name in GROUP_NAMES.items()
        if (groups == letter).any()
    ]
    present = np.flatnonzero(shown.images)
    order = present[np.argsort(-shown.images_shown[present] / shown.images[present], kind="stable")]
    # Not more than there are, and none twice.
    extremes = order if len(order) <= 2 * NUM_EXTREMES else np.r_[order[:NUM_EXTREMES], order[-NUM_EXTREMES:]]
    rows += [_row(f"{counts.names[j]} ({groups[j]})", [j], shown) for j in extremes]
    headers = ["", "images", "shown", "ratio", "instances", "shown", "ratio"]
    return tabulate(rows, headers=headers, stralign="right", disable_numparse=True)


def _row(name: str, members: Sequence[int] | np.ndarray, shown: ClassesShown) -> list[str]:
    row = [name]
    for once, sampled in ((shown.images, shown.images_shown), (shown.instances, shown.instances_shown)):
        total, total_shown = int(once[members].sum()), int(sampled[members].sum())
        row += [str(total), str(total_shown), f"{total_shown / total:.2f}" if total else "–"]
    return row
