"""Which image holds which classes: decided for a whole split before the first image is drawn."""

from __future__ import annotations

import dataclasses

import numpy as np

from eql_d2.data.emoji_lvis.federation import negative_counts
from eql_d2.data.emoji_lvis.image_counts import plan_image_counts
from eql_d2.data.emoji_lvis.spec import EmojiLVISSpec
from eql_d2.long_tail import LVIS_THRESHOLDS

SPLITS = ("train", "val", "test")  # their places are in the seeds of what is drawn

# Chance of 1, 2 and 3 instances of a class in an image that holds it.
INSTANCES_PER_PRESENCE = (0.74, 0.18, 0.08)

# Chance, by train frequency, that one of several instances of a class stays without annotation, which makes
# the class "not exhaustive" in that image. Annotators of LVIS stop early where there is much of a class, so
# it grows.
NOT_EXHAUSTIVE_CHANCE = {"r": 0.05, "c": 0.15, "f": 0.30}

# Verified-absent images of a class per image that holds it. Val has more: federated AP counts a false
# positive only in images where the class is present or verified absent. Not of a set with `negatives_per_image`.
NEGATIVES_PER_POSITIVE = {"train": 1.0, "val": 4.0, "test": 4.0}
MIN_NEGATIVES = 10


@dataclasses.dataclass(frozen=True)
class PlannedObject:
    """One object to draw: 0-based class index, and whether the annotation file tells of it."""

    category: int
    annotated: bool


@dataclasses.dataclass(frozen=True)
class ImagePlan:
    """Everything decided about one image; classes are 0-based indices.

    Args:
        index: 0-based number of the image in its split.
        objects: all objects to draw, annotated or not.
        negatives: classes verified to be absent, ascending.
        not_exhaustive: annotated classes with at least one unannotated instance, ascending.
    """

    index: int
    objects: tuple[PlannedObject, ...]
    negatives: tuple[int, ...]
    not_exhaustive: tuple[int, ...]

    @property
    def present(self) -> frozenset[int]:
        """Classes really in the image: the truth that a federated annotation file tells in part."""
        return frozenset(obj.category for obj in self.objects)

    @property
    def positives(self) -> frozenset[int]:
        """Classes with at least one annotated instance."""
        return frozenset(obj.category for obj in self.objects if obj.annotated)

    @property
    def hidden(self) -> frozenset[int]:
        """Classes in the image that the annotation file is silent about: neither positive nor negative."""
        return self.present - self.positives


@dataclasses.dataclass(frozen=True)
class SplitPlan:
    """All images of a split and, per class, in how many of them it is annotated."""

    split: str
    images: tuple[ImagePlan, ...]
    image_counts: np.ndarray


def train_image_counts(spec: EmojiLVISSpec) -> np.ndarray:
    """Planned train image counts by class index: LVIS's curve, dealt out to the classes at random."""
    counts = plan_image_counts(spec.num_classes, spec.num_train_images, spec.max_class_share)
    return np.random.default_rng([spec.seed, 1]).permutation(counts)


def plan_split(spec: EmojiLVISSpec, split: str) -> SplitPlan:
    """Plan a split: objects, negatives and gaps of every image.

    Args:
        spec: the set.
        split: "train", "val" or "test". The latter two have no unannotated objects: they are there to measure with.
    """
    rng = np.random.default_rng([spec.seed, 2, SPLITS.index(split)])
    train_counts = train_image_counts(spec)
    frequencies = [LVIS_THRESHOLDS.letter(count) for count in train_counts]
    num_images, counts = spec.num_images[split], spec.image_counts(split, train_counts)
    if split == "train":
        is_frequent = np.array(frequencies) == "f"
        hidden_counts = np.where(is_frequent, np.round(spec.unannotated_share * counts).astype(int), 0)
        hidden_counts = np.minimum(hidden_counts, num_images - counts)
    else:
        hidden_counts = np.zeros_like(counts)

    presences = _deal_classes(counts + hidden_counts, num_images, spec.max_objects_per_image, rng)
    gap_chance = NOT_EXHAUSTIVE_CHANCE if split == "train" else dict.fromkeys("rcf", 0.0)
    room = spec.max_objects_per_image - np.bincount(np.concatenate(presences), minlength=num_images)
    objects: list[list[PlannedObject]] = [[] for _ in range(num_images)]
    not_exhaustive: list[list[int]] = [[] for _ in range(num_images)]
    for category, images in enumerate(presences):
        instances = 1 + rng.choice(len(INSTANCES_PER_PRESENCE), size=len(images), p=INSTANCES_PER_PRESENCE)
        has_gap = rng.random(len(images)) < gap_chance[frequencies[category]]
        for rank, image in enumerate(images):
            num_instances = min(instances[rank], 1 + room[image])
            room[image] -= num_instances - 1
            # `images` is in random order, so its first entries are a fair draw of the annotated ones.
            annotated = num_instances if rank < counts[category] else 0
            if annotated > 1 and has_gap[rank]:
                annotated -= 1
                not_exhaustive[image].append(category)
            objects[image] += [PlannedObject(category, k < annotated) for k in range(num_instances)]

    if spec.negatives_per_image:
        num_negatives = negative_counts(frequencies, num_images, spec.negatives_per_image)
    else:
        num_negatives = np.array(
            [max(MIN_NEGATIVES, round(NEGATIVES_PER_POSITIVE[split] * int(count))) for count in counts]
        )
    negatives = _draw_negatives(presences, num_negatives, num_images, rng)
    plans = tuple(
        ImagePlan(i, tuple(objects[i]), tuple(negatives[i]), tuple(not_exhaustive[i])) for i in range(num_images)
    )
    return SplitPlan(split, plans, counts)


def _deal_classes(
    presence_counts: np.ndarray, num_images: int, max_per_image: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Choose for each class the distinct images that hold it, in random order.

    Images that hold little yet for their appetite come first, so that none stays empty and none overflows,
    while the number of classes still varies from image to image.
    """
    load = np.zeros(num_images)
    appetite = 0.3 + rng.gamma(3.0, 1 / 3.0, size=num_images)
    chosen: list[np.ndarray] = [np.empty(0, int)] * len(presence_counts)
    for category in np.argsort(-presence_counts, kind="stable"):
        reluctance = load / appetite + rng.exponential(1.5, size=num_images)
        reluctance[load >= max_per_image] = np.inf
        images = np.argsort(reluctance, kind="stable")[: presence_counts[category]]
        if np.isinf(reluctance[images]).any():
            raise ValueError(
                f"max_objects_per_image {max_per_image} leaves no image free for a class in "
                f"{presence_counts[category]} of {num_images} images; raise it or use more images."
            )
        load[images] += 1
        chosen[category] = rng.permutation(images)
    return chosen


def _draw_negatives(
    presences: list[np.ndarray],
    num_negatives: np.ndarray,
    num_images: int,
    rng: np.random.Generator,
) -> list[list[int]]:
    """Draw for each class images that do not hold it, and list the classes by image."""
    negatives: list[list[int]] = [[] for _ in range(num_images)]
    for category, images in enumerate(presences):
        absent = np.setdiff1d(np.arange(num_images), images)
        for image in rng.permutation(absent)[: num_negatives[category]]:
            negatives[image].append(category)
    return negatives
