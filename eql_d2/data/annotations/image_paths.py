"""Whether the images of an annotation file are there."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eql_d2.data.annotations.cache import PackedAnnotations
from eql_d2.data.annotations.findings import Finding
from eql_d2.data.annotations.rules import relative_path

_WORTH_LISTING = 32
_LOOKED_AT_TWICE = 100
_MOST_FOLDERS_TRIED = 100


def image_paths(annotations: PackedAnnotations) -> list[str]:
    """Paths of the N images below the image folder, in the order of ``annotations.image_ids``."""
    return [relative_path(annotations.image_record(index)) for index in range(len(annotations))]


def missing_images(annotations: PackedAnnotations, image_root: str | Path) -> Finding | None:
    """Look whether all images are there, without opening one: quick enough for every start of training.

    Args:
        annotations: of the dataset.
        image_root: folder of the images.

    Returns:
        The defect; None if no image is missing.
    """
    paths = image_paths(annotations)
    return missing_finding(paths, images_present(paths, image_root), image_root)


def missing_finding(paths: Sequence[str], present: np.ndarray, image_root: str | Path) -> Finding | None:
    """The defect of images that are not there.

    Args:
        paths: N paths below the image folder.
        present: (N,) bool, whether each is there.
        image_root: folder of the images.
    """
    if present.all():
        return None
    absent = np.flatnonzero(~present)
    first = paths[absent[0]]
    sentence = f"image {first} is not in the image folder {image_root}"
    other = _folder_that_has(first, Path(image_root))
    if other is not None:
        sentence += f", but it is in {other}"
    return Finding("defect", "missing image", sentence, len(absent))


def images_present(paths: Sequence[str], image_root: str | Path) -> np.ndarray:
    """Which files are there. Folders are listed, as asking for each file takes minutes on a network drive.

    Args:
        paths: N paths below the folder.
        image_root: the folder.

    Returns:
        (N,) bool; links that lead nowhere and folders are no files.
    """
    root, by_folder = os.fspath(image_root), defaultdict(list)
    for index, path in enumerate(paths):
        folder, name = os.path.split(path)
        by_folder[folder].append((index, name))
    present = np.zeros(len(paths), bool)
    for folder, wanted in by_folder.items():
        full = os.path.join(root, folder)
        # A folder may hold millions of files that this dataset does not use.
        names = _files_in(full) if len(wanted) >= _WORTH_LISTING else None
        for index, name in wanted:
            present[index] = name in names if names is not None else os.path.isfile(os.path.join(full, name))
    return _second_look(present, paths, root)


def _files_in(folder: str) -> set[str] | None:
    """Names of the files of a folder; None where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return None


def _second_look(present: np.ndarray, paths: Sequence[str], root: str) -> np.ndarray:
    """Ask for files that no listing has: a file system may find "A.jpg" by the name "a.jpg"."""
    absent = np.flatnonzero(~present)
    for start, stop in ((0, _LOOKED_AT_TWICE), (_LOOKED_AT_TWICE, len(absent))):
        found = [index for index in absent[start:stop] if os.path.isfile(os.path.join(root, paths[index]))]
        present[found] = True
        if not found:  # then the others are missing as well, and asking for all could take minutes
            break
    return present


def _folder_that_has(path: str, image_root: Path) -> Path | None:
    """Another folder for ``image_root``, one level up or down, in which the path leads to a file."""
    try:
        with os.scandir(image_root) as entries:
            below = [Path(entry) for _, entry in zip(range(_MOST_FOLDERS_TRIED), entries, strict=False)]
    except OSError:
        return None
    tried = (image_root.parent, *sorted(below))
    return next((folder for folder in tried if (folder / path).is_file()), None)
