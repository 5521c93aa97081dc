"""A set of labelled images, in memory or in files."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from eql_d2.errors import UserError
from eql_d2.long_tail import CategoryCounts


@dataclasses.dataclass(frozen=True)
class ImageSet(torch.utils.data.Dataset):
    """N labelled images of K classes.

    Attributes:
        name: as in ``DATASETS.TRAIN``.
        classes: K class names.
        labels: (N,) int64 in [0, K).
        images: uint8 (N, H, W, 3) or (N, H, W), or N paths of image files.

    Raises:
        UserError: there is only one class, or there are no images.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    images: np.ndarray | Sequence[str]

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise UserError(
                f"Dataset {self.name} has only the class {self.classes[0]!r}; a classifier needs at least two."
                if self.classes
                else f"Dataset {self.name} has no classes; give it one folder of images for each class."
            )
        if not len(self.labels):
            raise UserError(f"Dataset {self.name} has no images; check its folder.")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One image as a dict: ``image_id`` (its index), ``label``, ``file_name``, and ``image`` if in memory."""
        record = {"image_id": index, "label": int(self.labels[index])}
        if not isinstance(self.images, np.ndarray):
            return record | {"file_name": self.images[index]}
        return record | {"file_name": f"{self.name}[{index}]", "image": Image.fromarray(self.images[index])}

    @property
    def counts(self) -> CategoryCounts:
        """Images of each class; an image is one instance."""
        counts = tuple(np.bincount(self.labels, minlength=len(self.classes)).tolist())
        return CategoryCounts(tuple(range(len(self.classes))), self.classes, counts, counts, len(self))

    @property
    def digest(self) -> str:
        """What tells two sets apart: a hash of classes, labels and images, or of the images' last two names."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        if isinstance(self.images, np.ndarray):
            digest.update(np.ascontiguousarray(self.images).ravel().data)
        else:
            digest.update("\n".join("/".join(Path(image).parts[-2:]) for image in self.images).encode())
        return digest.hexdigest()

    def subset(self, indices: np.ndarray, name: str) -> "ImageSet":
        """Some of the images under another name.

        Args:
            indices: of the images, in their new order.
            name: of the new set.
        """
        images = self.images
        images = images[indices] if isinstance(images, np.ndarray) else [images[index] for index in indices]
        return dataclasses.replace(self, name=name, labels=self.labels[indices], images=images)
