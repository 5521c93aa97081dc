"""What an EmojiLVIS set is made of: its size, its seed, and the named presets."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from eql_d2.data.emoji_lvis.federation import LVIS_NEGATIVES_PER_IMAGE, check_negatives
from eql_d2.data.emoji_lvis.image_counts import plan_image_counts
from eql_d2.long_tail import LVIS_THRESHOLDS

# Layouts above this share of `max_objects_per_image` leave no room to vary the number of objects per image.
MAX_MEAN_FILL = 0.75

PRESETS: dict[str, EmojiLVISSpec] = {}  # filled below


@dataclasses.dataclass(frozen=True)
class EmojiLVISSpec:
    """Recipe of one EmojiLVIS set; equal specs give byte-identical sets.

    Args:
        num_classes: 3 to 1203.
        num_train_images: train images; must hold a class of 101 images (see `max_class_share`).
        num_val_images: val images; every class appears in about equally many.
        image_size: side of the square images in pixels, 64 or more.
        seed: any non-negative integer.
        name: folder name of the set: letters, digits, "_" and "-".
        max_class_share: largest share of the train images that one class may appear in, in (0, 1].
        unannotated_share: presences of a frequent class that stay without annotation (and without a negative
            label), as a share of its annotated images, in [0, 0.5].
        object_size: smallest and largest length of an object as shares of `image_size`.
        max_objects_per_image: most objects in one image, annotated or not.
        other_than: name of a preset, or names, none of whose classes this set has; empty for none.
        negatives_per_image: classes that are verified to be absent from an image, in the mean, rare, common and
            frequent ones in LVIS's ratios; LVIS's own number is
            :data:`~eql_d2.data.emoji_lvis.federation.LVIS_NEGATIVES_PER_IMAGE`. 0 labels far more than LVIS: each class
            is verified to be absent from as many images as hold it (train), or four times as many (val), and from 10
            at least.
        num_test_images: images of a third split, made as val's are, to report on what was chosen on val; 0 for none.

    Raises:
        ValueError: a value is out of range or the sizes do not fit together.
    """

    num_classes: int
    num_train_images: int
    num_val_images: int
    image_size: int
    seed: int = 0
    name: str = "custom"
    max_class_share: float = 0.40
    unannotated_share: float = 0.10
    object_size: tuple[float, float] = (0.14, 0.45)
    max_objects_per_image: int = 12
    other_than: str | tuple[str, ...] = ""
    negatives_per_image: float = 0.0
    num_test_images: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "object_size", tuple(self.object_size))
        if not isinstance(self.other_than, str):
            object.__setattr__(self, "other_than", tuple(self.other_than))
        self._check_ranges()
        counts = plan_image_counts(self.num_classes, self.num_train_images, self.max_class_share)
        mean_classes = counts.sum() * (1 + self.unannotated_share) / self.num_train_images
        if mean_classes > MAX_MEAN_FILL * self.max_objects_per_image:
            raise ValueError(
                f"{self.num_classes} classes in {self.num_train_images} train images mean {mean_classes:.1f} "
                f"classes per image, too many for max_objects_per_image {self.max_objects_per_image}; "
                "use more train images, fewer classes or a smaller max_class_share."
            )
        for split, num_images in self.num_images.items():
            if self.num_classes > MAX_MEAN_FILL * self.max_objects_per_image * num_images:
                raise ValueError(
                    f"{num_images} {split} images cannot show each of {self.num_classes} classes; use more."
                )
            if self.negatives_per_image:
                letters = [LVIS_THRESHOLDS.letter(count) for count in counts]
                check_negatives(letters, self.image_counts(split, counts), num_images, self.negatives_per_image, split)

    @property
    def num_images(self) -> dict[str, int]:
        """{split: number of images} of the splits that the set has, in the order of their image ids."""
        sizes = {"train": self.num_train_images, "val": self.num_val_images, "test": self.num_test_images}
        return {split: size for split, size in sizes.items() if size or split != "test"}

    def image_counts(self, split: str, train_counts: np.ndarray) -> np.ndarray:
        """In how many images of a split each class is: in val and test the same for all, so that rare classes are
        measured too, and as many classes in an image as in train."""
        if split == "train":
            return train_counts
        classes_per_image = train_counts.sum() / self.num_train_images
        count = round(self.num_images[split] * classes_per_image / self.num_classes)
        return np.full(self.num_classes, np.clip(count, 1, self.num_images[split]))

    def _check_ranges(self) -> None:
        smallest, largest = self.object_size
        checks = [
            (self.num_val_images >= 1, "num_val_images", "at least 1"),
            (self.num_test_images >= 0, "num_test_images", "0 or more"),
            (self.image_size >= 64, "image_size", "at least 64"),
            (self.seed >= 0, "seed", "0 or more"),
            (re.fullmatch(r"[\w-]+", self.name), "name", "letters, digits, '_' and '-'"),
            (0 < self.max_class_share <= 1, "max_class_share", "a share in (0, 1]"),
            (0 <= self.unannotated_share <= 0.5, "unannotated_share", "a share in [0, 0.5]"),
            (0.05 <= smallest <= largest <= 0.8, "object_size", "two ascending shares in [0.05, 0.8]"),
            (self.max_objects_per_image >= 1, "max_objects_per_image", "at least 1"),
            (all(name in PRESETS for name in self.left_out), "other_than", f"one of {', '.join(PRESETS)}"),
            (self.negatives_per_image >= 0, "negatives_per_image", "a number of classes, or 0"),
        ]
        for holds, field, allowed in checks:
            if not holds:
                raise ValueError(f"{field} is {getattr(self, field)!r}; use {allowed}.")

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the presets none of whose classes this set has."""
        if isinstance(self.other_than, tuple):
            return self.other_than
        return (self.other_than,) if self.other_than else ()

    @property
    def equalization_lambda(self) -> float:
        """EQL's lambda with exactly rare and common classes below it: 100 images by the train set's size."""
        return LVIS_THRESHOLDS.common_max / self.num_train_images


PRESETS["demo"] = EmojiLVISSpec(60, 800, 240, 128, name="demo", object_size=(0.16, 0.5))
PRESETS["bench"] = EmojiLVISSpec(200, 4000, 1000, 160, name="bench", max_class_share=0.2)
PRESETS["full"] = EmojiLVISSpec(
    1203, 20000, 4000, 320, name="full", max_class_share=0.05, object_size=(0.06, 0.3), max_objects_per_image=30
)
# What the demo set's detectors may start from, as those of LVIS start from ImageNet: it shares no class with it.
PRESETS["pretrain"] = EmojiLVISSpec(
    240, 4000, 100, 128, name="pretrain", max_class_share=0.1, object_size=(0.16, 0.5), other_than="demo"
)
# Labelled as LVIS is: of the pairs of a class and an image some 5 % are verified (LVIS v0.5 1 %, v1 6 %).
PRESETS["federated"] = EmojiLVISSpec(
    300,
    5000,
    500,
    128,
    name="federated",
    max_class_share=0.05,
    object_size=(0.16, 0.5),
    negatives_per_image=LVIS_NEGATIVES_PER_IMAGE,
    num_test_images=1000,
)
PRESETS["federated_pretrain"] = EmojiLVISSpec(
    240,
    4000,
    100,
    128,
    name="federated_pretrain",
    max_class_share=0.1,
    object_size=(0.16, 0.5),
    other_than=("demo", "federated"),
)
