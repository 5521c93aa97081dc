"""The annotation file made from a source: where it lies, and whether it still belongs to its source."""

import hashlib
import logging
import os
import re
import time
from pathlib import Path

from eql_d2.data.annotations.cache_files import cache_paths, file_digest, one_builder, write_whole
from eql_d2.data.open_images.source import OpenImagesSource
from eql_d2.data.open_images.to_lvis_format import convert
from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

# Rises whenever the same source would give other annotations.
FORM_VERSION = 1
_HEAD = 4096  # bytes that hold the digest
_DIGEST = re.compile(rb'"digest":"([0-9a-f]{40})"')


def converted_file(source: OpenImagesSource) -> Path:
    """Where the annotation file of a source lies or will lie: beside the boxes, else in the cache folder."""
    beside, *others = cache_paths(source.boxes)
    path = others[0] if others and not _takes_files(source.boxes.parent) else beside
    return path.with_name(f"{path.name.removesuffix('.cache')}.{source.key}.json")


def _takes_files(folder: Path) -> bool:
    if not folder.exists():
        return True  # nor is there anything to convert
    return os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)


def ensure_converted(source: OpenImagesSource) -> Path:
    """Make the annotation file of a source, unless it is there and the source has not changed since.

    Of several processes one makes it while the others wait.

    Raises:
        UserError: a file or an image is missing or broken, or the folder cannot be written.
    """
    source.check_files()
    if not source.images.is_dir():
        raise UserError(f"Image folder {source.images} does not exist; put the images there (see datasets/README.md).")
    path = converted_file(source)
    digest = digest_of(source)
    if _digest_in(path) == digest:
        return path
    with one_builder(source.boxes):
        if _digest_in(path) != digest:  # another process may have made it meanwhile
            start = time.perf_counter()
            logger.info("Converting %s to %s.", source.boxes, path)
            try:
                write_whole(path, source.boxes, lambda file: convert(source, file, digest)).close()
            except OSError as error:
                raise UserError(
                    f"Annotation file {path} cannot be written ({error.strerror}); set EQL_D2_CACHE to a folder for it."
                ) from None
            logger.info("Converted %s in %.0f s.", source.boxes, time.perf_counter() - start)
    return path


def digest_of(source: OpenImagesSource) -> str:
    """What identifies the source: contents of all files, choices and, where images may be missing, their folders."""
    parts = [str(FORM_VERSION), source.key, *map(file_digest, source.files)]
    if source.missing_images == "skip":
        # A folder's time changes when an image comes or goes.
        folders = [source.images, *sorted(source.images.glob("train_?"))]
        parts += [str(folder.stat().st_mtime_ns) for folder in folders]
    return hashlib.sha1(" ".join(parts).encode(), usedforsecurity=False).hexdigest()


def _digest_in(path: Path) -> str | None:
    """The digest that an annotation file was written with; None where there is none."""
    try:
        with open(path, "rb") as file:
            found = _DIGEST.search(file.read(_HEAD))
    except OSError:
        return None
    return found[1].decode() if found else None
