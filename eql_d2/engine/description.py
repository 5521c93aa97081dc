"""What a checkpoint says about itself, so that it can be used where neither its run nor its dataset is."""

import contextlib
import dataclasses
import pickle
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from eql_d2.data.category_counts import category_counts, num_classes_of_model
from eql_d2.data.registration import set_class_metadata
from eql_d2.errors import UserError
from eql_d2.long_tail import CategoryCounts, read_count_file
from eql_d2.plain_files import load_checkpoint

KEYS = ("config", "classes", "lazy_config")


def describe_run(cfg: CfgNode) -> dict[str, Any]:
    """The entries that a run adds to its checkpoints; Detectron2 ignores them.

    Args:
        cfg: full config, whose datasets are registered.

    Returns:
        ``config`` (the full config as YAML) and ``classes`` (see :func:`class_records`), of plain types that
        ``torch.load`` accepts without running code.
    """
    description = {"config": cfg.dump()}
    with contextlib.suppress(UserError):  # a dataset without class names can be trained on all the same
        description["classes"] = class_records(cfg)
    return description


def class_records(cfg: CfgNode) -> dict[str, Any]:
    """The classes that a config's model tells apart, in the order of its outputs.

    Names and ids are those of the first dataset of ``DATASETS.TRAIN``; where there is none or its files are
    missing, those of ``MODEL.LONG_TAIL.CATEGORY_COUNTS``, else of ``DATASETS.TEST``.

    Returns:
        The form of a count file: ``{"num_images": N, "categories": [{"id", "name", "image_count",
        "instance_count", "frequency"}]}``; without counts (``num_images`` None, ids and names only) where
        the training data is not in the LVIS format.

    Raises:
        UserError: nothing that the config names knows the classes, or their number is another.
    """
    ids, names = _ids_and_names(cfg)
    key, num_classes = num_classes_of_model(cfg)
    if len(names) != num_classes:
        raise UserError(
            f"{key} is {num_classes}, but the config's dataset or count file names {len(names)} classes; set it to "
            f"{len(names)}."
        )
    try:
        counts = category_counts(cfg)
    except UserError:
        pairs = zip(ids, names, strict=True)
        return {"num_images": None, "categories": [{"id": i, "name": name} for i, name in pairs]}
    return dataclasses.replace(counts, category_ids=ids, names=names).to_records()


def _ids_and_names(cfg: CfgNode) -> tuple[tuple[int, ...], tuple[str, ...]]:
    count_file = cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS
    datasets: Sequence[str] = cfg.DATASETS.TRAIN or (() if count_file else cfg.DATASETS.TEST)
    if not (datasets or count_file):
        raise UserError(
            "The config names no classes; set DATASETS.TEST to a registered dataset or "
            "MODEL.LONG_TAIL.CATEGORY_COUNTS to a JSON file."
        )
    try:
        if datasets:
            set_class_metadata(datasets[0])
    except UserError:
        if not count_file:
            raise
    metadata = MetadataCatalog.get(datasets[0]) if datasets else None
    if metadata and metadata.get("thing_classes"):
        names = tuple(metadata.thing_classes)
        to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id") or {i: i for i in range(len(names))}
        return tuple(sorted(to_contiguous, key=to_contiguous.__getitem__)), names
    if not count_file:
        raise UserError(
            f"Dataset {datasets[0]!r} has no class names; set MODEL.LONG_TAIL.CATEGORY_COUNTS to a JSON file."
        )
    counts = read_count_file(count_file)
    return counts.category_ids, counts.names


def read_description(path: str) -> dict[str, Any]:
    """Read what :func:`describe_run` put into a checkpoint, without reading its tensors.

    Args:
        path: local file, or a URL that Detectron2 can fetch.

    Returns:
        The entries that are there; none for checkpoints from elsewhere.

    Raises:
        UserError: the file is missing or truncated.
    """
    try:
        local = PathManager.get_local_path(path)
        if str(local).endswith((".pkl", ".pyth", ".safetensors")):
            return {}
        content = load_checkpoint(local, mmap=True)
    except pickle.UnpicklingError:  # no checkpoint at all; loading the weights will tell
        return {}
    except OSError as error:
        raise UserError(f"Weights {path} cannot be read ({error.strerror or error}); check the path.") from None
    except Exception as error:  # whatever unpickling raises over a broken file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"Weights {path} are truncated or no checkpoint of PyTorch ({reason}).") from None
    if not isinstance(content, dict):
        return {}
    found = {key: content[key] for key in KEYS if key in content}
    if not isinstance(found.get("config", ""), str):
        raise UserError(f"Weights {path} hold a config that is no text; give one with --config-file.")
    if "classes" in found:
        _check_class_records(found["classes"], path)
    return found


def _check_class_records(records: Any, path: str) -> None:
    """Make sure that the classes of a checkpoint have the form of :func:`class_records`."""
    categories = records.get("categories") if isinstance(records, dict) else None
    if not isinstance(categories, list) or not all(isinstance(record, dict) for record in categories):
        categories = []
    names = [(record.get("id"), record.get("name")) for record in categories]
    if not names or not all(isinstance(i, int) and isinstance(name, str) for i, name in names):
        raise UserError(f"Weights {path} hold classes of another form than this project's, without ids and names.")
    num_images = records.get("num_images")
    if num_images is None:
        return
    counts = [record.get(key) for record in categories for key in ("image_count", "instance_count")]
    if not all(isinstance(count, int) and count >= 0 for count in (num_images, *counts)):
        raise UserError(f"Weights {path} hold classes whose image_count or instance_count is no number.")


def register_classes(name: str, records: dict[str, Any]) -> None:
    """Register a dataset that has no images, only the classes of a checkpoint; one of the same name is replaced.

    Args:
        name: name for ``DATASETS.TRAIN``.
        records: see :func:`class_records`; with counts.
    """
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)
    counts = CategoryCounts.from_records(records)
    MetadataCatalog.get(name).set(category_counts=counts, thing_classes=list(counts.names))
