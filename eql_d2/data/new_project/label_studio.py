"""Label Studio's own JSON, full and minimal, as COCO's."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from pycocotools import mask as mask_api

from eql_d2.data.annotations.path_hints import other_spelling
from eql_d2.data.new_project.shapes import Shape, as_coco, ellipse, entry_named, polygon, turn
from eql_d2.data.pictures import header_size
from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

_PICTURE = re.compile(r"\.(jpe?g|png|bmp|gif|tiff?|webp)($|[?#])", re.IGNORECASE)
_HEAD = 1 << 16


def is_label_studio(path: Path) -> bool:
    """Whether a JSON file is Label Studio's "JSON" or "JSON-MIN"."""
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if not head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"["):
        return False
    return (b'"from_name"' in head and b'"to_name"' in head) or (b'labels"' in head and b'"original_width"' in head)


def label_studio_as_coco(path: Path, images: Path) -> dict[str, Any]:
    """The content of a COCO file from Label Studio's JSON.

    Of a task that several people labelled, that of the ground truth counts, else the last that was not skipped.

    Args:
        path: the export "JSON" or "JSON-MIN".
        images: folder of the images, from which their sizes are read; by the name in the task, with or without the
            prefix of an upload.

    Raises:
        UserError: a task cannot be read, or its image is missing; the sentence names it.
    """
    tasks = json.loads(path.read_text(encoding="utf-8-sig"))
    entries: list[tuple[str, tuple[int, int], Iterator[Shape | str]]] = []
    several = 0
    for number, task in enumerate(tasks):
        with entry_named(path, f"task {task.get('id', number) if isinstance(task, dict) else number}"):
            done = [a for a in task.get("annotations", task.get("completions")) or () if not a.get("was_cancelled")]
            several += len(done) > 1
            chosen = next((a for a in done if a.get("ground_truth")), done[-1] if done else {})
            is_full = "annotations" in task or "completions" in task
            results = chosen.get("result", []) if is_full else _of_minimal(task)
            name = _file_of(path, task, images)
        size = header_size(images / name)
        if size is None:
            raise UserError(f"{path} names image {name}, which cannot be read in {images}; mend or delete it.")
        entries.append((name, size, _shapes(path, name, results, size)))
    if several:
        logger.warning("%s: %d tasks have several labellings; the ground truth counts, or the last.", path, several)
    return as_coco(path, entries)


def _of_minimal(task: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of a task of JSON-MIN, each as in the full form."""
    lists = [value for key, value in task.items() if isinstance(value, list) and key != "choices"]
    return [{"value": entry} for entries in lists for entry in entries if isinstance(entry, dict)]


def _file_of(path: Path, task: dict[str, Any], images: Path) -> str:
    """The path below the folder of the image of a task."""
    data = task.get("data", task)
    said = [value for value in (task.get("file_upload"), *data.values()) if isinstance(value, str)]
    named = [value for value in said if _PICTURE.search(value)]
    for value in named:
        parts = urlsplit(value)
        for name in (*parse_qs(parts.query).get("d", ()), unquote(parts.path), value):
            candidate = name.lstrip("/")
            if ".." not in candidate and (images / candidate).is_file():
                return candidate
            if found := other_spelling(name, images):
                return found
    if not named:
        raise UserError(f"{path}: task {task.get('id')} names no picture; it is no task of images.")
    raise UserError(f"{path} names image {named[0]}, which is not in {images}; set --images.")


def _shapes(path: Path, name: str, results: list[dict[str, Any]], size: tuple[int, int]) -> Iterator[Shape | str]:
    # A shape of <Rectangle> and its label of <Labels> are two results with the same id, both with the coordinates.
    labels: dict[Any, str] = {}
    seen = set()
    for result in results:
        if (label := _label(result)) and result.get("id") is not None:
            labels.setdefault(result["id"], label)
    for number, result in enumerate(results):
        with entry_named(path, f"result {number} of image {name}"):
            value = result.get("value", {})
            kind = next((kind for kind, keys in _KINDS.items() if keys <= set(value)), None)
            if kind is None or (result.get("id") is not None and result["id"] in seen):
                if result.get("type") in ("keypoint", "keypointlabels"):
                    yield str(result["type"])
                continue
            seen.add(result.get("id"))
            label = _label(result) or labels.get(result.get("id"))
            if not label:
                raise UserError(f"{path}: {kind} {number} of image {name} has no label; give it one in Label Studio.")
            shape = _shape(kind, label, value, size, float(value.get("rotation") or 0))
        yield shape


_KINDS = {
    "brush": {"rle"},
    "ellipse": {"radiusX", "radiusY"},
    "polygon": {"points"},
    "rectangle": {"x", "y", "width", "height"},
}


def _label(result: dict[str, Any]) -> str | None:
    value = result.get("value", {})
    names = next((value[key] for key in value if key.endswith("labels") and value[key]), None)
    return str(names[0]) if isinstance(names, list) else None


def _shape(kind: str, label: str, value: dict[str, Any], size: tuple[int, int], turned: float) -> Shape:
    share = np.array(size) / 100  # coordinates are in percent of the image
    if kind == "polygon":
        return polygon(label, np.array(value["points"], float) * share)
    if kind == "brush":
        return label, *_brush(value["rle"], size)
    corner = np.array([value["x"], value["y"]], float) * share
    if kind == "ellipse":
        radii = np.array([value["radiusX"], value["radiusY"]], float) * share
        return polygon(label, ellipse(corner.tolist(), radii.tolist(), np.radians(turned)))
    width, height = np.array([value["width"], value["height"]], float) * share
    if not turned:
        return label, [*corner.tolist(), float(width), float(height)], None
    corners = corner + np.array([[0, 0], [width, 0], [width, height], [0, height]])
    return polygon(label, turn(corners, corner, turned))  # about the first corner


def _brush(rle: list[int], size: tuple[int, int]) -> tuple[list[float], Any]:
    """Box and run lengths of a brush mask: a stream of bits, in which the fourth of four channels is the mask.

    The stream has the number of values in 32 bits, the bits of a value less one in 5, and four times the bits of a
    length less one in 4. Then come runs: a bit that is set for a repeated value, which of the four lengths in 2 bits, a
    length less one, and the value, or as many values.
    """
    bits = "".join(f"{byte:08b}" for byte in rle)
    place = 0

    def read(number: int) -> int:
        nonlocal place
        place += number
        return int(bits[place - number : place], 2)

    total, word = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.uint8)
    filled = 0
    while filled < total:
        repeated = read(1)
        number = read(lengths[read(2)]) + 1
        values[filled : filled + number] = read(word) if repeated else [read(word) for _ in range(number)]
        filled += number
    width, height = size
    encoded = mask_api.encode(np.asfortranarray(values.reshape(height, width, 4)[:, :, 3] > 0).astype(np.uint8))
    return mask_api.toBbox(encoded).tolist(), {"size": [height, width], "counts": encoded["counts"].decode()}
