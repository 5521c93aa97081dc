"""Annotation folders of tools that do not write COCO's format, converted by the package supervision.

CVAT, Label Studio, Roboflow and VGG Image Annotator export COCO's format themselves; CVAT's own XML and VIA's own JSON
are read here (see :mod:`eql_d2.data.new_project.native_forms`). YOLO-format folders (also Ultralytics', Roboflow's and
Label Studio's), LabelMe's files and Pascal VOC's XML are converted here.
"""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from eql_d2.data.new_project.native_forms import cvat_as_coco, is_cvat, is_via, via_as_coco
from eql_d2.errors import UserError
from eql_d2.plain_files import read_yaml

_COCO_NAMES = ("_annotations.coco.json", "instances_default.json", "result.json", "annotations.json")


def coco_file(annotations: Path, images: Path | None, output: Path) -> tuple[Path, Path | None]:
    """The annotation file that a path is or becomes, and the folder of its images.

    Args:
        annotations: a JSON file in the COCO or LVIS format, or of VIA's own; CVAT's own XML; or a folder that holds one
            of these, COCO's under a name that tools give it (Roboflow's, CVAT's, Label Studio's), a YOLO ``data.yaml``
            with ``labels``, LabelMe's JSON files, or XML of Pascal VOC.
        images: folder of the images; None where the annotations lie beside them, as each form has it.
        output: JSON file to write a conversion to.

    Raises:
        UserError: the path does not exist or is of no known form, or supervision is not installed.
    """
    if not annotations.exists():
        raise UserError(f"--annotations {annotations} does not exist; name a file or folder of annotations.")
    native = _native_file(annotations)
    if native is not None:
        image_folder = images or _beside(native.parent)
        _write_native(native, image_folder, output)
        return output, image_folder
    if annotations.is_file() and annotations.suffix != ".yaml":
        return annotations, images
    folder = annotations if annotations.is_dir() else annotations.parent
    named = [path for name in _COCO_NAMES for path in (folder / name, folder / "annotations" / name) if path.is_file()]
    if named and annotations.is_dir():
        return named[0], images or _beside(named[0].parent, folder)
    read = _reader_of(annotations, folder, images)
    if read is None:
        raise UserError(
            f"--annotations {annotations} is a folder without a COCO JSON file, a YOLO data.yaml, LabelMe's or VIA's "
            "JSON files or XML of CVAT or Pascal VOC; export COCO's format and name its file."
        )
    try:
        import supervision
    except ImportError:
        raise UserError(
            f"{annotations} is in the form of {read[0]}, which the package supervision converts: pip install "
            "'eql_d2[convert]', or export COCO's format and name its file."
        ) from None
    title, image_folder, make = read
    try:
        dataset = make(supervision.DetectionDataset)
        output.parent.mkdir(parents=True, exist_ok=True)
        dataset.as_coco(annotations_path=str(output))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{annotations} cannot be converted from the form of {title} ({error}).") from None
    _mend_conversion(output, dataset.image_paths, image_folder)
    return output, image_folder


def _native_file(annotations: Path) -> Path | None:
    """The file of CVAT's or VIA's own form that a path is, or that lies in the folder; None where there is none."""
    looked_at = [annotations] if annotations.is_file() else sorted(annotations.glob("*.xml"))[:1]
    if annotations.is_dir():
        looked_at += sorted(annotations.glob("*.json"))[:5]
    for path in looked_at:
        if (path.suffix == ".xml" and is_cvat(path)) or (path.suffix == ".json" and is_via(path)):
            return path
    return None


def _write_native(path: Path, images: Path, output: Path) -> None:
    title = "CVAT" if path.suffix == ".xml" else "VIA"
    try:
        content = cvat_as_coco(path) if title == "CVAT" else via_as_coco(path, images)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(content))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ElementTree.ParseError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{path} cannot be converted from the form of {title} ({said}).") from None


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
    for folder in folders:
        if (folder / "images").is_dir():
            return folder / "images"
    return folders[0]


def _reader_of(annotations: Path, folder: Path, images: Path | None) -> tuple[str, Path, Callable[[Any], Any]] | None:
    """The title of a form, the folder of its images, and what reads it with supervision's class of datasets."""
    data = annotations if annotations.suffix == ".yaml" else next(iter(sorted(folder.glob("*.yaml"))), None)
    if data is not None and _is_yolo(data):
        image_folder = images or _yolo_images(data)
        labels = Path(*("labels" if part == "images" else part for part in image_folder.parts))
        if labels == image_folder or not labels.is_dir():
            labels = folder / "labels"
        return "YOLO", image_folder, lambda c: c.from_yolo(str(image_folder), str(labels), str(data))
    image_folder = images or _beside(folder)
    if any(_is_labelme(path) for path in sorted(folder.glob("*.json"))[:5]):
        return "LabelMe", image_folder, lambda c: c.from_labelme(str(image_folder), str(folder))
    if any(folder.glob("*.xml")):
        return "Pascal VOC", image_folder, lambda c: c.from_pascal_voc(str(image_folder), str(folder))
    return None


def _is_yolo(path: Path) -> bool:
    try:
        content = read_yaml(path.read_text(), f"YOLO file {path}")
    except (OSError, UserError, UnicodeDecodeError):
        return False
    return isinstance(content, dict) and "names" in content


def _yolo_images(data: Path) -> Path:
    """The folder that ``train`` of a data.yaml names, as Ultralytics looks for it, else one of the usual names."""
    content = read_yaml(data.read_text(), f"YOLO file {data}")
    named = [Path(str(content.get("path", ""))) / str(content["train"])] if content.get("train") else []
    tried = [*named, *map(Path, ("images/train", "train/images", "images"))]
    for path in tried:
        for base in (data.parent, data.parent.parent):
            if (base / path).is_dir():
                return base / path
    raise UserError(f"YOLO file {data} names no folder of images that is there; name it with --images.")


def _is_labelme(path: Path) -> bool:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "shapes" in content
