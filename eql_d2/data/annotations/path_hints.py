"""What to say of an image that is not where its path leads: where something like it was found."""

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

_MOST_FOLDERS_TRIED = 100
_MOST_FILES_LISTED = 200_000
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{6,12}-")  # Label Studio's, before the name that was uploaded


def path_hint(path: str, image_root: Path) -> str:
    """The end of a sentence that says what was found where; empty if nothing.

    Args:
        path: what leads nowhere, as the annotation file has it.
        image_root: folder of the images.
    """
    if "\0" in path:
        return ""
    other = _folder_that_has(path, image_root)
    if other is not None:
        return f", but it is in {other}"
    for candidate, advice in _spellings_there(path, image_root):
        return f", but {candidate} is there: {advice}"
    found = _same_base_name(path, image_root)
    if len(found) == 1:
        return f", but {found[0]} is there, the only one of that name below it: correct file_name"
    if found:
        return f", but {len(found)} files of that name lie below it, {found[0]} and {found[1]} among them"
    return ""


def other_spelling(path: str, image_root: Path) -> str | None:
    """The path of a file that is meant by one that leads nowhere: another spelling of it; None where there is none.

    Args:
        path: as the annotation file has it.
        image_root: folder of the images.
    """
    return next((found for found, _ in _spellings_there(path, image_root)), None)


def _spellings_there(path: str, image_root: Path) -> Iterator[tuple[str, str]]:
    """The other spellings of a path that lead to a file, each with what to do."""
    for candidate, advice in _other_spellings(path):
        if not os.path.isabs(candidate) and ".." not in candidate and (image_root / candidate).is_file():
            yield candidate, advice


def _other_spellings(path: str) -> Iterator[tuple[str, str]]:
    """Spellings of a path, each with what to do if it leads to a file."""
    slashes = path.replace("\\", "/")
    if path.strip() != path:
        yield path.strip(), "leave out the spaces around file_name"
    if slashes != path:
        yield slashes, "write file_name with / instead of \\"
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, slashes)
        if other != slashes:
            yield other, f"write file_name in the Unicode form {form}, as the folder has it"
    if "%" in slashes:
        yield unquote(slashes), "write file_name without the %-codes of URLs"
    parts = [part for part in slashes.split("/") if part not in ("", ".", "..")]
    for start in range(1 if len(parts) == len(slashes.split("/")) else 0, len(parts)):
        yield "/".join(parts[start:]), "leave out what stands before it in file_name"
    if parts:
        without = _UPLOAD_PREFIX.sub("", parts[-1])
        if without != parts[-1]:
            yield without, "leave out the prefix of the upload in file_name"


def _same_base_name(path: str, image_root: Path) -> list[str]:
    """Files of the same name below the folder, whatever the case of letters and the Unicode form; not all of many."""
    wanted = _plain(path.replace("\\", "/").rsplit("/", 1)[-1])
    without_suffix = wanted if "." not in wanted else None
    found, listed = [], 0
    for folder, folders, names in os.walk(image_root):
        folders.sort()
        listed += len(names)
        for name in names:
            plain = _plain(name)
            if plain == wanted or (without_suffix and plain.rsplit(".", 1)[0] == without_suffix):
                found.append(os.path.relpath(os.path.join(folder, name), image_root))
        if listed > _MOST_FILES_LISTED or len(found) > 1:
            break
    return sorted(found)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).lower()


def _folder_that_has(path: str, image_root: Path) -> Path | None:
    """Another folder for ``image_root``, one level up or down, in which the path leads to a file."""
    if os.path.isabs(path) or path.startswith(".."):
        return None
    try:
        with os.scandir(image_root) as entries:
            below = [Path(entry) for _, entry in zip(range(_MOST_FOLDERS_TRIED), entries, strict=False)]
    except OSError:
        return None
    tried = (image_root.parent, *sorted(below))
    return next((folder for folder in tried if (folder / path).is_file()), None)
