"""Reading the official CSV files into compact arrays, in one pass and a chunk of rows at a time."""

import csv
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

CHUNK = 1 << 17  # rows held as Python objects at a time
PROGRESS_AFTER = 5  # seconds; quicker work shows none
# What a box may lie outside the image by rounding; more is another unit.
TOLERANCE = 0.01

COORDINATES = ("XMin", "YMin", "XMax", "YMax")


@dataclass(frozen=True)
class Boxes:
    """M boxes of a CSV file, in its order.

    Attributes:
        image: (M,) int32, number of the image.
        label: (M,) int32, number of the class.
        corners: (M, 4) float64, XMin, YMin, XMax, YMax in [0, 1] of the image's width and height.
        is_group_of: (M,) bool, whether the box is around a group of more than five instances that touch each other.
    """

    image: np.ndarray
    label: np.ndarray
    corners: np.ndarray
    is_group_of: np.ndarray

    def those(self, kept: np.ndarray) -> "Boxes":
        """Some of the boxes; without a copy if all of them."""
        if kept.all():
            return self
        return Boxes(self.image[kept], self.label[kept], self.corners[kept], self.is_group_of[kept])


@dataclass(frozen=True)
class ImageLabels:
    """M image-level labels of a CSV file.

    Attributes:
        image: (M,) int32, number of the image.
        label: (M,) int32, number of the class.
        is_positive: (M,) bool: verified to be in the image; else verified not to be.
    """

    image: np.ndarray
    label: np.ndarray
    is_positive: np.ndarray


