"""What an ensemble is made of, and how it is merged; from Python or from the words of a command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import orjson

from eql_d2.errors import UserError
from eql_d2.evaluation.metrics.ground_truth import GroundTruth

IOU_THRESHOLDS = {"nms": 0.5, "wbf": 0.55}  # of Detectron2, and the best in the paper on WBF


@dataclass(frozen=True)
class Member:
    """One model of an ensemble.

    Attributes:
        results: its results file.
        weight: how much its scores count against other models'.
        categories: ids of the categories that it knows, for an expert; None for all.
    """

    results: str | Path
    weight: float = 1.0
    categories: frozenset[int] | None = None


@dataclass(frozen=True)
class Rules:
    """How detections are merged.

    Attributes:
        merge: "nms" keeps the best of overlapping detections; "wbf" fuses their boxes, and gives the fused box the
            mask of its best member.
        iou_type: what has to overlap, "bbox" or (NMS only) "segm".
        iou_threshold: above which two detections are one; None is 0.5 for NMS and 0.55 for WBF.
        factors: frequency group (r, c, f) → factor on the odds of its scores after the merge (see :func:`rescore`).
        max_detections: the best so many of an image are kept.

    Raises:
        UserError: something is out of its range.
    """

    merge: str = "nms"
    iou_type: str = "bbox"
    iou_threshold: float | None = None
    factors: Mapping[str, float] | None = None
    max_detections: int = 300

    def __post_init__(self) -> None:
        if self.merge not in IOU_THRESHOLDS:
            raise UserError(f"--merge is {self.merge!r}; it must be nms or wbf.")
        if self.iou_type not in ("bbox", "segm") or (self.merge, self.iou_type) == ("wbf", "segm"):
            raise UserError(f"--iou-type is {self.iou_type!r}; it must be bbox or, with --merge nms, segm.")
        if self.iou_threshold is not None and not 0 <= self.iou_threshold <= 1:
            raise UserError(f"--iou-threshold is {self.iou_threshold}; it must lie in [0, 1].")
        if self.max_detections < 1:
            raise UserError(f"--max-detections is {self.max_detections}; it must be 1 or more.")
        for group, factor in (self.factors or {}).items():
            if group not in ("r", "c", "f") or not 0 < factor < inf:
                raise UserError(f"--rescore has {group}={factor:g}; it takes r, c or f and a positive factor.")

    @property
    def threshold(self) -> float:
        """The intersection over union above which two detections are one."""
        return IOU_THRESHOLDS[self.merge] if self.iou_threshold is None else self.iou_threshold


def make_members(
    results: Sequence[str], weights: Sequence[float] | None, categories_of: Sequence[str], ground_truth: GroundTruth
) -> list[Member]:
    """Members from the words of a command line.

    Args:
        results: results files.
        weights: one each, or None for 1.
        categories_of: ``NUMBER=CATEGORIES``, where NUMBER counts the results files from 1, and CATEGORIES is letters of
            frequency groups ("rc"), ids ("3,17"), or the name of a JSON file with a list of ids.
        ground_truth: says which categories there are, and their groups.

    Raises:
        UserError: the words do not fit the files or the categories.
    """
    if weights is not None and len(weights) != len(results):
        raise UserError(f"--weights has {len(weights)} numbers for {len(results)} results files; give one each.")
    known: dict[int, frozenset[int]] = {}
    for text in categories_of:
        number, _, categories = text.partition("=")
        if not number.isdecimal() or not 1 <= int(number) <= len(results) or not categories:
            raise UserError(
                f"--categories-of {text} is not NUMBER=CATEGORIES with the number of a results file, "
                f"1 to {len(results)}."
            )
        known[int(number) - 1] = known.get(int(number) - 1, frozenset()) | _categories(categories, ground_truth)
    return [
        Member(path, 1.0 if weights is None else weights[index], known.get(index)) for index, path in enumerate(results)
    ]


def _categories(text: str, ground_truth: GroundTruth) -> frozenset[int]:
    """Ids of the categories that a text names."""
    if set(text) <= set("rcf"):
        found = [category["id"] for category in ground_truth.categories if category["frequency"] in text]
        if not all(ground_truth.frequencies):
            raise UserError(
                f"--categories-of names the groups {text}, but {ground_truth.source} does not say how frequent every "
                "class is; name ids."
            )
        return frozenset(found)
    ids = _ids(text)
    unknown = sorted(ids - set(ground_truth.category_ids))
    if unknown:
        raise UserError(f"--categories-of {text} names category {unknown[0]}, which {ground_truth.source} has not.")
    return ids


def _ids(text: str) -> frozenset[int]:
    try:
        if not Path(text).suffix:
            return frozenset(int(word) for word in text.split(","))
        content = orjson.loads(Path(text).read_bytes())
        if isinstance(content, list) and all(type(number) is int for number in content):
            return frozenset(content)
    except OSError as error:
        raise UserError(f"--categories-of: {text} cannot be read ({error.strerror}); check the path.") from None
    except ValueError:  # also of broken JSON
        pass
    raise UserError(
        f"--categories-of: {text} is neither letters of r, c and f, nor ids like 3,17, nor a JSON file with a list of "
        "ids."
    )


def parse_factors(words: Sequence[str]) -> dict[str, float]:
    """Factors of frequency groups from words like ``r=2``.

    Raises:
        UserError: a word is not of that form.
    """
    factors = {}
    for word in words:
        group, _, factor = word.partition("=")
        try:
            factors[group] = float(factor)
        except ValueError:
            raise UserError(f"--rescore {word} is not GROUP=FACTOR, e.g. r=2.") from None
    return factors
