"""What keeps an export from training, and can be made right without guessing: paths of images, classes to validate."""

import os
from pathlib import Path
from typing import Any

import orjson

from eql_d2.data.annotations.cache import PackedAnnotations, open_annotations
from eql_d2.data.annotations.image_paths import image_paths, images_present
from eql_d2.data.annotations.path_hints import other_spelling
from eql_d2.errors import UserError

_MOST_FOLDERS = 100


def find_images(file: Path, folder: Path | None, output: Path) -> tuple[Path, Path, str]:
    """The annotation file and the image folder of a project.

    Where the paths of the file lead nowhere in the folder, all of them have to be found in another folder beside it, or
    under another spelling (backslashes, what stands before them on the machine that wrote the file), which a copy of
    the file then has. Otherwise nothing is changed, for the check of the dataset to say what is missing.

    Args:
        file: in the COCO or LVIS format.
        folder: of its images; None takes that of the file.
        output: copy to write, if need be.

    Returns:
        File, folder, and what was done as a sentence, which may be empty.
    """
    folder = folder or file.parent
    try:
        annotations = open_annotations(file)
        paths = image_paths(annotations, folder)
    except UserError:  # the check says so
        return file, folder, ""
    absent = [path for path, there in zip(paths, images_present(paths, folder).tolist(), strict=True) if not there]
    if not absent:
        return file, folder, ""
    folders = _folders_around(file.parent, folder)
    for other in folders:
        if images_present(image_paths(annotations, other), other).all():
            return file, other, f"The images are taken from {other}"
    for other in (folder, *folders):
        spelled = {path: found for path in absent if (found := other_spelling(path, other))}
        if len(spelled) == len(set(absent)) == len(set(spelled.values())) and not set(spelled.values()) & set(paths):
            _write_copy(annotations, [spelled.get(path, path) for path in paths], output)
            told = f"{len(spelled)} of {len(paths)} paths of images are written as they are in {other}"
            return output, other, f"{told}: {absent[0]} as {spelled[absent[0]]}, in {output.name}"
    return file, folder, ""


def match_classes(train: Path, val: Path, output: Path) -> tuple[Path, str]:
    """A validation file with the classes of the training file, which tools number anew in each export.

    Args:
        train: in the COCO or LVIS format.
        val: likewise.
        output: copy of it to write, where its classes are those of the training file by name, or some of them, and have
            other ids or are not all listed.

    Returns:
        File, and what was done as a sentence, which may be empty.
    """
    try:
        of_train, of_val = (open_annotations(path) for path in (train, val))
    except UserError:  # the check says so
        return val, ""
    wanted, said = ({record["name"]: record["id"] for record in a.category_records} for a in (of_train, of_val))
    if wanted == said or not set(said) <= set(wanted):
        return val, ""
    if len(wanted) < len(of_train.category_records) or len(said) < len(of_val.category_records):  # a name twice
        return val, ""
    ids = {number: wanted[name] for name, number in said.items()}
    _write_copy(of_val, image_paths(of_val), output, of_train.category_records, ids)
    return output, f"The classes of {val.name} are those of {train.name} by their names, in {output.name}"


def _folders_around(of_file: Path, folder: Path) -> list[Path]:
    """Folders that may hold the images, the likeliest first."""
    found = [folder.parent, of_file, of_file.parent]
    for parent in (of_file, folder, of_file.parent):
        try:
            with os.scandir(parent) as entries:
                below = sorted(
                    entry.name for _, entry in zip(range(_MOST_FOLDERS), entries, strict=False) if entry.is_dir()
                )
        except OSError:
            continue
        found += [parent / name for name in below]
    return [path for path in dict.fromkeys(found) if path != folder]


def _write_copy(
    annotations: PackedAnnotations,
    paths: list[str],
    output: Path,
    categories: list[dict[str, Any]] | None = None,
    ids: dict[int, int] | None = None,
) -> None:
    content: dict[str, list[Any]] = {"images": [], "annotations": []}
    for place, path in enumerate(paths):
        image, of_image = annotations.records(place)
        content["images"].append({**image, "file_name": path})
        content["annotations"] += [
            {**a, "category_id": (ids or {}).get(a["category_id"], a["category_id"])} for a in of_image
        ]
    content["categories"] = categories or annotations.category_records
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(orjson.dumps(content))
    except OSError as error:
        raise UserError(f"--output {output.parent} cannot be written ({error.strerror}); name another.") from None
