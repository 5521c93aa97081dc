"""From the config to the training sampler."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from eql_d2.data.category_counts import category_counts
from eql_d2.data.training.image_classes import ImageClasses
from eql_d2.data.training.samplers import (
    ClassAwareTrainingSampler,
    ClassBalancedTrainingSampler,
    MixtureTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
    TrainingStream,
    category_repeat_factors,
    exponential_repeat_factors,
    instance_aware_frequencies,
)
from eql_d2.errors import UserError
from eql_d2.long_tail import CategoryCounts

MIXTURE = "MixtureTrainingSampler"
ROUNDINGS = ("stochastic", "ceil", "ceil_plus_one")
REPEAT_FACTORS = ("RFS", "IRFS", "E-IRFS")
MOST_REPEATS = 10_000


def build_sampler(cfg: CfgNode, classes: ImageClasses, seed: int) -> TrainingStream:
    """Build the sampler that ``DATALOADER.SAMPLER_TRAIN`` names.

    Args:
        cfg: full config.
        classes: the classes of the training images.
        seed: seed of the run, the same on all processes.

    Raises:
        UserError: a key does not fit; the sentence names it.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == MIXTURE:
        return _mixture(cfg, classes, seed)
    if name not in BUILDERS:
        raise UserError(f"DATALOADER.SAMPLER_TRAIN is {name!r}; it must be {_one_of(*BUILDERS, MIXTURE)}.")
    return BUILDERS[name](cfg, classes, seed)


def _one_of(*names: str) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _uniform(cfg: CfgNode, classes: ImageClasses, seed: int) -> TrainingSampler:
    return TrainingSampler(classes.num_images, seed)


def _repeat_factor(cfg: CfgNode, classes: ImageClasses, seed: int) -> RepeatFactorTrainingSampler:
    options = cfg.DATALOADER
    if not 0 < options.REPEAT_THRESHOLD < math.inf:
        raise UserError(
            f"DATALOADER.REPEAT_THRESHOLD is {options.REPEAT_THRESHOLD}, with which no image is repeated; set it to "
            "the share of images below which classes are shown more often (0.001 for LVIS v1)."
        )
    if options.REPEAT_ROUNDING not in ROUNDINGS:
        raise UserError(f"DATALOADER.REPEAT_ROUNDING is {options.REPEAT_ROUNDING!r}; it must be {_one_of(*ROUNDINGS)}.")
    counts = fitting_counts(category_counts(cfg), classes, cfg.DATASETS.TRAIN)
    factors = classes.largest(_factors_of_classes(options, counts))
    if options.REPEAT_FACTORS == "E-IRFS" and factors.max() > MOST_REPEATS:
        raise UserError(
            f"DATALOADER.REPEAT_FACTORS E-IRFS would show an image {float(factors.max()):.3g} times an epoch; lower "
            f"DATALOADER.REPEAT_ALPHA ({options.REPEAT_ALPHA}) or REPEAT_THRESHOLD ({options.REPEAT_THRESHOLD})."
        )
    return RepeatFactorTrainingSampler(factors, seed, options.REPEAT_ROUNDING)


def _factors_of_classes(options: CfgNode, counts: CategoryCounts) -> Tensor:
    """(K,) repeat factors by ``DATALOADER.REPEAT_FACTORS``."""
    kind, threshold = options.REPEAT_FACTORS, options.REPEAT_THRESHOLD
    if kind not in REPEAT_FACTORS:
        raise UserError(f"DATALOADER.REPEAT_FACTORS is {kind!r}; it must be {_one_of(*REPEAT_FACTORS)}.")
    if kind == "RFS":
        return category_repeat_factors(counts.image_frequencies, threshold, options.REPEAT_SQRT)
    instances = torch.tensor(counts.instance_counts)
    if not instances.any():
        raise UserError(
            f"DATALOADER.REPEAT_FACTORS is {kind}, but no class has an instance by the category counts; set it to RFS, "
            "or MODEL.LONG_TAIL.CATEGORY_COUNTS to a file with instance_count."
        )
    frequencies = instance_aware_frequencies(counts.image_frequencies, instances)
    if kind == "IRFS":
        return category_repeat_factors(frequencies, threshold, options.REPEAT_SQRT)
    if not 0 < options.REPEAT_ALPHA < math.inf:
        raise UserError(f"DATALOADER.REPEAT_ALPHA is {options.REPEAT_ALPHA}; it must be above 0.")
    return exponential_repeat_factors(frequencies, threshold, options.REPEAT_ALPHA)


