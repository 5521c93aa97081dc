"""Where the images of an annotation file lie below their folder, and whether they are there."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from eql_d2.data.annotations.cache import PackedAnnotations
from eql_d2.data.annotations.findings import Finding
from eql_d2.data.annotations.path_hints import path_hint

_WORTH_LISTING = 32
_LOOKED_AT_TWICE = 100


def candidate_paths(image: dict[str, Any], federated: bool) -> list[str]:
    """Paths below the image folder that an image may have, the first that leads to a file being meant.

    In LVIS's format v1 says the path in ``coco_url``, whose last two parts are split and name, and v0.5 has COCO 2014's
    ``file_name`` of pictures that lie in the COCO 2017 folders without the "COCO_val2014_" prefix. Elsewhere, and
    wherever it leads to a file, ``file_name`` is the path.

    Args:
        image: its record.
        federated: whether the file is in LVIS's format, and not in COCO's.

    Returns:
        At least one path.
    """
    name, url = image.get("file_name"), image.get("coco_url")
    from_url = "/".join(url.split("/")[-2:]) if url else None
    if not federated:
        return [str(name or from_url)]
    cut = name[-16:] if name and name.startswith("COCO_") else None
    return list(dict.fromkeys(path for path in (name, cut, from_url) if path))


def path_of(image: dict[str, Any], federated: bool, image_root: str | Path) -> str:
    """The path of an image below the folder: of its candidates the first that is a file, else the last."""
    candidates = candidate_paths(image, federated)
    found = (path for path in candidates[:-1] if os.path.isfile(os.path.join(image_root, path)))
    return next(found, candidates[-1])


def image_paths(annotations: PackedAnnotations, image_root: str | Path | None = None) -> list[str]:
    """Paths of the N images below the image folder, in the order of ``annotations.image_ids``.

    Args:
        annotations: of the dataset.
        image_root: the folder, to tell between candidates; None takes what the annotation file says.
    """
    records = (annotations.image_record(index) for index in range(len(annotations)))
    candidates = [candidate_paths(record, annotations.federated) for record in records]
    paths = [of_image[-1] for of_image in candidates]
    doubtful = [index for index, of_image in enumerate(candidates) if len(of_image) > 1]
    if image_root is None or not doubtful:
        return paths
    for place in range(max(map(len, candidates)) - 1):
        tried = [index for index in doubtful if len(candidates[index]) - 1 > place]
        present = images_present([candidates[index][place] for index in tried], image_root)
        for index, is_there in zip(tried, present.tolist(), strict=True):
            if is_there:
                paths[index] = candidates[index][place]
        found = {index for index, is_there in zip(tried, present.tolist(), strict=True) if is_there}
        doubtful = [index for index in doubtful if index not in found]
    return paths


def missing_images(annotations: PackedAnnotations, image_root: str | Path) -> Finding | None:
    """Look whether all images are there, without opening one: quick enough for every start of training.

    Args:
        annotations: of the dataset.
        image_root: folder of the images.

    Returns:
        The defect; None if no image is missing.
    """
    paths = image_paths(annotations, image_root)
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
    sentence = f"image {first} is not in the image folder {image_root}{path_hint(first, Path(image_root))}"
    return Finding("defect", "missing image", sentence, len(absent))


def leaving_finding(paths: Sequence[str], image_root: str | Path) -> Finding | None:
    """The defect of paths that leave the image folder: absolute ones, and those that go up further than down.

    Args:
        paths: N paths below the image folder.
        image_root: folder of the images.
    """
    leaving = [path for path in paths if leaves(path, image_root)]
    if not leaving:
        return None
    hint = path_hint(leaving[0], Path(image_root)).removeprefix(", but ")
    sentence = (
        f"image {leaving[0]} lies outside the image folder {image_root}{hint and f' ({hint})'}; set "
        "DATASETS.IMAGES_OUTSIDE True if that is meant"
    )
    return Finding("defect", "image outside the folder", sentence, len(leaving))


def leaves(path: str, image_root: str | Path) -> bool:
    """Whether a path leaves the folder that it should be below; links are not followed."""
    if ".." not in path and not os.path.isabs(path):
        return False
    root = os.path.normpath(os.path.abspath(image_root))
    full = os.path.normpath(os.path.join(root, path))
    return os.path.commonpath([root, full]) != root


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
            present[index] = name in names if names is not None else _is_file(os.path.join(full, name))
    return _second_look(present, paths, root)


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # a name with a zero byte
        return False


def _files_in(folder: str) -> set[str] | None:
    """Names of the files of a folder; None where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):
        return None


def _second_look(present: np.ndarray, paths: Sequence[str], root: str) -> np.ndarray:
    """Ask for files that no listing has: a file system may find "A.jpg" by the name "a.jpg"."""
    absent = np.flatnonzero(~present)
    for start, stop in ((0, _LOOKED_AT_TWICE), (_LOOKED_AT_TWICE, len(absent))):
        found = [index for index in absent[start:stop] if _is_file(os.path.join(root, paths[index]))]
        present[found] = True
        if not found:  # then the others are missing as well, and asking for all could take minutes
            break
    return present


class PathEnds:
    """Images of a dataset by the ends of their paths.

    Args:
        annotations: of the dataset.
    """

    def __init__(self, annotations: PackedAnnotations) -> None:
        self._of_name: dict[str, list[tuple[tuple[str, ...], int]]] = defaultdict(list)
        for index, image_id in enumerate(annotations.image_ids.tolist()):
            for path in candidate_paths(annotations.image_record(index), annotations.federated):
                parts = PurePosixPath(path.replace("\\", "/")).parts
                if parts:
                    self._of_name[parts[-1]].append((parts, image_id))

    def find(self, path: Path) -> tuple[int, set[int]]:
        """The ids of the images whose path ends in most of the same parts, and how many parts these are."""
        wanted = path.absolute().parts
        longest = 0
        ids: set[int] = set()
        for parts, image_id in self._of_name.get(path.name, ()):
            pairs = zip(reversed(wanted), reversed(parts), strict=False)
            common = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(wanted), len(parts)))
            if common > longest:
                longest, ids = common, set()
            if common == longest:
                ids.add(image_id)
        return longest, ids
