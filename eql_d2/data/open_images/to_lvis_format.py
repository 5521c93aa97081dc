"""From the CSV files of Open Images to an annotation file of the form of LVIS, without masks."""

import logging
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import BinaryIO

import numpy as np
import orjson

from eql_d2.data.category_counts import dataset_counts
from eql_d2.data.open_images.csv_files import (
    Boxes,
    ImageLabels,
    no_garbage,
    read_boxes,
    read_descriptions,
    read_image_labels,
)
from eql_d2.data.open_images.hierarchy import Hierarchy, read_hierarchy
from eql_d2.data.open_images.image_sizes import image_paths, image_sizes
from eql_d2.data.open_images.labelling import (
    ClassMap,
    VerifiedClasses,
    borrowed_categories,
    expanded_boxes,
    own_categories,
    relatives,
    verified_classes,
)
from eql_d2.data.open_images.source import OpenImagesSource
from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

CHUNK = 1 << 16  # records formatted at a time
DECIMALS = 3  # of coordinates in pixels


def convert(source: OpenImagesSource, out: BinaryIO, digest: str) -> None:
    """Write the annotation file.

    An image has ``neg_category_ids``, the classes verified not to be in it, and ``not_exhaustive_category_ids``, those
    that are in it but have no box of their own, which includes the ancestors of the boxed ones unless boxes are
    expanded. Boxes around groups have ``is_group_of``. Images are numbered from 1 in the order of their ImageIDs,
    classes in the order of the descriptions.

    Args:
        source: what it is made from.
        out: an empty file, open for writing.
        digest: goes into ``info``, to tell what the file was made from.

    Raises:
        UserError: a file or an image is missing or broken; the sentence names it.
    """
    with no_garbage():
        _convert(source, out, digest)


def read_source_boxes(source: OpenImagesSource) -> tuple[Boxes, ClassMap]:
    """The boxes of a source as its annotation file has them, and the categories that they name by index.

    Raises:
        UserError: a file is missing or broken.
    """
    names = read_descriptions(source.descriptions)
    hierarchy = read_hierarchy(source.hierarchy) if source.hierarchy else Hierarchy()
    class_map = _class_map(source, names, hierarchy)
    boxes = read_boxes(source.boxes, {label: place for place, label in enumerate(names)}, {})
    if source.expand:
        boxes = expanded_boxes(boxes, relatives(names, hierarchy)[0])
    return _in_categories(boxes, class_map), class_map


def _convert(source: OpenImagesSource, out: BinaryIO, digest: str) -> None:
    names = read_descriptions(source.descriptions)
    hierarchy = read_hierarchy(source.hierarchy) if source.hierarchy else Hierarchy()
    class_map = _class_map(source, names, hierarchy)
    ancestors, descendants = relatives(names, hierarchy)
    place_of_label = {label: place for place, label in enumerate(names)}
    images: dict[str, int] = {}
    official = read_boxes(source.boxes, place_of_label, images)
    labels = read_image_labels(source.labels, place_of_label, images) if source.labels else _no_labels()
    boxes = expanded_boxes(official, ancestors) if source.expand else official
    verified = verified_classes(official, boxes, labels, ancestors, descendants, class_map)
    boxes = _in_categories(boxes, class_map)

    ids = list(images)
    wanted = np.isin(np.arange(len(ids)), boxes.image) if class_map.is_borrowed else np.ones(len(ids), bool)
    order = [i for i in sorted(range(len(ids)), key=ids.__getitem__) if wanted[i]]
    ids = [ids[i] for i in order]
    sizes = image_sizes(ids, source.images, source.sizes, source.missing_images == "skip")
    there = sizes[:, 0] > 0
    if not there.any():
        raise UserError(f"Open Images file {source.boxes} has no box in an image of {source.images}; check both.")
    # The place of each image of the CSV files in the annotation file, -1 for those that are left out.
    rows = np.full(len(images), -1, np.int64)
    rows[np.array(order, np.int64)[there]] = np.arange(there.sum())
    ids, sizes = [image_id for image_id, is_there in zip(ids, there, strict=True) if is_there], sizes[there]

    category_ids = np.array([category["id"] for category in class_map.categories], np.int64)
    paths = image_paths(ids, source.images)
    info = {"description": "Open Images", "digest": digest}
    out.write(b'{"info":' + orjson.dumps(info) + b',\n"categories":' + orjson.dumps(class_map.categories))
    for key, records in (
        ("images", _image_records(paths, sizes, rows, verified, category_ids)),
        ("annotations", _annotation_records(boxes, sizes, rows, category_ids, source.group_of == "crowd")),
    ):
        out.write(f',\n"{key}":[\n'.encode())
        for number, text in enumerate(filter(None, records)):
            out.write(b",\n" + text if number else text)
        out.write(b"]")
    out.write(b"}\n")


