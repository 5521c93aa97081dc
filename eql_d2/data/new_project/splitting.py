"""A training and a validation set from one annotation file: by image, every class in both, the same for a seed."""

import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from eql_d2.data.annotations.cache import PackedAnnotations
from eql_d2.data.annotations.image_paths import candidate_paths
from eql_d2.errors import UserError


@dataclass(frozen=True)
class Split:
    """What a split comes to.

    Attributes:
        train: annotation file written.
        val: annotation file written.
        sentence: how many images went where, and which classes are in one set only.
    """

    train: Path
    val: Path
    sentence: str


def split_by_image(
    annotations: PackedAnnotations, folder: Path, share: float = 0.2, seed: int = 0, group_by: str | None = None
) -> Split:
    """Write ``train.json`` and ``val.json``.

    Whole groups of images go to one set. Classes are served from the rarest on: each that two groups or more have gets
    one of them into both sets; what is left is shared out at random.

    Args:
        annotations: of all images.
        folder: to write into.
        share: of the groups that become the validation set, in (0, 1).
        seed: of the random order.
        group_by: key of the image records whose equal values keep images together, such as ``video``; "folder" is the
            folder of the image's path; None takes every image for itself.

    Raises:
        UserError: the share is out of range, an image lacks the key, there are fewer than two groups, or the folder
            cannot be written.
    """
    if not 0 < share < 1:
        raise UserError(f"--val-share is {share}; it must lie between 0 and 1.")
    groups = _groups(annotations, group_by)
    if len(groups) < 2:
        raise UserError(
            f"{annotations.source} has {len(groups)} {'group' if group_by else 'image'}, which cannot be parted into a "
            "training and a validation set; name one with --val."
        )
    classes = [_classes_of(annotations, images) for images in groups]
    in_val = _choose(classes, share, np.random.default_rng(seed))
    parts: dict[str, list[int]] = {"train": [], "val": []}
    for images, is_val in zip(groups, in_val, strict=True):
        parts["val" if is_val else "train"] += images
    paths = {name: folder / f"{name}.json" for name in parts}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, places in parts.items():
            paths[name].write_text(json.dumps(_content(annotations, sorted(places))))
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written ({error.strerror}); name another.") from None
    return Split(paths["train"], paths["val"], _sentence(annotations, parts, classes, in_val, seed, group_by))


def _groups(annotations: PackedAnnotations, group_by: str | None) -> list[list[int]]:
    found: dict[Any, list[int]] = defaultdict(list)
    for place in range(len(annotations)):
        image = annotations.image_record(place)
        if group_by is None:
            key: Any = place
        elif group_by == "folder":
            key = PurePosixPath(candidate_paths(image, annotations.federated)[0]).parent.as_posix()
        elif group_by in image:
            key = json.dumps(image[group_by], sort_keys=True)
        else:
            raise UserError(
                f"--group-by is {group_by!r}, which image {image['id']} of {annotations.source} lacks; name a key of "
                "all images, or folder."
            )
        found[key].append(place)
    return list(found.values())


def _classes_of(annotations: PackedAnnotations, images: list[int]) -> set[int]:
    found: set[int] = set()
    for place in images:
        part = slice(*annotations.annotation_starts[place : place + 2].tolist())
        found.update(annotations.categories[part][~annotations.regions[part]].tolist())
    return found


def _choose(classes: list[set[int]], share: float, rng: np.random.Generator) -> list[bool]:
    """Which groups become the validation set."""
    wanted = min(max(round(share * len(classes)), 1), len(classes) - 1)
    order = rng.permutation(len(classes)).tolist()
    groups_of: dict[int, list[int]] = defaultdict(list)
    for group in order:
        for category in classes[group]:
            groups_of[category].append(group)
    side: dict[int, bool] = {}
    for category in sorted(groups_of, key=lambda c: (len(groups_of[c]), c)):
        of_class = groups_of[category]
        for is_val in (False, True):  # a class in one group only trains
            if any(side.get(group) == is_val for group in of_class):
                continue
            free = [group for group in of_class if group not in side]
            if free:
                side[free[0]] = is_val
    for group in order:
        if group not in side:
            side[group] = sum(side.values()) < wanted
    if not any(side.values()):
        side[order[-1]] = True
    return [side[group] for group in range(len(classes))]


def _content(annotations: PackedAnnotations, places: list[int]) -> dict[str, Any]:
    records = [annotations.records(place) for place in places]
    return {
        "images": [image for image, _ in records],
        "annotations": [annotation for _, of_image in records for annotation in of_image],
        "categories": annotations.category_records,
    }


def _sentence(
    annotations: PackedAnnotations,
    parts: dict[str, list[int]],
    classes: list[set[int]],
    in_val: list[bool],
    seed: int,
    group_by: str | None,
) -> str:
    counts = Counter(category for of_group in classes for category in of_group)
    both = set().union(*(c for c, v in zip(classes, in_val, strict=True) if v)) & set().union(
        *(c for c, v in zip(classes, in_val, strict=True) if not v)
    )
    names = [record["name"] for record in annotations.category_records]
    alone = [names[category] for category in sorted(counts) if category not in both]
    total = len(parts["train"]) + len(parts["val"])
    sentence = (
        f"{len(parts['train'])} images train and {len(parts['val'])} ({math.floor(100 * len(parts['val']) / total)} %) "
        f"validate, by seed {seed}{f', grouped by {group_by}' if group_by else ''}"
    )
    if alone:
        shown = ", ".join(alone[:5]) + (" …" if len(alone) > 5 else "")
        of_classes = "1 class is" if len(alone) == 1 else f"{len(alone)} classes are"
        sentence += f"; {of_classes} in one set only, too rare to be parted: {shown}"
    return sentence
