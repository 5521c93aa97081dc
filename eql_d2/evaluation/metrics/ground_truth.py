"""The ground truth of an evaluation: an annotation file, checked, and packed to little more than its size on disk."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from eql_d2.data.annotations.evaluation_rules import (
    complaint_about_annotation,
    complaint_about_frequency,
    complaint_about_image,
    complaint_about_mask,
)
from eql_d2.data.annotations.rules import FEDERATED_KEYS
from eql_d2.errors import UserError

Records = list[dict[str, Any]]

# What an evaluation reads of a record. LVIS's rules know "ignore" and no crowds, COCO's know crowds only.
IMAGE_KEYS = ("id", "height", "width")
ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area", "segmentation", "ignore", "iscrowd")


class GroundTruth:
    """Images, categories and annotations of an annotation file.

    The annotations of an image are kept as bytes and unpacked when asked for: as Python objects the polygons of
    LVIS's val set take over a gigabyte.

    Args:
        content: the parsed file; a list of annotations is emptied on the way, other sized iterables are read once.
        source: name of the file, for messages.
        rules: "lvis" (federated: an image is labelled for the classes annotated in it and those in its
            ``neg_category_ids``) or "coco" (exhaustive: a class not annotated in an image is not there; crowds
            are regions that count neither for nor against a detection).
        takes_frequencies: whether the groups r, c, f are those that the file says; else they are not looked at, as
            :meth:`set_frequencies` will say them.

    Attributes:
        images: image id → ``id``, ``height``, ``width`` and, by LVIS's rules, the federated lists.
        categories: ``id``, ``name`` and ``frequency`` (r, c, f or "" where unknown), by ascending id.

    Raises:
        UserError: an entry is broken, or would make the official packages compute wrong numbers.
    """

    def __init__(
        self, content: dict[str, Any], source: str | Path, rules: str = "lvis", takes_frequencies: bool = True
    ) -> None:
        self.source, self.rules = str(source), rules
        self._takes_frequencies = takes_frequencies
        self._category_records = _by_id(content["categories"], "category", self.source)
        self.categories = [self._category(record) for _, record in sorted(self._category_records.items())]
        image_records = _by_id(content["images"], "image", self.source)
        annotations = content.pop("annotations", [])
        self._has_annotations = len(annotations) > 0
        keys = (*IMAGE_KEYS, *(FEDERATED_KEYS if rules == "lvis" and self._has_annotations else ()))
        self.images = {image_id: self._image(record, keys) for image_id, record in image_records.items()}
        self._packed = self._pack(annotations)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def is_labelled(self) -> bool:
        """False for a test set, whose annotations are secret."""
        return self._has_annotations

    @property
    def category_ids(self) -> list[int]:
        """K ids, ascending."""
        return [category["id"] for category in self.categories]

    @property
    def frequencies(self) -> list[str]:
        """K letters r, c or f; "" where unknown."""
        return [category["frequency"] for category in self.categories]

    def annotations(self, image_id: int) -> Records:
        """The annotations of one image, in the order of the file."""
        return orjson.loads(self._packed.get(image_id, b"[]"))

    def content(self, image_ids: Iterable[int]) -> dict[str, Any]:
        """What an annotation file of some images would hold."""
        chosen = set(image_ids)
        return {
            "images": [image for image_id, image in self.images.items() if image_id in chosen],
            "annotations": [a for image_id in self.images if image_id in chosen for a in self.annotations(image_id)],
            "categories": self.categories,
        }

    def set_frequencies(self, letter_of: dict[int, str], source: str) -> None:
        """Take the groups r, c, f from training counts.

        Args:
            letter_of: category id → letter.
            source: where they come from, for messages.

        Raises:
            UserError: a category has no letter.
        """
        for category in self.categories:
            if category["id"] not in letter_of:
                raise UserError(f"{source} has no category {category['id']} ({category['name']!r}) of {self.source}.")
            category["frequency"] = letter_of[category["id"]]

    def check_masks(self) -> None:
        """Make sure that every object has a mask.

        Raises:
            UserError: a polygon has fewer than three points, a run-length mask has not the image's pixels, or an
                object has no segmentation at all.
        """
        for image_id in self._packed:
            for annotation in self.annotations(image_id):
                image, segmentation = self.images[image_id], annotation.get("segmentation")
                complaint = complaint_about_mask(segmentation, image)
                if complaint:
                    raise UserError(
                        f"{self.source}: annotation {annotation['id']} {complaint}; mend it, or evaluate boxes only."
                    )

    def _category(self, record: dict[str, Any]) -> dict[str, Any]:
        complaint = complaint_about_frequency(record)
        if complaint and self._takes_frequencies:
            raise UserError(f"{self.source}: category {record['id']} {complaint}.")
        frequency = "" if complaint else record.get("frequency") or ""
        return {"id": record["id"], "name": str(record.get("name", record["id"])), "frequency": frequency}

    def _image(self, record: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
        complaint = complaint_about_image(record, len(keys) > len(IMAGE_KEYS))
        if complaint:
            raise UserError(f"{self.source}: image {record['id']} {complaint}.")
        return {key: record[key] for key in keys}

    def _pack(self, annotations: Iterable[dict[str, Any]]) -> dict[int, bytes]:
        of_image = defaultdict(list)
        seen: set[int] = set()
        for number, annotation in enumerate(annotations):
            complaint = complaint_about_annotation(annotation, seen, self.images, self._category_records)
            if complaint:
                name = annotation.get("id") if isinstance(annotation, dict) else None
                entry = f"annotation {name}" if name is not None else f"entry {number} of the annotations"
                raise UserError(f"{self.source}: {entry} {complaint}.")
            of_image[annotation["image_id"]].append(
                {key: annotation[key] for key in ANNOTATION_KEYS if key in annotation}
            )
        if isinstance(annotations, list):
            annotations.clear()
        # Popped one by one, so that objects go as bytes come.
        return {image_id: orjson.dumps(of_image.pop(image_id)) for image_id in list(of_image)}


def _by_id(records: Any, kind: str, source: str) -> dict[int, dict[str, Any]]:
    """Records by their ids, which have to be there and to differ."""
    by_id: dict[int, dict[str, Any]] = {}
    for number, record in enumerate(records):
        if not isinstance(record, dict) or type(record.get("id")) is not int or record["id"] < 0:
            raise UserError(f"{source}: {kind} number {number} of the file has no id that is a whole number.")
        if record["id"] in by_id:
            raise UserError(f"{source}: {kind} id {record['id']} is there twice; ids have to differ.")
        by_id[record["id"]] = record
    return by_id