def _class_map(source: OpenImagesSource, names: dict[str, str], hierarchy: Hierarchy) -> ClassMap:
    if source.classes is None or source.categories_of is None:
        # The metric gives boxes to the classes named here, which is done where boxes are expanded.
        return own_categories(names, Hierarchy() if source.expand else hierarchy)
    counts = dataset_counts((source.categories_of,))
    return borrowed_categories(source.classes, names, counts.category_ids, counts.names)


def _no_labels() -> ImageLabels:
    return ImageLabels(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, bool))


def _in_categories(boxes: Boxes, class_map: ClassMap) -> Boxes:
    category = class_map.category_of[boxes.label]
    kept = category >= 0
    if class_map.is_borrowed:
        logger.info("%d of %d boxes are of classes that become categories.", kept.sum(), len(kept))
    return Boxes(boxes.image, category, boxes.corners, boxes.is_group_of).those(kept)


def _image_records(
    paths: list[str], sizes: np.ndarray, rows: np.ndarray, verified: VerifiedClasses, category_ids: np.ndarray
) -> Iterator[bytes]:
    """The image records as JSON, a chunk at a time, without the brackets."""
    absent, present = (_ids_by_image(pairs, rows, category_ids) for pairs in (verified.absent, verified.present))
    for start in range(0, len(paths), CHUNK):
        chunk = slice(start, start + CHUNK)
        stop = start + len(paths[chunk])
        columns = (paths[chunk], sizes[chunk].tolist(), absent(start, stop), present(start, stop))
        records = [
            {
                "id": number,
                "file_name": path,
                "width": width,
                "height": height,
                "neg_category_ids": absent_ids,
                "not_exhaustive_category_ids": present_ids,
            }
            for number, (path, (width, height), absent_ids, present_ids) in enumerate(
                zip(*columns, strict=True), start=start + 1
            )
        ]
        yield orjson.dumps(records)[1:-1]


def _ids_by_image(
    pairs: np.ndarray, rows: np.ndarray, category_ids: np.ndarray
) -> Callable[[int, int], list[list[int]]]:
    """Gives the ids of each of some images, of (image, category) pairs by place in the CSV files."""
    row = rows[pairs[:, 0]]
    order = np.lexsort((pairs[:, 1], row))
    row, ids = row[order], category_ids[pairs[order, 1]]

    def of_images(start: int, stop: int) -> list[list[int]]:
        places = np.searchsorted(row, np.arange(start, stop + 1))
        listed = ids[places[0] : places[-1]].tolist()
        return [listed[first:last] for first, last in pairwise((places - places[0]).tolist())]

    return of_images


def _annotation_records(
    boxes: Boxes, sizes: np.ndarray, rows: np.ndarray, category_ids: np.ndarray, groups_are_crowds: bool
) -> Iterator[bytes]:
    """The annotation records as JSON, a chunk at a time, without the brackets."""
    group = b',"iscrowd":1,"is_group_of":1}' if groups_are_crowds else b',"is_group_of":1}'
    ends = (b"}", group)
    number = 0
    for start in range(0, len(boxes.label), CHUNK):
        part = slice(start, start + CHUNK)
        row = rows[boxes.image[part]]
        kept = row >= 0
        corners = boxes.corners[part] * np.tile(sizes[row], 2)
        corners = corners.round(DECIMALS)
        extent = (corners[:, 2:] - corners[:, :2]).round(DECIMALS)
        kept &= (extent > 0).all(axis=1)
        columns = (
            row[kept] + 1,
            category_ids[boxes.label[part][kept]],
            np.concatenate([corners[kept, :2], extent[kept]], axis=1),
            extent[kept].prod(axis=1).round(2 * DECIMALS),
            boxes.is_group_of[part][kept],
        )
        records = []
        for image, category, (x, y, w, h), area, is_group_of in zip(*(c.tolist() for c in columns), strict=True):
            number += 1
            records.append(
                b'{"id":%d,"image_id":%d,"category_id":%d,"bbox":[%a,%a,%a,%a],"area":%a%b'
                % (number, image, category, x, y, w, h, area, ends[is_group_of])
            )
        yield b",\n".join(records)
