"""Boxes of results that are no ``x, y, width, height`` in pixels, which match nothing in silence."""

from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from eql_d2.data.annotations.box_forms import box_form, form_by_masks

_MOST_BOXES, _MOST_MASKS = 20_000, 500


class BoxSample:
    """The first boxes of a results file, and the boxes around the masks of the first of them."""

    def __init__(self) -> None:
        self._boxes: list[list[float]] = []
        self._sizes: list[tuple[int, int]] = []
        self._masks: list[tuple[list[float], dict[str, Any]]] = []

    def add(self, result: dict[str, Any], image: dict[str, Any]) -> None:
        """Take a result whose values are right.

        Args:
            result: with a bbox.
            image: its record.
        """
        if len(self._boxes) >= _MOST_BOXES or "width" not in image:
            return
        self._boxes.append(result["bbox"])
        self._sizes.append((image["width"], image["height"]))
        mask = result.get("segmentation")
        if len(self._masks) < _MOST_MASKS and isinstance(mask, dict) and isinstance(mask["counts"], str):
            self._masks.append((result["bbox"], mask))

    def sentence(self) -> str | None:
        """What the boxes look like, if not like boxes in pixels."""
        if not self._boxes:
            return None
        boxes, sizes = np.array(self._boxes, float), np.array(self._sizes, float)
        areas = np.full(len(boxes), np.nan)
        found = box_form(boxes, areas, sizes, np.full(len(boxes), True)) or self._by_masks()
        return found and found.sentence.replace("of the annotations", "of the results")

    def _by_masks(self) -> Any:
        if not self._masks:
            return None
        around = np.asarray(mask_api.toBbox([mask for _, mask in self._masks]))
        around[:, 2:] += around[:, :2]
        return form_by_masks(np.array([box for box, _ in self._masks], float), around)
