"""Two tools' own forms as COCO's: CVAT's XML of images and VGG Image Annotator's JSON."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from pycocotools import mask as mask_api

from eql_d2.data.new_project.shapes import Shape, as_coco, ellipse, entry_named, polygon, turn, united
from eql_d2.data.pictures import header_size
from eql_d2.errors import UserError

_LABEL_KEYS = ("label", "class", "category", "name", "type", "object")
_HEAD = 4096


def is_via(path: Path) -> bool:
    """Whether a JSON file is VGG Image Annotator's: a project or an export, of version 1 or 2."""
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    return b'"_via_' in head or (b'"filename"' in head and b'"regions"' in head and b'"images"' not in head)


def is_cvat(path: Path) -> bool:
    """Whether an XML file is CVAT's own."""
    with open(path, "rb") as file:
        return b"<annotations>" in file.read(_HEAD)


def via_as_coco(path: Path, images: Path) -> dict[str, Any]:
    """The content of a COCO file from VGG Image Annotator's JSON.

    Args:
        path: the project, or its export "Annotations (as JSON)".
        images: folder of the images, from which their sizes are read.

    Raises:
        UserError: it is of another form, a region has no label, or an image is missing; the sentence names it.
    """
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    content = content.get("_via_img_metadata", content)
    files = list(content.values() if isinstance(content, dict) else content)
    # A dictionary by their numbers in version 1, a list in version 2.
    regions = [_values(file.get("regions")) for file in files]
    of_all = [region for of_file in regions for region in of_file if isinstance(region, dict)]
    key = _label_key(path, [region.get("region_attributes") or {} for region in of_all])
    entries: list[tuple[str, tuple[int, int], Iterator[Shape | str]]] = []
    for file, of_file in zip(files, regions, strict=True):
        with entry_named(path, f"entry {len(entries)} of the images"):
            name = str(file["filename"])
        size = header_size(images / name)
        if size is None:
            raise UserError(f"{path} names image {name}, which cannot be read in {images}; set --images.")
        entries.append((name, size, _via_shapes(path, name, of_file, key)))
    return as_coco(path, entries)


def _values(regions: Any) -> list[Any]:
    return list(regions.values()) if isinstance(regions, dict) else list(regions or [])


def _label_key(path: Path, attributes: list[dict[str, Any]]) -> str:
    """The attribute of regions that is their class."""
    keys = {key for of_region in attributes for key in of_region}
    named = [key for key in _LABEL_KEYS if key in {k.lower() for k in keys}]
    if len(keys) == 1:
        return next(iter(keys))
    if not named:
        raise UserError(
            f"{path} has the region attributes {', '.join(sorted(keys)) or 'none'}, and none is called label or class; "
            "name that of the classes so in VIA."
        )
    return next(key for key in keys if key.lower() == named[0])


def _via_shapes(path: Path, name: str, regions: list[dict[str, Any]], key: str) -> Iterator[Shape | str]:
    for number, region in enumerate(regions):
        with entry_named(path, f"region {number} of image {name}"):
            shape = _via_shape(path, name, number, region, key)
        yield shape


def _via_shape(path: Path, name: str, number: int, region: dict[str, Any], key: str) -> Shape | str:
    label = (region.get("region_attributes") or {}).get(key)
    if isinstance(label, dict):  # of checkboxes
        chosen = [option for option, is_set in label.items() if is_set]
        label = chosen[0] if len(chosen) == 1 else None
    if not label:
        raise UserError(f"{path}: region {number} of image {name} has no {key}, or several; give it one in VIA.")
    shape = region["shape_attributes"]
    kind = shape["name"]
    if kind == "rect":
        return str(label), [float(shape[side]) for side in ("x", "y", "width", "height")], None
    if kind in ("polygon", "polyline") and len(shape["all_points_x"]) > 2:
        return polygon(str(label), np.stack([shape["all_points_x"], shape["all_points_y"]], axis=1))
    if kind in ("circle", "ellipse"):
        radii = [shape["r"]] * 2 if kind == "circle" else [shape["rx"], shape["ry"]]
        return polygon(str(label), ellipse([shape["cx"], shape["cy"]], radii, shape.get("theta", 0)))
    return str(kind)


def cvat_as_coco(path: Path) -> dict[str, Any]:
    """The content of a COCO file from CVAT's XML ("CVAT for images 1.1").

    Raises:
        UserError: it is of another form, such as that for video.
    """
    root = ElementTree.parse(path).getroot()
    if root.find("track") is not None:
        raise UserError(f"{path} is CVAT's form for video; export the task as CVAT for images, or as COCO 1.0.")
    entries = []
    for number, image in enumerate(root.iter("image")):
        name = image.attrib.get("name", f"number {number}")
        with entry_named(path, f"image {name}"):
            size = (int(image.attrib["width"]), int(image.attrib["height"]))
            entries.append((image.attrib["name"], size, _cvat_shapes(path, name, image, size)))
    labels = [str(label.text) for label in root.iterfind("./meta//labels/label/name")]
    return as_coco(path, entries, labels)


def _cvat_shapes(path: Path, name: str, image: ElementTree.Element, size: tuple[int, int]) -> Iterator[Shape | str]:
    """The shapes of an image; grouped ones with outlines are parts of one object, as in CVAT's own export to COCO."""
    parts: dict[tuple[str, str, str], list[Shape]] = {}
    for number, element in enumerate(image):
        with entry_named(path, f"{element.tag} {number} of image {name}"):
            shape = _cvat_shape(element, size)
        group = element.attrib.get("group_id", "0")
        if group != "0" and element.tag in ("polygon", "mask") and not isinstance(shape, str):
            parts.setdefault((group, element.tag, shape[0]), []).append(shape)
        else:
            yield shape
    yield from map(united, parts.values())


def _cvat_shape(shape: ElementTree.Element, size: tuple[int, int]) -> Shape | str:
    values, label = shape.attrib, shape.attrib["label"]
    keys: tuple[str, ...] = ("xtl", "ytl", "xbr", "ybr", "cx", "cy", "rx", "ry")
    numbers = {key: float(values[key]) for key in keys if key in values}
    turned = float(values.get("rotation", 0))
    if shape.tag == "box":
        corners = np.array([[numbers[x], numbers[y]] for x, y in (("xtl", "ytl"), ("xbr", "ybr"))])
        if turned:
            left, top, right, bottom = corners.ravel()
            points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
            return polygon(label, turn(points, corners.mean(axis=0), turned))
        return label, [*corners[0].tolist(), *(corners[1] - corners[0]).tolist()], None
    if shape.tag == "polygon":
        return polygon(label, np.array([point.split(",") for point in values["points"].split(";")], float))
    if shape.tag == "ellipse":
        center = [numbers["cx"], numbers["cy"]]
        return polygon(label, ellipse(center, [numbers["rx"], numbers["ry"]], math.radians(turned)))
    if shape.tag == "mask":
        return label, *_mask(values, size)
    return shape.tag


def _mask(values: dict[str, str], size: tuple[int, int]) -> tuple[list[float], Any]:
    """Box and run lengths of CVAT's mask: runs along the rows of its own box, background first."""
    left, top, width, height = (int(values[key]) for key in ("left", "top", "width", "height"))
    runs = [int(run) for run in values["rle"].split(",")]
    inside = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8).reshape(height, width)
    whole = np.zeros(size[::-1], np.uint8, order="F")
    whole[top : top + height, left : left + width] = inside
    encoded = mask_api.encode(whole)
    return mask_api.toBbox(encoded).tolist(), {"size": list(size[::-1]), "counts": encoded["counts"].decode()}
