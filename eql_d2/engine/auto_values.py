"""Config values that say "auto" and follow from the training data."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode

from eql_d2.data.category_counts import category_counts, no_instances_error
from eql_d2.engine.method_in_use import why_unused
from eql_d2.errors import UserError
from eql_d2.long_tail import (
    CategoryCounts,
    FrequencyThresholds,
    lambda_for_tail_ratio,
    quantile_bin_edges,
    quantile_thresholds,
    tail_ratio,
)


def _tail_threshold(cfg: CfgNode, counts: CategoryCounts) -> float:
    ratio = cfg.MODEL.LONG_TAIL.TAIL_RATIO
    try:
        # A class in every image has the frequency 1; no λ makes it tail.
        return min(lambda_for_tail_ratio(ratio, torch.tensor(counts.image_counts), counts.num_images), 1.0)
    except ValueError as error:
        raise UserError(f"MODEL.LONG_TAIL.TAIL_RATIO: {error}") from None


AUTO_KEYS: dict[str, Callable[[CfgNode, CategoryCounts], Any]] = {
    "MODEL.ROI_HEADS.NUM_CLASSES": lambda cfg, counts: counts.num_classes,
    "MODEL.RETINANET.NUM_CLASSES": lambda cfg, counts: counts.num_classes,
    "MODEL.CLASSIFIER.NUM_CLASSES": lambda cfg, counts: counts.num_classes,
    "MODEL.LONG_TAIL.FREQUENCY_THRESHOLDS": lambda cfg, counts: dataclasses.astuple(
        quantile_thresholds(counts.image_counts)
    ),
    "MODEL.LONG_TAIL.EQL.LAMBDA": _tail_threshold,
    "MODEL.LONG_TAIL.DROP_LOSS.LAMBDA": _tail_threshold,
    "MODEL.LONG_TAIL.SEQL.LAMBDA": _tail_threshold,
    # As many groups as the paper has, with about as many classes in each.
    "MODEL.LONG_TAIL.BAGS.BIN_EDGES": lambda cfg, counts: quantile_bin_edges(counts.instance_counts, num_groups=4),
    # What a softmax over classes and background gives each class at the start.
    "MODEL.LONG_TAIL.PRIOR_PROB": lambda cfg, counts: 1 / (counts.num_classes + 1),
}
"""Keys that may say "auto", and how the value follows from the category counts."""

FROM_CLASSES_ALONE = (
    *(f"MODEL.{node}.NUM_CLASSES" for node in ("ROI_HEADS", "RETINANET", "CLASSIFIER")),
    "MODEL.LONG_TAIL.PRIOR_PROB",
)
"""Those whose value needs no annotation."""


@contextmanager
def auto_allowed(cfg: CfgNode) -> Iterator[None]:
    """Let what is merged into a config say "auto" at the keys of :data:`AUTO_KEYS`, whatever the type of their values.

    They keep their values before, and are noted in ``MODEL.LONG_TAIL.AUTO`` for :func:`resolve_auto_values`.
    """
    before = {key: _node_of(cfg, key)[_last(key)] for key in AUTO_KEYS}
    for key in AUTO_KEYS:
        _node_of(cfg, key)[_last(key)] = None  # takes a value of any type
    try:
        yield
        merged = {key: _node_of(cfg, key)[_last(key)] for key in AUTO_KEYS}
    finally:
        for key, value in before.items():
            _node_of(cfg, key)[_last(key)] = value
    auto = set(cfg.MODEL.LONG_TAIL.AUTO)
    for key, value in merged.items():
        if value == "auto":
            auto.add(key)
        elif value is not None:
            auto.discard(key)
            cfg.merge_from_list([key, value])  # with the check of its type
    cfg.MODEL.LONG_TAIL.AUTO = tuple(sorted(auto))


def resolve_auto_values(cfg: CfgNode) -> list[str]:
    """Put in place what the training data says for the keys that say "auto"; the datasets are registered.

    Args:
        cfg: full config, changed in place, so that the run's ``config.yaml`` holds the values.

    Returns:
        One sentence per key, to be printed.

    Raises:
        UserError: there are no training data to count, or they do not give a value.
    """
    keys, cfg.MODEL.LONG_TAIL.AUTO = cfg.MODEL.LONG_TAIL.AUTO, ()
    if not keys:
        return []
    unused = {key: reason for key in keys if (reason := why_unused(cfg, key))}
    counts = category_counts(cfg, check_classes=False)
    for key in keys:
        if key in unused and not sum(counts.instance_counts):
            continue  # its value stays
        if key not in FROM_CLASSES_ALONE and not sum(counts.instance_counts):
            source = cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS
            raise (None if source else no_instances_error(cfg.DATASETS.TRAIN)) or UserError(
                f"{key} is auto, but {source or 'DATASETS.TRAIN'} counts no annotation."
            )
        _node_of(cfg, key)[_last(key)] = AUTO_KEYS[key](cfg, counts)
    return [f"{key} auto: not used by {unused[key]}" if key in unused else _told(cfg, key, counts) for key in keys]


def _told(cfg: CfgNode, key: str, counts: CategoryCounts) -> str:
    value = _node_of(cfg, key)[_last(key)]
    sentence = f"{key} auto: {value:.4g}" if isinstance(value, float) else f"{key} auto: {value}"
    if key.endswith(".LAMBDA"):
        ratio = tail_ratio(value, torch.tensor(counts.image_counts), counts.num_images)
        tail = int((counts.image_frequencies < value).sum())
        sentence += f" (tail ratio {ratio:.2%}: {tail} of {counts.num_classes} classes are tail)"
        if not tail:
            sentence += "; every class is in every image, so that the method changes nothing for this set"
    if key.endswith(".FREQUENCY_THRESHOLDS"):
        groups = dataclasses.replace(counts, thresholds=FrequencyThresholds(*value)).frequency_groups
        sentence += f" ({', '.join(f'{groups.count(letter)} {letter}' for letter in 'rcf')} classes)"
    if key.endswith(".BIN_EDGES"):
        bins = torch.bucketize(torch.tensor(counts.instance_counts), torch.tensor(value), right=True)
        sizes = torch.bincount(bins, minlength=len(value) + 1).tolist()
        sentence += f" ({' + '.join(map(str, sizes))} {'class' if sizes == [1] else 'classes'})"
    return sentence


def _node_of(cfg: CfgNode, key: str) -> CfgNode:
    """The node that holds a key."""
    for name in key.split(".")[:-1]:
        cfg = cfg[name]
    return cfg


def _last(key: str) -> str:
    return key.rsplit(".", 1)[1]
