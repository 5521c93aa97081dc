"""The annotation file made from a source: where it lies, and whether it still belongs to its source."""

import hashlib
from pathlib import Path

from eql_d2.data.annotations.cache_files import file_digest
from eql_d2.data.annotations.made_files import ensure_made, made_file
from eql_d2.data.open_images.source import OpenImagesSource
from eql_d2.data.open_images.to_lvis_format import convert
from eql_d2.errors import UserError

# Rises whenever the same source would give other annotations.
FORM_VERSION = 1


def converted_file(source: OpenImagesSource) -> Path:
    """Where the annotation file of a source lies or will lie: beside the boxes, else in the cache folder."""
    return made_file(source.boxes, source.key)


def ensure_converted(source: OpenImagesSource) -> Path:
    """Make the annotation file of a source, unless it is there and the source has not changed since.

    Of several processes one makes it while the others wait.

    Raises:
        UserError: a file or an image is missing or broken, or the folder cannot be written.
    """
    source.check_files()
    if not source.images.is_dir():
        raise UserError(f"Image folder {source.images} does not exist; put the images there (see datasets/README.md).")
    digest = digest_of(source)
    return ensure_made(converted_file(source), source.boxes, digest, lambda file: convert(source, file, digest))


def digest_of(source: OpenImagesSource) -> str:
    """What identifies the source: contents of all files, choices and, where images may be missing, their folders."""
    parts = [str(FORM_VERSION), source.key, *map(file_digest, source.files)]
    if source.missing_images == "skip":
        # A folder's time changes when an image comes or goes.
        folders = [source.images, *sorted(source.images.glob("train_?"))]
        parts += [str(folder.stat().st_mtime_ns) for folder in folders]
    return hashlib.sha1(" ".join(parts).encode(), usedforsecurity=False).hexdigest()