@contextmanager
def no_garbage() -> Iterator[None]:
    """Switch Python's garbage collector off, which looks through millions of rows again and again for nothing."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def read_descriptions(path: str | Path) -> dict[str, str]:
    """Read the class descriptions, a CSV file without header: label, name.

    Returns:
        Label (``/m/…``) → name, in the order of the file.

    Raises:
        UserError: the file is missing, of another form, or has a label twice.
    """
    names: dict[str, str] = {}
    for number, row in enumerate(_rows(path), start=1):
        if len(row) < 2 or row[0] in names:
            what = f"has the label {row[0]} again" if row and row[0] in names else "is not LABEL,NAME"
            raise UserError(f"Class description file {path}: line {number} {what}; download it again.")
        if row[0].lower() != "labelname":  # some versions have a header
            names[row[0]] = row[1]
    if not names:
        raise UserError(f"Class description file {path} is empty; download it again.")
    return names


def read_boxes(path: str | Path, labels: dict[str, int], images: dict[str, int]) -> Boxes:
    """Read the boxes; those of unknown classes and those without area are left out, and counted in the log.

    Args:
        path: CSV with the columns ImageID, LabelName, XMin, XMax, YMin, YMax and, if there are any, IsGroupOf.
        labels: label → number of the class.
        images: ImageID → number of the image; new ones are added.

    Raises:
        UserError: the file is missing, lacks a column or has a broken row.
    """

    def chunk_of(columns: dict[str, Sequence[str]]) -> tuple[np.ndarray, ...]:
        corners = np.stack([_numbers(columns[name]) for name in COORDINATES], axis=1)
        if not (np.isfinite(corners).all() and np.abs(corners - 0.5).max(initial=0) <= 0.5 + TOLERANCE):
            raise ValueError
        group_of = columns.get("IsGroupOf")
        is_group_of = _numbers(group_of) > 0 if group_of else np.zeros(len(corners), bool)
        return _image_numbers(columns, images), _class_numbers(columns, labels), corners.clip(0, 1), is_group_of

    image, label, corners, is_group_of = _read(path, ("LabelName", *COORDINATES), ("IsGroupOf",), chunk_of)
    known = label >= 0
    has_area = (corners[:, :2] < corners[:, 2:]).all(axis=1)
    for count, what in (((~known).sum(), "of other classes"), ((known & ~has_area).sum(), "without area")):
        if count:
            logger.warning("%s: %d of %d boxes are %s and are left out.", path, count, len(label), what)
    return Boxes(image, label, corners, is_group_of).those(known & has_area)


def read_image_labels(path: str | Path, labels: dict[str, int], images: dict[str, int]) -> ImageLabels:
    """Read image-level labels verified by people; those of unknown classes are left out.

    Args:
        path: CSV with the columns ImageID, LabelName and Confidence, 1 or 0.
        labels: label → number of the class.
        images: ImageID → number of the image; new ones are added.

    Raises:
        UserError: the file is missing, lacks a column or has a broken row.
    """

    def chunk_of(columns: dict[str, Sequence[str]]) -> tuple[np.ndarray, ...]:
        confidence = _numbers(columns["Confidence"])
        if not np.isin(confidence, (0, 1)).all():  # a classifier's, not a person's
            raise ValueError
        return _image_numbers(columns, images), _class_numbers(columns, labels), confidence == 1

    image, label, is_positive = _read(path, ("LabelName", "Confidence"), (), chunk_of)
    known = label >= 0
    return ImageLabels(image[known], label[known], is_positive[known])


def read_sizes(path: str | Path) -> dict[str, tuple[int, int]]:
    """Read image sizes: CSV of ImageID, width, height in pixels, with a header or without.

    Raises:
        UserError: the file is missing or has a broken row.
    """
    sizes = {}
    for number, row in enumerate(_rows(path), start=1):
        try:
            image_id, width, height = row[0], int(row[1]), int(row[2])
            if min(width, height) < 1:
                raise ValueError
            sizes[image_id] = (width, height)
        except (ValueError, IndexError):
            if number > 1:
                raise UserError(
                    f"Image size file {path}: line {number} is not ImageID,WIDTH,HEIGHT in pixels; write it anew."
                ) from None
    return sizes


def _rows(path: str | Path) -> Iterator[list[str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            yield from filter(None, csv.reader(file))
    except OSError as error:
        raise UserError(f"Open Images file {path} cannot be read ({error.strerror}); check the path.") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"Open Images file {path} is not CSV ({error}); download it again.") from None


def _read(
    path: str | Path,
    needed: Sequence[str],
    optional: Sequence[str],
    chunk_of: Callable[[dict[str, Sequence[str]]], tuple[np.ndarray, ...]],
) -> list[np.ndarray]:
    """Read the named columns of a CSV file with a header, chunk by chunk, into arrays."""
    rows = _rows(path)
    header = [name.strip() for name in next(rows, [])]
    missing = [name for name in ("ImageID", *needed) if name not in header]
    if missing:
        raise UserError(
            f"Open Images file {path} has no column {' and no '.join(missing)}; its first line must name the columns."
        )
    columns = {name: header.index(name) for name in ("ImageID", *needed, *optional) if name in header}
    parts: list[list[np.ndarray]] = []  # of each array
    line = 1
    with tqdm(desc=f"reading {Path(path).name}", unit="row", unit_scale=True, delay=PROGRESS_AFTER) as bar:
        while chunk := list(islice(rows, CHUNK)):
            arrays = _chunk(path, chunk, line, columns, chunk_of)
            parts = parts or [[] for _ in arrays]
            for of_array, array in zip(parts, arrays, strict=True):
                of_array.append(array)
            line += len(chunk)
            bar.update(len(chunk))
    if not parts:
        return list(chunk_of(dict.fromkeys(columns, ())))
    return [_joined(of_array) for of_array in parts]


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    """One array of some, which are let go: all of a file at once would take twice its memory."""
    whole = np.concatenate(arrays)
    arrays.clear()
    return whole


def _chunk(
    path: str | Path, rows: list[list[str]], line: int, columns: dict[str, int], chunk_of: Callable
) -> tuple[np.ndarray, ...]:
    """The arrays of some rows; where that fails, the sentence names the first broken row."""
    try:
        return _arrays(rows, columns, chunk_of)
    except (ValueError, IndexError):
        for number, row in enumerate(rows, start=line + 1):
            try:
                _arrays([row], columns, chunk_of)
            except (ValueError, IndexError):
                raise UserError(
                    f"Open Images file {path}: line {number} is broken ({','.join(row)[:80]}); download it again."
                ) from None
        raise UserError(f"Open Images file {path}: lines after {line} differ in length; download it again.") from None


def _arrays(rows: list[list[str]], columns: dict[str, int], chunk_of: Callable) -> tuple[np.ndarray, ...]:
    cells = list(zip(*rows, strict=True))
    return chunk_of({name: cells[place] for name, place in columns.items()})


def _numbers(cells: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(float, cells), np.float64, len(cells))


def _class_numbers(columns: dict[str, Sequence[str]], labels: dict[str, int]) -> np.ndarray:
    cells = columns["LabelName"]
    return np.fromiter((labels.get(cell, -1) for cell in cells), np.int32, len(cells))


def _image_numbers(columns: dict[str, Sequence[str]], images: dict[str, int]) -> np.ndarray:
    cells = columns["ImageID"]
    return np.fromiter((images.setdefault(cell, len(images)) for cell in cells), np.int32, len(cells))
