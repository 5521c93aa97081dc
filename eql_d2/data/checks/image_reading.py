"""Reading all images of a dataset in parallel processes: can they be decoded, how large are they, which are equal."""

import hashlib
import io
import multiprocessing
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from eql_d2.child_processes import end_pool_worker_with_parent
from eql_d2.data.pictures import check_png, is_deep
from eql_d2.errors import UserError

_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height
_CHUNK = 16
_STATUS_THREADS = 16  # asking a network drive is waiting, not work


class ImageFacts(NamedTuple):
    """What reading an image file shows.

    Attributes:
        error: why the file cannot be read; None if it can.
        size: width and height in pixels as training has them, turned as EXIF says; None if it was not decoded.
        sideways: whether EXIF swaps width and height.
        digest: SHA-1 of the file; None if that was not needed or the file cannot be read.
        deep: whether it has more than 8 bits a channel.
    """

    error: str | None = None
    size: tuple[int, int] | None = None
    sideways: bool = False
    digest: bytes | None = None
    deep: bool = False


def read_images(paths: Sequence[str], workers: int | None = None) -> list[ImageFacts]:
    """Read and decode image files, as training does, with a progress bar.

    Args:
        paths: N files.
        workers: number of processes; None for one a CPU.

    Returns:
        N facts.

    Raises:
        UserError: a process was killed.
    """
    return list(_in_parallel(_decode, paths, workers, "reading images"))


def find_equal_files(paths: Sequence[str], workers: int | None = None) -> list[ImageFacts]:
    """Read only files whose size another file has, too, and decode none.

    Args:
        paths: N files.
        workers: number of processes; None for one a CPU.

    Returns:
        N facts, of which files of a size of their own have no digest.

    Raises:
        UserError: a process was killed.
    """
    with ThreadPoolExecutor(_STATUS_THREADS) as threads:
        sizes = list(threads.map(_file_size, paths))
    times = Counter(sizes)
    doubtful = [path for path, size in zip(paths, sizes, strict=True) if size is not None and times[size] > 1]
    facts = dict(zip(doubtful, _in_parallel(_digest, doubtful, workers, "comparing files"), strict=True))
    return [facts.get(path, ImageFacts()) for path in paths]


def _file_size(path: str) -> int | None:
    try:
        return os.path.getsize(path)
    except OSError:
        return None


def _in_parallel(
    function: Callable[[str], ImageFacts], paths: Sequence[str], workers: int | None, title: str
) -> Iterator[ImageFacts]:
    """Results in the order of the paths."""
    workers = min(workers or os.cpu_count() or 1, -(-len(paths) // _CHUNK))
    with tqdm(total=len(paths), desc=title, unit="image", delay=1, smoothing=0.05) as progress:
        if workers <= 1:
            for path in paths:
                yield function(path)
                progress.update()
            return
        # Forking starts at once; elsewhere than on Linux system libraries do not survive it.
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        pool = ProcessPoolExecutor(workers, context, initializer=end_pool_worker_with_parent)
        try:
            for facts in pool.map(function, paths, chunksize=_CHUNK):
                yield facts
                progress.update()
        except BrokenProcessPool:
            raise UserError(
                "A process that reads images was killed, perhaps as memory ran out; try again with --workers 1."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _digest(path: str) -> ImageFacts:
    try:
        with open(path, "rb") as file:
            return ImageFacts(digest=_sha1(file.read()))
    except OSError as error:
        return ImageFacts(error=error.strerror)


def _decode(path: str) -> ImageFacts:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        return ImageFacts(error=error.strerror)
    if not data:
        return ImageFacts(error="the file is empty")
    try:
        size, sideways, deep = _decoded_size(data)
    except UnidentifiedImageError:
        return ImageFacts(error="it is no picture")
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        return ImageFacts(error=" ".join(str(error).split()) or type(error).__name__)
    return ImageFacts(size=size[::-1] if sideways else size, sideways=sideways, digest=_sha1(data), deep=deep)


def _decoded_size(data: bytes) -> tuple[tuple[int, int], bool, bool]:
    """Decode an image; gives width and height as stored, whether EXIF swaps them, and whether it is deep."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF data, which training ignores
        image = Image.open(io.BytesIO(data))
        deep = is_deep(image)  # before EXIF data is read, for which Pillow loads a PNG
        if not deep:
            check_png(image)
            image = Image.open(io.BytesIO(data))
        try:
            orientation = image.getexif().get(_EXIF_ORIENTATION)
        except Exception:  # training takes damaged EXIF data for none
            orientation = None
        image.convert("RGB")  # decodes all of it
    return image.size, orientation in _SIDEWAYS, deep


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()
