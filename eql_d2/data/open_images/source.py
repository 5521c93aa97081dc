"""What a dataset in the form of Open Images is made from: files, folder and choices."""

import hashlib
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from eql_d2.data.annotations.rules import missing_file
from eql_d2.errors import UserError

GROUP_OF = ("object", "crowd")
MISSING_IMAGES = ("error", "skip")

# Entry key → field, of those that name files.
FILE_KEYS = ("labels", "descriptions", "hierarchy", "sizes", "classes")
_OTHER_KEYS = ("categories_of", "expand", "group_of", "missing_images")
ENTRY_KEYS = {"name", "format", "annotations", "images", *FILE_KEYS, *_OTHER_KEYS, "categories"}


@dataclass(frozen=True)
class OpenImagesSource:
    """Files of one split, and what is to be made of them.

    Attributes:
        boxes: CSV of boxes.
        images: folder of the images (see :func:`eql_d2.data.open_images.image_sizes.image_paths`).
        descriptions: CSV of class labels and names, which also says the order of the classes.
        labels: CSV of image-level labels; None where there are none.
        hierarchy: JSON of the class hierarchy; None where classes are not kinds of each other.
        sizes: CSV of ImageID, width, height; None reads the images' headers.
        classes: YAML file that maps class names of Open Images to those of ``categories_of``; None keeps the classes.
        categories_of: registered dataset whose categories take the place of Open Images'; goes with ``classes``.
        expand: give each box to the ancestors of its class, too. The metric does this by itself; in training it puts
            several classes on one box, of which a RoI takes the first.
        group_of: what a box around a group is in training: an "object" like others, as in EQLv2's code and in
            mmdetection, or a "crowd" (``iscrowd``): no object, but a region in which nothing trains as background.
        missing_images: "error", or "skip" to use the images that are there.
    """

    boxes: Path
    images: Path
    descriptions: Path
    labels: Path | None = None
    hierarchy: Path | None = None
    sizes: Path | None = None
    classes: Path | None = None
    categories_of: str | None = None
    expand: bool = False
    group_of: str = "object"
    missing_images: str = "error"

    @property
    def files(self) -> list[Path]:
        """The files that it is made from."""
        named = (self.boxes, self.descriptions, self.labels, self.hierarchy, self.sizes, self.classes)
        return [path for path in named if path is not None]

    @property
    def key(self) -> str:
        """Tells apart what may be made of the same boxes: 8 hexadecimal digits."""
        return hashlib.sha1(repr([str(value) for value in astuple(self)]).encode(), usedforsecurity=False).hexdigest()[
            :8
        ]

    def check_files(self) -> None:
        """Make sure that all files are there.

        Raises:
            UserError: one is missing.
        """
        for path in self.files:
            if not path.is_file():
                raise missing_file(path)


def source_of_entry(entry: dict[str, Any], place: str = "DATASETS.CUSTOM") -> OpenImagesSource:
    """The source that an entry of ``DATASETS.CUSTOM`` with ``format: openimages`` describes.

    Needed are ``annotations`` (the CSV of boxes, or a folder with one) and ``images`` (a folder). The other files are
    those of the official names beside the boxes, or named by the keys ``labels, descriptions, hierarchy, sizes``.

    Args:
        entry: the entry; for the other keys see :class:`OpenImagesSource`. ``categories`` is not for this function.
        place: where the entry is from, for messages.

    Raises:
        UserError: a key is unknown or missing, or has a value that it cannot have; or a file cannot be found.
    """
    name = entry.get("name")
    unknown, missing = set(entry) - ENTRY_KEYS, {"name", "annotations", "images"} - set(entry)
    if unknown or missing:
        what = f"the unknown key {min(unknown)}" if unknown else f"no key {min(missing)}"
        raise UserError(f"{place}: dataset {name} has {what}; its keys are {', '.join(sorted(ENTRY_KEYS))}.")
    choices = {"expand": (True, False), "group_of": GROUP_OF, "missing_images": MISSING_IMAGES}
    for key, allowed in choices.items():
        if key in entry and entry[key] not in allowed:
            values = ", ".join(map(str, allowed))
            raise UserError(f"{place}: {key} of dataset {name} is {entry[key]!r}; it must be one of {values}.")
    if ("classes" in entry) != ("categories_of" in entry):
        raise UserError(
            f"{place}: dataset {name} needs both classes (a file that maps class names) and categories_of (the "
            "dataset whose categories they become), or neither."
        )
    boxes = _boxes_file(Path(entry["annotations"]).expanduser(), name)
    files = _official_files(boxes) | {key: Path(entry[key]).expanduser() for key in FILE_KEYS if key in entry}
    if "descriptions" not in files:
        raise UserError(
            f"Dataset {name}: {boxes.parent} has no file of class descriptions (such as "
            "challenge-2019-classes-description-500.csv); put it there or name it with the key descriptions."
        )
    others: dict[str, Any] = {key: entry[key] for key in _OTHER_KEYS if key in entry}
    return OpenImagesSource(boxes=boxes, images=Path(entry["images"]).expanduser(), **{**files, **others})


def _boxes_file(path: Path, name: Any) -> Path:
    """The CSV of boxes that a path names or holds."""
    if not path.is_dir():
        if not path.is_file():
            raise missing_file(path)
        return path
    found = sorted(path.glob("*bbox.csv"))
    if len(found) != 1:
        number = f"{len(found)} files" if found else "no file"
        raise UserError(f"Dataset {name}: folder {path} has {number} of boxes (*bbox.csv); name one in annotations.")
    return found[0]


def _official_files(boxes: Path) -> dict[str, Path]:
    """The other files by their official names, where they lie beside the boxes.

    Those of the challenge are ``challenge-2019-train-detection-{bbox,human-imagelabels}.csv``, those of the whole set
    ``train-annotations-{bbox,human-imagelabels-boxable}.csv``.
    """
    stem = boxes.name.removesuffix("bbox.csv")
    patterns = {
        "labels": [f"{stem}human-imagelabels.csv", f"{stem}human-imagelabels-boxable.csv"],
        # The challenge's other tracks have files of their own.
        "descriptions": ["*description-500.csv", "class-descriptions-boxable.csv", "*classes-description*.csv"],
        "hierarchy": ["*label500-hierarchy.json", "bbox_labels_600_hierarchy.json", "*hierarchy.json"],
    }
    found = {
        key: [path for name in names for path in sorted(boxes.parent.glob(name))] for key, names in patterns.items()
    }
    return {key: paths[0] for key, paths in found.items() if paths}


CHALLENGE_2019 = {"train": "train", "val": "validation"}  # by the split's name here: its name in the files


def challenge_2019_source(folder: Path, split: str) -> OpenImagesSource:
    """The files of the Open Images Challenge 2019, detection track; they need not be there yet.

    Args:
        folder: holds the official files of annotations, and the folders ``train`` and ``validation`` of images.
        split: "train" or "val".
    """
    name = CHALLENGE_2019[split]
    return OpenImagesSource(
        boxes=folder / f"challenge-2019-{name}-detection-bbox.csv",
        images=folder / name,
        descriptions=folder / "challenge-2019-classes-description-500.csv",
        labels=folder / f"challenge-2019-{name}-detection-human-imagelabels.csv",
        hierarchy=folder / "challenge-2019-label500-hierarchy.json",
    )
