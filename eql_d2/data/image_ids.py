"""Parts of a dataset by the ids of their images, as ``minival`` of LVIS: the annotation file of these images alone."""

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from eql_d2.data.annotations.cache_files import file_digest
from eql_d2.data.annotations.file_text import loads
from eql_d2.data.annotations.made_files import ensure_made, made_file
from eql_d2.data.annotations.rules import missing_file
from eql_d2.errors import UserError

# Rises whenever the same files would give other annotations.
FORM_VERSION = 1


def part_file(annotation_file: str | Path, ids_file: str | Path) -> Path:
    """Where the annotations of some images lie or will lie: beside the whole, else in the cache folder.

    Args:
        annotation_file: JSON of the whole dataset, in the LVIS or COCO format.
        ids_file: JSON, a list of image ids or an annotation file that holds these images.
    """
    return made_file(Path(annotation_file), Path(ids_file).stem)


def ensure_part(annotation_file: str | Path, ids_file: str | Path) -> Path:
    """Make the annotation file of some images, unless it is there and neither file has changed since.

    Args:
        annotation_file: see :func:`part_file`.
        ids_file: see there.

    Raises:
        UserError: a file is missing or broken, or an image is not in the dataset; the sentence names it.
    """
    annotation_file, ids_file = Path(annotation_file), Path(ids_file)
    if not annotation_file.is_file():
        raise missing_file(annotation_file)
    if not ids_file.is_file():
        raise UserError(
            f"Image ids {ids_file} do not exist; put a JSON list of the ids there, or an annotation file that holds "
            f"just these images of {annotation_file} (see datasets/README.md)."
        )
    parts = [str(FORM_VERSION), file_digest(annotation_file), file_digest(ids_file)]
    digest = hashlib.sha1(" ".join(parts).encode(), usedforsecurity=False).hexdigest()
    path = part_file(annotation_file, ids_file)
    return ensure_made(path, annotation_file, digest, lambda file: _write_part(file, annotation_file, ids_file, digest))


def _write_part(file: BinaryIO, annotation_file: Path, ids_file: Path, digest: str) -> None:
    wanted = set(_read_ids(ids_file))
    content = _read_json(annotation_file)
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "categories")):
        raise UserError(f"{annotation_file} is no annotation file in the LVIS or COCO format.")
    images = [image for image in content["images"] if _number(image, "id") in wanted]
    unknown = wanted - {_number(image, "id") for image in images}
    if unknown:
        raise UserError(
            f"{ids_file} has the image id {min(unknown)} and {len(unknown) - 1} others that {annotation_file} has not; "
            "is it the list of another dataset?"
        )
    annotations = [a for a in content.get("annotations") or () if _number(a, "image_id") in wanted]
    info = {"digest": digest, "description": f"{len(images)} images of {annotation_file.name} by {ids_file.name}"}
    part = {"info": info, "images": images, "annotations": annotations, "categories": content["categories"]}
    file.write(orjson.dumps(part))


def _number(record: Any, key: str) -> int | None:
    """An id, which some tools write as text; what else is wrong is told when the part is read."""
    try:
        return int(record[key])
    except (TypeError, KeyError, ValueError):
        return None


def _read_ids(path: Path) -> list[int]:
    content = _read_json(path)
    if isinstance(content, dict):
        content = [image.get("id") if isinstance(image, dict) else image for image in content.get("images") or ()]
    if not isinstance(content, list) or not content or not all(type(entry) is int for entry in content):
        raise UserError(f"Image ids {path} are no JSON list of whole numbers, and no annotation file with images.")
    return content


def _read_json(path: Path) -> Any:
    try:
        return loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}).") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
