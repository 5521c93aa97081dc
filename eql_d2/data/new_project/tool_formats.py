"""Annotation folders of tools that do not write COCO's format, converted by the package supervision.

CVAT, Label Studio, Roboflow and VGG Image Annotator export COCO's format themselves; CVAT's own XML and the own JSON of
VIA and Label Studio are read (see :mod:`eql_d2.data.new_project.native_forms` and :mod:`.label_studio`). YOLO-format
folders (also Ultralytics', Roboflow's, Label Studio's and CVAT's), LabelMe's files, Pascal VOC's XML and Create ML's
JSON are converted here.
"""

import contextlib
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from eql_d2.data.new_project.label_studio import is_label_studio, label_studio_as_coco
from eql_d2.data.new_project.native_forms import cvat_as_coco, is_cvat, is_via, via_as_coco
from eql_d2.data.new_project.yolo_folders import (
    as_data_yaml,
    yolo_images,
    yolo_labels,
    yolo_names_file,
    yolo_validation,
)
from eql_d2.errors import UserError

logger = logging.getLogger(__name__)

_COCO_NAMES = ("_annotations.coco.json", "instances_default.json", "result.json", "annotations.json")
_TRAIN, _VAL = "train", ("valid", "val")  # folders of Roboflow's exports
_NO_JSON = {
    ".csv": "a table, which no tool writes alike; export COCO's format, as VIA and Roboflow do",
    ".xml": "not CVAT's; name the folder, if it is one of Pascal VOC's files",
}
_VOC_FOLDERS = ("Annotations", "annotations")
_IMAGE_FOLDERS = ("images", "JPEGImages")
_MALFORMED = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ElementTree.ParseError)
_MOST_TRIED = 2000  # files, to find the one that cannot be converted


@dataclass(frozen=True)
class _Form:
    """A form that supervision reads.

    Attributes:
        title: its name.
        images: folder of the images.
        make: gives the dataset from supervision's class and the annotations, a folder or a file.
        files: pattern of the annotation files in the folder; empty where errors name the file already.
    """

    title: str
    images: Path
    make: Callable[[Any, Path], Any]
    files: str = ""


def coco_file(annotations: Path, images: Path | None, output: Path) -> tuple[Path, Path | None]:
    """The annotation file that a path is or becomes, and the folder of its images.

    Args:
        annotations: a JSON file in the COCO or LVIS format, or of VIA's, Label Studio's or Create ML's own; CVAT's own
            XML; or a folder that holds one of these, COCO's under a name that tools give it (Roboflow's, CVAT's, Label
            Studio's) or as its only JSON file, a YOLO ``data.yaml`` or ``classes.txt`` with labels, LabelMe's JSON
            files, or XML of Pascal VOC.
        images: folder of the images; None where the annotations lie beside them, as each form has it.
        output: JSON file to write a conversion to.

    Raises:
        UserError: the path does not exist or is of no known form, or supervision is not installed.
    """
    if not annotations.exists():
        raise UserError(f"--annotations {annotations} does not exist; name a file or folder of annotations.")
    native = _native_file(annotations)
    if native is None and annotations.suffix.lower() in _NO_JSON:
        raise UserError(f"--annotations {annotations} is {_NO_JSON[annotations.suffix.lower()]}.")
    if native is not None:
        image_folder = images or _beside(native.parent)
        _write_native(native, image_folder, output)
        return output, image_folder
    named = _coco_in(annotations)
    form = None if named else _form_of(annotations, images, output)
    if form is None and annotations.is_file():
        return annotations, images
    named = named or (_only_coco_in(annotations) if form is None else None)
    if named is not None:
        return named, images or _beside(named.parent, annotations)
    if form is None:
        raise UserError(
            f"--annotations {annotations} is a folder without a COCO JSON file, a YOLO data.yaml, LabelMe's or VIA's "
            "JSON files or XML of CVAT or Pascal VOC; export COCO's format and name its file."
        )
    try:
        import supervision
    except ImportError:
        raise UserError(
            f"{annotations} is in the form of {form.title}, which the package supervision converts: pip install "
            "'eql_d2[convert]', or export COCO's format and name its file."
        ) from None
    reader = supervision.DetectionDataset
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            dataset = form.make(reader, annotations)
            output.parent.mkdir(parents=True, exist_ok=True)
            dataset.as_coco(annotations_path=str(output))
    except _MALFORMED as error:
        where = _faulty_file(form, reader, annotations) or annotations
        raise UserError(f"{where} cannot be converted from the form of {form.title} ({_said(error)}).") from None
    for sentence in dict.fromkeys(str(warning.message) for warning in told if warning.category is UserWarning):
        logger.warning("%s: %s", annotations, sentence)
    _mend_conversion(output, dataset.image_paths, form.images)
    return output, form.images


def own_validation(annotations: Path) -> tuple[Path, Path | None] | None:
    """What an export has to validate on beside what it has to train on, as :func:`coco_file` takes it; None without."""
    if annotations.is_dir():
        if any((annotations / name).is_file() for name in _COCO_NAMES):
            return None
        parts = {part: _coco_in(annotations / part) for part in (_TRAIN, *_VAL)}
        files = [path for part, path in parts.items() if path is not None and path.parent.name == part]
        if len(files) > 1 and files[0].parent.name == _TRAIN:
            return files[1], None
    names = yolo_names_file(annotations)
    validation = names and yolo_validation(names)
    return (annotations, validation) if validation else None


