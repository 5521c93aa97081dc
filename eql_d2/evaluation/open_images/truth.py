"""The ground truth of Open Images' metric: an annotation file made from the official CSV files."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.lvis_format import chosen_categories, contiguous_ids
from eql_d2.errors import UserError
from eql_d2.evaluation.open_images.metric import ImageTruth


class OpenImagesTruth:
    """Images, categories and boxes; an image's boxes are read when they are asked for.

    Args:
        path: annotation file as :mod:`eql_d2.data.open_images` makes it: images have ``neg_category_ids`` and
            ``not_exhaustive_category_ids``, categories may have ``ancestors``, boxes around groups ``is_group_of``.
        categories: names of the classes to keep; None keeps all.

    Attributes:
        source: name of the file, for messages.
        rules: "openimages".
        categories: K records with ``id`` and ``name``, in ascending order of ids.

    Raises:
        UserError: the file is missing or broken, or does not say for which classes an image is labelled.
    """

    rules = "openimages"

    def __init__(self, path: str | Path, categories: Sequence[str] | None = None) -> None:
        self.source = str(path)
        self._annotations = open_annotations(path)
        if not self._annotations.federated:
            raise UserError(
                f"Annotation file {path} does not say for which classes an image is labelled (neg_category_ids), which "
                "Open Images' metric needs; make it from the official CSV files (see datasets/README.md)."
            )
        self.categories = chosen_categories(self._annotations, categories)
        self._index_of = contiguous_ids(self.categories)
        self._with_ancestors = [
            [index, *(self._index_of[a] for a in record.get("ancestors", ()) if a in self._index_of)]
            for index, record in enumerate(self.categories)
        ]

    @property
    def category_ids(self) -> list[int]:
        """K ids, ascending."""
        return list(self._index_of)

    @property
    def is_labelled(self) -> bool:
        """False for a test set, whose annotations are secret."""
        return bool(len(self._annotations.categories))

    @cached_property
    def images(self) -> dict[int, dict[str, Any]]:
        """Image id → ``id``, ``width`` and ``height``."""
        rows = zip(self._annotations.image_ids.tolist(), self._annotations.sizes.tolist(), strict=True)
        return {image_id: {"id": image_id, "width": w, "height": h} for image_id, (w, h) in rows}

    def image_and_truth(self, image_id: int) -> tuple[dict[str, Any], ImageTruth]:
        """The record of an image, and what is known of it.

        Raises:
            UserError: there is no such image.
        """
        try:
            image, annotations = self._annotations.ground_truth(image_id)
        except KeyError:
            raise UserError(f"Image id {image_id} is not in {self.source}.") from None
        boxes, classes, is_group_of = [], [], []
        for annotation in annotations:
            x, y, width, height = annotation["bbox"]
            for index in self._classes_of(annotation["category_id"]):
                boxes.append((x, y, x + width, y + height))
                classes.append(index)
                is_group_of.append(bool(annotation.get("is_group_of")))
        listed = (*image["neg_category_ids"], *image["not_exhaustive_category_ids"])
        labelled = {self._index_of[i] for i in listed if i in self._index_of}.union(classes)
        return image, ImageTruth(
            np.array(boxes, np.float64).reshape(-1, 4),
            np.array(classes, np.int64),
            np.array(is_group_of, bool),
            np.array(sorted(labelled), np.int64),
        )

    def _classes_of(self, category_id: int) -> list[int]:
        """Indices of a category and its ancestors; none if it is left out."""
        index = self._index_of.get(category_id)
        return [] if index is None else self._with_ancestors[index]


def instance_counts_by_id(
    truth: OpenImagesTruth, category_ids: Sequence[int], counts: Sequence[int], source: str
) -> np.ndarray:
    """Training instances of the truth's K classes.

    Args:
        truth: of the evaluation.
        category_ids: of the counts.
        counts: number of instances of each.
        source: of the counts, for messages.

    Returns:
        (K,) int64.

    Raises:
        UserError: a class has no count.
    """
    count_of = dict(zip(category_ids, counts, strict=True))
    for category in truth.categories:
        if category["id"] not in count_of:
            raise UserError(f"{source} has no category {category['id']} ({category['name']!r}) of {truth.source}.")
    return np.array([count_of[category_id] for category_id in truth.category_ids], np.int64)