def _class_aware(cfg: CfgNode, classes: ImageClasses, seed: int) -> ClassAwareTrainingSampler:
    return ClassAwareTrainingSampler(classes.images_of_class(_num_classes(cfg, classes)), seed)


def _class_balanced(cfg: CfgNode, classes: ImageClasses, seed: int) -> ClassBalancedTrainingSampler:
    power = cfg.DATALOADER.CLASS_BALANCED_POWER
    if not 0 <= power <= 1:
        raise UserError(
            f"DATALOADER.CLASS_BALANCED_POWER is {power}; it must be from 0 (class-balanced) to 1 (instance-balanced)."
        )
    images_of_class = classes.images_of_class(_num_classes(cfg, classes))
    counts = fitting_counts(category_counts(cfg), classes, cfg.DATASETS.TRAIN)
    return ClassBalancedTrainingSampler(images_of_class, torch.tensor(counts.image_counts), power, seed)


BUILDERS: dict[str, Callable[[CfgNode, ImageClasses, int], TrainingStream]] = {
    "TrainingSampler": _uniform,
    "RepeatFactorTrainingSampler": _repeat_factor,
    "ClassAwareTrainingSampler": _class_aware,
    "ClassBalancedTrainingSampler": _class_balanced,
}


def _mixture(cfg: CfgNode, classes: ImageClasses, seed: int) -> MixtureTrainingSampler:
    mixture = cfg.DATALOADER.SAMPLER_MIXTURE
    if not mixture or not all(isinstance(part, (list, tuple)) and len(part) == 2 for part in mixture):
        raise UserError(
            f"DATALOADER.SAMPLER_MIXTURE is {mixture}; it must be a list of [sampler, weight], such as "
            "[[RepeatFactorTrainingSampler, 0.5], [ClassAwareTrainingSampler, 0.5]]."
        )
    for name, weight in mixture:
        if name not in list(BUILDERS):  # a list, for names that are none
            raise UserError(f"DATALOADER.SAMPLER_MIXTURE names {name!r}; it must be {_one_of(*BUILDERS)}.")
        if not _is_weight(weight):
            raise UserError(
                f"DATALOADER.SAMPLER_MIXTURE gives {name} the weight {weight!r}; weights must be positive numbers."
            )
    # With seeds of their own, two parts of one kind go different ways.
    mixture_seed, *seeds = np.random.SeedSequence(seed).generate_state(1 + len(mixture)).tolist()
    samplers = [BUILDERS[name](cfg, classes, own) for (name, _), own in zip(mixture, seeds, strict=True)]
    return MixtureTrainingSampler(samplers, [weight for _, weight in mixture], mixture_seed)


def _is_weight(weight: Any) -> bool:
    return isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 < weight < math.inf


def _num_classes(cfg: CfgNode, classes: ImageClasses) -> int:
    """Number of classes up to the last that occurs; an error if none does, for there would be nothing to sample."""
    smallest, largest = classes.class_range
    if not 0 <= smallest <= largest:
        found = "has no annotation" if largest < 0 else f"has category_id {smallest}"
        raise UserError(
            f"DATASETS.TRAIN ({', '.join(cfg.DATASETS.TRAIN)}) {found}, which leaves {cfg.DATALOADER.SAMPLER_TRAIN} "
            "without classes to sample; set DATALOADER.SAMPLER_TRAIN to TrainingSampler."
        )
    return largest + 1


def fitting_counts(counts: CategoryCounts, classes: ImageClasses, dataset_names: Sequence[str]) -> CategoryCounts:
    """Category counts that know every class of the training images.

    Args:
        counts: of the training data.
        classes: the classes of the training images.
        dataset_names: of the training data, for the sentence.

    Raises:
        UserError: they are of other data.
    """
    names = ", ".join(dataset_names)
    smallest, largest = classes.class_range
    if smallest < 0 or largest >= counts.num_classes:
        raise UserError(
            f"DATASETS.TRAIN ({names}) has category_id {smallest if smallest < 0 else largest}, but the contiguous ids "
            f"of its {counts.num_classes} classes are 0 to {counts.num_classes - 1}; register it with those."
        )
    images, _ = classes.counts(np.ones(classes.num_images), counts.num_classes)
    for name, counted, present in zip(counts.names, counts.image_counts, images.tolist(), strict=True):
        if present and not counted:
            raise UserError(
                f"Class {name!r} is in {present} training images, but in none by the category counts; make "
                f"MODEL.LONG_TAIL.CATEGORY_COUNTS (or the dataset's metadata) those of DATASETS.TRAIN ({names})."
            )
    return counts