def _coco_in(folder: Path) -> Path | None:
    """The file of COCO's format of a folder, under a name that tools give it; None where there is none."""
    places = (folder, folder / "annotations", folder / _TRAIN)
    return next((place / name for name in _COCO_NAMES for place in places if (place / name).is_file()), None)


def _only_coco_in(folder: Path) -> Path | None:
    """The only file of COCO's format of a folder, whatever its name; None where there is none.

    Raises:
        UserError: there are several.
    """
    places = (folder, folder / "annotations")
    others = [path for place in places for path in sorted(place.glob("*.json")) if _looks_like_coco(path)]
    if len(others) > 1:
        names = ", ".join(path.name for path in others[:4])
        raise UserError(f"--annotations {folder} holds several COCO files ({names}); name one, and another with --val.")
    return others[0] if others else None


def _looks_like_coco(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(1 << 20)
    return head.lstrip()[:1] == b"{" and any(key in head for key in (b'"annotations"', b'"images"'))


def _said(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def _faulty_file(form: _Form, reader: Any, annotations: Path) -> Path | None:
    """The first annotation file of a folder that cannot be converted by itself."""
    folder = annotations if annotations.is_dir() else annotations.parent
    for path in sorted(folder.glob(form.files))[:_MOST_TRIED] if form.files else ():
        with tempfile.TemporaryDirectory() as alone:
            shutil.copy(path, alone)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    form.make(reader, Path(alone))
            except _MALFORMED:
                return path
    return None


def _native_file(annotations: Path) -> Path | None:
    """The file of a tool's own form that a path is, or that lies in the folder; None where there is none."""
    looked_at = [annotations] if annotations.is_file() else sorted(annotations.glob("*.xml"))[:1]
    if annotations.is_dir():
        looked_at += sorted(annotations.glob("*.json"))[:5]
    return next((path for path in looked_at if _native_title(path)), None)


def _native_title(path: Path) -> str | None:
    if path.suffix == ".xml":
        return "CVAT" if is_cvat(path) else None
    if path.suffix != ".json":
        return None
    return "VIA" if is_via(path) else "Label Studio" if is_label_studio(path) else None


def _write_native(path: Path, images: Path, output: Path) -> None:
    title = _native_title(path)
    try:
        if title == "CVAT":
            content = cvat_as_coco(path)
        else:
            content = (via_as_coco if title == "VIA" else label_studio_as_coco)(path, images)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(content))
    except _MALFORMED as error:
        raise UserError(f"{path} cannot be converted from the form of {title} ({_said(error)}).") from None


def _mend_conversion(path: Path, image_paths: list[str], image_folder: Path) -> None:
    """Undo what supervision writes of its own accord.

    The last part of an image's path alone; and ``iscrowd`` 1 for objects of several parts or with holes, which would
    train nothing: none of the forms that it reads here has crowds.
    """
    content = json.loads(path.read_text())
    by_name = {Path(image).name: Path(image) for image in image_paths}
    for image in content["images"]:
        with contextlib.suppress(KeyError, ValueError):
            image["file_name"] = by_name[image["file_name"]].relative_to(image_folder).as_posix()
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 0
    path.write_text(json.dumps(content))


def _beside(*folders: Path) -> Path:
    """The folder of the images beside a file, as exports have it."""
    named = (folder / name for folder in folders for name in _IMAGE_FOLDERS)
    return next((path for path in named if path.is_dir()), folders[0])


def _form_of(annotations: Path, images: Path | None, output: Path) -> _Form | None:
    """The form of a folder or file that supervision reads; None for another."""
    folder = annotations if annotations.is_dir() else annotations.parent
    if annotations.suffix == ".json" and annotations.is_file():
        if not _is_createml(annotations):
            return None
        image_folder = images or _beside(folder)
        return _Form("Create ML", image_folder, lambda c, path: c.from_createml(str(image_folder), str(path)))
    names = yolo_names_file(annotations)
    if names is not None:
        image_folder = images or yolo_images(names)
        labels = yolo_labels(image_folder, folder)
        data = as_data_yaml(names, output.with_name("yolo_names.yaml"))
        return _Form("YOLO", image_folder, lambda c, path: c.from_yolo(str(image_folder), str(labels), str(data)))
    if annotations.is_file():
        return None
    image_folder = images or _beside(folder, *([folder.parent] if folder.name in _VOC_FOLDERS else []))
    if any(_is_labelme(path) for path in sorted(folder.glob("*.json"))[:5]):
        return _Form("LabelMe", image_folder, lambda c, path: c.from_labelme(str(image_folder), str(path)), "*.json")
    voc = next((name for name in ("", *_VOC_FOLDERS) if any((folder / name).glob("*.xml"))), None)
    if voc is None:
        return None

    def make(reader: Any, path: Path) -> Any:
        return reader.from_pascal_voc(str(image_folder), str(path / voc if path == folder else path))

    return _Form("Pascal VOC", image_folder, make, f"{voc}/*.xml".lstrip("/"))


def _is_labelme(path: Path) -> bool:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "shapes" in content


def _is_createml(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    return head.lstrip()[:1] == b"[" and b'"coordinates"' in head and b'"annotations"' in head
