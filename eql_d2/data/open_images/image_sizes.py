"""Where the images of Open Images lie and how large they are, from their headers, read in parallel and only once."""

import csv
import io
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from eql_d2.data.annotations.cache_files import cache_paths, write_whole
from eql_d2.data.open_images.csv_files import PROGRESS_AFTER, read_sizes
from eql_d2.data.pictures import Size, header_size
from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

THREADS = 16  # most of the time is waiting for the disk
PER_JOB = 500  # images


def image_paths(image_ids: Sequence[str], root: str | Path) -> list[str]:
    """Paths of images below their folder, ``ID.jpg`` or, as the train set is packed, ``train_F/ID.jpg``.

    F is the first digit of the ID. Which of the two it is follows from the folder: whether it has ``train_0``.
    """
    if (Path(root) / "train_0").is_dir():
        return [f"train_{image_id[:1]}/{image_id}.jpg" for image_id in image_ids]
    return [f"{image_id}.jpg" for image_id in image_ids]


def image_sizes(
    image_ids: Sequence[str], root: str | Path, size_file: str | Path | None, skip_missing: bool
) -> np.ndarray:
    """Width and height of each image as it is shown, that is, turned as its EXIF data say.

    What is read from headers is kept in a CSV file beside the image folder or in the cache folder.

    Args:
        image_ids: N ImageIDs.
        root: folder of the images.
        size_file: CSV of ImageID, width, height that makes reading images unnecessary.
        skip_missing: whether images may be missing on disk; else all have to be there, or in the size file.

    Returns:
        (N, 2) int64, 0 for images that are missing.

    Raises:
        UserError: an image is missing or broken.
    """
    known = read_sizes(size_file) if size_file else _cached(root)
    paths = image_paths(image_ids, root)
    # A known size does not say that the image is there.
    asked = [i for i, image_id in enumerate(image_ids) if skip_missing or image_id not in known]
    found = _read_headers([Path(root) / paths[i] for i in asked], [known.get(image_ids[i]) for i in asked])
    missing = [asked[place] for place, size in enumerate(found) if size is None]
    if missing and not skip_missing:
        raise UserError(
            f"{len(missing)} of {len(image_ids)} images of Open Images are missing in {root}, first "
            f"{paths[missing[0]]}; complete them, or say missing_images: skip to use those that are there."
        )
    if missing:
        logger.warning("%d of %d images are missing in %s and are left out.", len(missing), len(image_ids), root)
    read = {image_ids[i]: size for i, size in zip(asked, found, strict=True) if size is not None}
    if not size_file and not read.keys() <= known.keys():
        _keep({**known, **read}, root)
    sizes = {**known, **read}
    lost = {image_ids[i] for i in missing}
    return np.array([(0, 0) if i in lost else sizes[i] for i in image_ids], np.int64).reshape(-1, 2)


def _read_headers(paths: Sequence[Path], known: Sequence[Size | None]) -> list[Size | None]:
    """Sizes of images, None for missing ones; where the size is known, only whether the image is there."""

    def sizes_of(start: int) -> list[Size | None]:
        places = range(start, min(start + PER_JOB, len(paths)))
        return [header_size(paths[i]) if known[i] is None else known[i] if paths[i].exists() else None for i in places]

    sizes: list[Size | None] = []
    progress = tqdm(total=len(paths), desc="image sizes", unit="image", unit_scale=True, delay=PROGRESS_AFTER)
    with ThreadPoolExecutor(THREADS) as pool, progress:
        for part in pool.map(sizes_of, range(0, len(paths), PER_JOB)):
            sizes += part
            progress.update(len(part))
    return sizes


def _cache_files(root: str | Path) -> list[Path]:
    return [path.with_suffix(".sizes.csv") for path in cache_paths(root)]


def _cached(root: str | Path) -> dict[str, Size]:
    return next((read_sizes(path) for path in _cache_files(root) if path.exists()), {})


def _keep(sizes: dict[str, Size], root: str | Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("ImageID", "Width", "Height"))
    writer.writerows((image_id, *size) for image_id, size in sizes.items())
    for path in _cache_files(root):
        try:
            write_whole(path, root, lambda file: file.write(text.getvalue().encode())).close()
        except OSError:
            continue
        logger.info("Kept the sizes of %d images in %s.", len(sizes), path)
        return
    logger.warning("The sizes of the images in %s cannot be kept; set EQL_D2_CACHE to a folder for them.", root)
