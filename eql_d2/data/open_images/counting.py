"""How often each class occurs, from the CSV files alone: an evaluation needs no image of the training set."""

import numpy as np
import orjson

from eql_d2.data.annotations.cache_files import write_whole
from eql_d2.data.open_images.converted import converted_file, digest_of
from eql_d2.data.open_images.csv_files import no_garbage
from eql_d2.data.open_images.source import OpenImagesSource
from eql_d2.data.open_images.to_lvis_format import read_source_boxes
from eql_d2.errors import UserError
from eql_d2.long_tail import CategoryCounts


def count_open_images(source: OpenImagesSource) -> CategoryCounts:
    """Counts of a source, as of its annotation file; kept beside that.

    Args:
        source: of which no image may be missing (``missing_images`` "error").

    Raises:
        UserError: a file is missing or broken.
    """
    source.check_files()
    path = converted_file(source).with_suffix(".counts.json")
    digest = digest_of(source)
    try:
        content = orjson.loads(path.read_bytes())
        if content["digest"] == digest:
            return CategoryCounts.from_records(content)
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        pass  # made anew below
    with no_garbage():
        counts = _count(source)
    try:
        text = orjson.dumps({"digest": digest, **counts.to_records()})
        write_whole(path, source.boxes, lambda file: file.write(text)).close()
    except OSError as error:
        raise UserError(
            f"Count file {path} cannot be written ({error.strerror}); set EQL_D2_CACHE to a folder for it."
        ) from None
    return counts


def _count(source: OpenImagesSource) -> CategoryCounts:
    boxes, class_map = read_source_boxes(source)
    counted = ~boxes.is_group_of if source.group_of == "crowd" else slice(None)
    image, category = boxes.image[counted].astype(np.int64), boxes.label[counted]
    num_categories = len(class_map.categories)
    pairs = np.sort(image * num_categories + category)
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    image_counts, instance_counts = (
        np.bincount(classes, minlength=num_categories).tolist() for classes in (pairs % num_categories, category)
    )
    return CategoryCounts(
        category_ids=tuple(record["id"] for record in class_map.categories),
        names=tuple(record["name"] for record in class_map.categories),
        image_counts=tuple(image_counts),
        instance_counts=tuple(instance_counts),
        num_images=int(np.count_nonzero(np.bincount(image))),
    )
