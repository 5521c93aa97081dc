"""What a new project's config says, and why: from the numbers of the data."""

import math
from dataclasses import dataclass

import numpy as np

from eql_d2.data.annotations.cache import PackedAnnotations
from eql_d2.long_tail import CategoryCounts

REFERENCE_BATCH, REFERENCE_RATE = 16, 0.02  # of Detectron2's COCO baselines, from which the linear rule starts
_LEVELS = (32, 64, 128, 256, 512)  # sides of the anchors
_SMALLEST_SIDE = 16  # of an object after resizing, that the finest level still finds well
_SIDES = (480, 1200)  # shortest side of images that are trained on


@dataclass(frozen=True)
class Schedule:
    """Iterations from epochs.

    Attributes:
        epochs: passes over the training images.
        batch: images an iteration.
        iterations: in all.
        period: iterations between evaluations and checkpoints, about an epoch.
        base_lr: learning rate.
        steps: where it is divided by ten.
        warmup: iterations of its rise.
    """

    epochs: int
    batch: int
    iterations: int
    period: int
    base_lr: float
    steps: tuple[int, int]
    warmup: int


def schedule_of(num_images: int, batch: int, epochs: int | None = None) -> Schedule:
    """The schedule of a fine-tuning.

    Args:
        num_images: that have annotations, at least 1.
        batch: images an iteration.
        epochs: None takes 12 (Detectron2's 1x) of 20,000 images and more, and more of fewer, up to 100.
    """
    if epochs is None:
        epochs = int(np.clip(round(12 * math.sqrt(20_000 / num_images)), 12, 100))
    an_epoch = max(-(-num_images // batch), 1)
    iterations = max(epochs * an_epoch, 10)
    return Schedule(
        epochs=epochs,
        batch=batch,
        iterations=iterations,
        period=max(an_epoch, iterations // 25),
        base_lr=float(f"{REFERENCE_RATE * batch / REFERENCE_BATCH:.2g}"),
        steps=(iterations * 2 // 3, iterations * 8 // 9),
        warmup=min(1000, max(iterations // 10, 1)),
    )


@dataclass(frozen=True)
class Sizes:
    """Sizes of images and anchors.

    Attributes:
        shortest: side of the images in training and testing, in pixels.
        longest: most of the longer side.
        anchors: sides of the anchors, a level each.
        reason: of the choice.
    """

    shortest: int
    longest: int
    anchors: tuple[int, ...]
    reason: str


def sizes_of(annotations: PackedAnnotations) -> Sizes:
    """Sizes at which the small objects of a set can be found.

    Args:
        annotations: with at least one object.
    """
    sides, scale_of = [], []
    for place, (width, height) in enumerate(annotations.sizes.tolist()):
        for record in annotations.records(place)[1]:
            sides.append(math.sqrt(max(record["bbox"][2] * record["bbox"][3], 1e-6)))
            scale_of.append(min(width, height))
    shorter = float(np.median(annotations.sizes.min(axis=1)))
    small = float(np.quantile(np.array(sides) / np.array(scale_of), 0.1)) * shorter  # in a picture of the median size
    wanted = max(min(shorter, 800), shorter * _SMALLEST_SIDE / small)
    # An object of 16 pixels is worth a picture twice as large as it is, and no more: that shows nothing new.
    shortest = int(np.clip(min(wanted, 2 * shorter), *_SIDES) // 32 * 32)
    after = small * shortest / shorter
    anchors = tuple(side // 2 for side in _LEVELS) if after < _SMALLEST_SIDE else _LEVELS
    reason = (
        f"a tenth of the objects are smaller than {small:.0f} pixels in pictures of {shorter:.0f} pixels (shorter "
        f"side); at {shortest} they have {after:.0f}"
    )
    return Sizes(shortest, round(shortest * 5 / 3), anchors, reason)


@dataclass(frozen=True)
class Method:
    """Loss and sampler for the shape of a tail.

    Attributes:
        predictor: ``MODEL.ROI_BOX_HEAD.PREDICTOR``.
        sampler: ``DATALOADER.SAMPLER_TRAIN``.
        repeat_threshold: ``DATALOADER.REPEAT_THRESHOLD``; 0 where nothing is repeated.
        reason: of the choice.
    """

    predictor: str
    sampler: str
    repeat_threshold: float
    reason: str


def method_of(counts: CategoryCounts) -> Method:
    """Loss and sampler by the imbalance: images of the most frequent class over those of the rarest one that occurs."""
    occurring = sorted(count for count in counts.image_counts if count)
    imbalance = occurring[-1] / occurring[0]
    told = f"the most frequent class is in {imbalance:.0f} times as many images as the rarest"
    if len(occurring) < 2:
        return Method("SoftmaxPredictor", "TrainingSampler", 0.0, "one class: there is no tail to balance")
    if imbalance < 3:
        return Method("SoftmaxPredictor", "TrainingSampler", 0.0, f"{told}: there is no long tail to balance")
    # Classes in fewer images than the class in the middle are shown more often, by the root of their shortage.
    threshold = float(f"{occurring[len(occurring) // 2] / counts.num_images:.3g}")
    sampler = "RepeatFactorTrainingSampler"
    if imbalance < 20:
        return Method("SoftmaxPredictor", sampler, threshold, f"{told}: showing the rare ones more often is enough")
    return Method("SeesawPredictor", sampler, threshold, f"{told}: a long tail, for which the loss is balanced as well")
