"""Which image of an annotation file a picture is, by the longest end that their paths share."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.image_paths import PathEnds
from eql_d2.errors import UserError


class KnownImages:
    """The ids that an annotation file has for pictures.

    No id is given twice: of several pictures that share their ends with one image, that with the longest end has it,
    and none if two are as long.

    Args:
        annotation_file: JSON in the LVIS or COCO format; annotations are not needed.
        pictures: paths of the pictures.

    Attributes:
        ids: image id of each picture that is known for sure.
        remarks: sentences that say which pictures have no id, and why.
        categories: category records of the file, in ascending order of ids.
        first_free_id: a number that no image of the file has, nor any number after it.

    Raises:
        UserError: the file is missing or broken, or has none of the pictures.
    """

    def __init__(self, annotation_file: str | Path, pictures: Sequence[Path]) -> None:
        annotations = open_annotations(annotation_file)
        self.categories: list[dict[str, Any]] = annotations.category_records
        self.first_free_id = int(annotations.image_ids.max(initial=0)) + 1
        ends = PathEnds(annotations)
        unknown: list[Path] = []
        doubtful: list[Path] = []
        wanted: dict[int, list[tuple[int, Path]]] = defaultdict(list)
        for picture in pictures:
            length, found = ends.find(picture)
            if len(found) == 1:
                wanted[next(iter(found))].append((length, picture))
            else:
                (doubtful if found else unknown).append(picture)
        self.ids: dict[Path, int] = {}
        twice = []
        for image_id, claims in wanted.items():
            longest = max(length for length, _ in claims)
            best = [picture for length, picture in claims if length == longest]
            if len(best) == 1:
                self.ids[best[0]] = image_id
            twice += [picture for _, picture in claims if picture not in self.ids]
        if not self.ids and pictures:
            raise UserError(
                f"--annotations {annotation_file} has no image whose path ends as that of a picture, such as "
                f"{pictures[0]}; give the annotations of these pictures."
            )
        numbered = f"in {annotation_file}; numbered from {self.first_free_id}"
        cases = (
            (unknown, "have no image of their name"),
            (doubtful, "could be several images"),
            (twice, "share an image with another picture"),
        )
        self.remarks = [
            f"{len(paths)} of {len(pictures)} pictures {what} {numbered} (the first: {paths[0]})."
            for paths, what in cases
            if paths
        ]
