"""A trained detector for single images, built from a checkpoint alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from detectron2.structures import Instances
from detectron2.utils.file_io import PathManager

import eql_d2.modeling  # noqa: F401  (registers the ROI heads)
from eql_d2.config import get_eql_d2_config
from eql_d2.data.checks.split_findings import first_difference
from eql_d2.data.registration import register_datasets
from eql_d2.engine.auto_values import resolve_auto_values
from eql_d2.engine.config_files import load_config, parse_config
from eql_d2.engine.description import class_records, read_description, register_classes
from eql_d2.engine.gpu_memory import IN_TESTING, lack_of_memory_told
from eql_d2.engine.own_modules import import_modules
from eql_d2.engine.setup import check_device
from eql_d2.engine.trainer import LongTailTrainer
from eql_d2.errors import UserError
from eql_d2.evaluation.results.mask_encoding import instances_to_results
from eql_d2.modeling.roi_masks import keep_roi_masks
from eql_d2.prediction.lazy_models import lazy_config_of, trained_lazy_model


class Predictor:
    """Detects objects in one image at a time, as evaluation does with a batch of one.

    Args:
        weights: checkpoint; local file, or a URL that Detectron2 can fetch.
        config_file: config of the checkpoint's training; empty takes the checkpoint's own, or ``config.yaml``
            beside it. Weights of a lazy config need its Python file.
        overrides: alternating keys and values that change the config.
        score_threshold: detections with this score or less are left out, in [0, 1); overrides
            ``MODEL.ROI_HEADS.SCORE_THRESH_TEST``, and None does not.
        max_detections: most detections of an image; None is ``TEST.DETECTIONS_PER_IMAGE``.
        imports: Python modules that the checkpoint's own config may ask to import (``ENGINE.IMPORT``); one that it
            asks for and that is not named here is refused, as importing runs code.

    Attributes:
        cfg: the config in use.
        categories: K dicts with ``id``, ``name`` and, where known, counts and ``frequency``, in the order of
            the model's classes.
        model: the detector, in evaluation mode.

    Raises:
        UserError: the weights are missing or do not fit, there is no config, or an argument is out of range.
    """

    def __init__(
        self,
        weights: str | Path,
        config_file: str = "",
        overrides: Sequence[str] = (),
        *,
        score_threshold: float | None = 0.3,
        max_detections: int | None = None,
        imports: Sequence[str] = (),
    ) -> None:
        weights = str(weights)
        if score_threshold is not None and not 0 <= score_threshold < 1:
            raise UserError(f"The score threshold is {score_threshold}; it must be at least 0 and less than 1.")
        if max_detections is not None and max_detections < 1:
            raise UserError(f"The largest number of detections is {max_detections}; it must be at least 1.")
        description = read_description(weights)
        lazy = None
        if config_file.endswith(".py"):
            lazy, self.cfg = lazy_config_of(config_file, overrides)
        else:
            self.cfg = _find_config(weights, config_file, list(overrides), description)
        self.cfg.MODEL.WEIGHTS = weights
        if score_threshold is not None:
            for node in (self.cfg.MODEL.ROI_HEADS, self.cfg.MODEL.RETINANET):
                node.SCORE_THRESH_TEST = score_threshold
        if max_detections is not None:
            self.cfg.TEST.DETECTIONS_PER_IMAGE = max_detections
        if self.cfg.INPUT.FORMAT not in ("BGR", "RGB"):
            raise UserError(f"INPUT.FORMAT is {self.cfg.INPUT.FORMAT!r}; only BGR and RGB can be predicted on.")
        self.cfg.SOLVER.AMP.ENABLED = False  # of training alone; a CPU would be refused with it
        check_device(self.cfg)
        if not config_file:
            _check_imports(self.cfg, weights, (*imports, *_overridden_imports(overrides)))
        import_modules(self.cfg.ENGINE.IMPORT)
        self.categories = self._find_classes(description.get("classes"))
        self.cfg.freeze()
        if lazy is None:
            self.model = LongTailTrainer.build_trained_model(self.cfg).eval()
            augmentations = build_augmentation(self.cfg, is_train=False)
        else:
            model, augmentations = trained_lazy_model(lazy, self.cfg)
            self.model = model.eval()
        self._model_with_roi_masks = keep_roi_masks(self.model)
        self._resize = T.AugmentationList(augmentations)

    def _find_classes(self, records: dict[str, Any] | None) -> list[dict[str, Any]]:
        """The checkpoint's classes, or those of the config's datasets.

        Losses that need category counts get them from the checkpoint too, so that no dataset is needed.
        """
        if records is None:
            register_datasets(self.cfg)
            resolve_auto_values(self.cfg)
            return class_records(self.cfg)["categories"]
        if records["num_images"] is not None:
            name = f"classes of {self.cfg.MODEL.WEIGHTS}"
            register_classes(name, records)
            self.cfg.DATASETS.TRAIN, self.cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS = (name,), ""
            resolve_auto_values(self.cfg)
        return records["categories"]

    def take_category_ids(self, records: Sequence[dict[str, Any]], source: str) -> None:
        """Give the classes the ids of an annotation file, whose classes have to be the same.

        Args:
            records: category records of the file, in ascending order of ids.
            source: the file, for messages.

        Raises:
            UserError: the classes are others, or in another order.
        """
        names = [category["name"] for category in self.categories]
        difference = first_difference(names, {}, [record["name"] for record in records], {})
        if difference:
            number, in_weights, in_file = difference
            raise UserError(
                f"The classes of {self.cfg.MODEL.WEIGHTS} ({len(names)}) are not those of --annotations {source} "
                f"({len(records)}): class {number} is {in_weights} in the weights and {in_file} in the file; leave out "
                "--annotations, or give a file of the same categories."
            )
        self.categories = [
            {**category, "id": record["id"]} for category, record in zip(self.categories, records, strict=True)
        ]

    @torch.no_grad()
    def __call__(self, image: np.ndarray, roi_masks: bool = False) -> Instances:
        """Detect objects.

        Args:
            image: (H, W, 3) uint8, RGB.
            roi_masks: leave ``pred_masks`` as they come from the mask head, which is all that :meth:`to_records` needs.

        Returns:
            On the CPU, in the size of the image: ``pred_boxes``, ``scores``, ``pred_classes`` (0 … K-1) and,
            from models with masks, ``pred_masks`` (N, H, W) or :class:`ROIMasks`, best
            score first.

        Raises:
            UserError: the image is so narrow that nothing is left of it after resizing, or too much for the GPU.
        """
        height, width = image.shape[:2]
        resize_input = T.AugInput(image[:, :, ::-1] if self.cfg.INPUT.FORMAT == "BGR" else image)
        try:
            self._resize(resize_input)
        except (ValueError, RuntimeError):  # from the library that resizes to a height or width of 0
            raise UserError(f"An image of {width} x {height} pixels is too narrow for the detector.") from None
        pixels = torch.as_tensor(np.ascontiguousarray(resize_input.image.transpose(2, 0, 1)))
        model = self._model_with_roi_masks if roi_masks else self.model
        with lack_of_memory_told(f"an image of {width} x {height} pixels", IN_TESTING):
            return model([{"image": pixels, "height": height, "width": width}])[0]["instances"].to("cpu")

    def to_records(self, instances: Instances, image_id: int) -> list[dict[str, Any]]:
        """Detections of an image as records of the LVIS result format, with the dataset's category ids.

        Args:
            instances: what calling the predictor returned.
            image_id: for the key of that name.

        Returns:
            Dicts with ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in pixels), ``score`` and,
            from models with masks, ``segmentation`` (compressed run lengths).
        """
        records = instances_to_results(instances, image_id)
        for record in records:
            record["category_id"] = self.categories[record["category_id"]]["id"]
        return records


def _find_config(weights: str, config_file: str, overrides: list[str], description: dict[str, Any]) -> CfgNode:
    if config_file:
        return load_config(config_file, overrides)
    if "lazy_config" in description:
        raise UserError(
            f"Weights {weights} are of a lazy config, which is a program and not in them; give its Python file with "
            "--config-file."
        )
    # What the run's machine had says nothing about this one.
    overrides = ["MODEL.DEVICE", get_eql_d2_config().MODEL.DEVICE, *overrides]
    if "config" in description:
        return parse_config(description["config"], f"The config in {weights}", overrides)
    beside = Path(PathManager.get_local_path(weights)).with_name("config.yaml")
    if beside.is_file():
        return parse_config(beside.read_text(), str(beside), overrides)
    raise UserError(
        f"Weights {weights} hold no config, and there is no {beside}; give the config of their training with "
        "--config-file."
    )


def _check_imports(cfg: CfgNode, weights: str, allowed: Sequence[str]) -> None:
    """Refuse to import what only the config of a checkpoint asks for."""
    asked = [name for name in cfg.ENGINE.IMPORT if name not in allowed]
    if asked:
        raise UserError(
            f"Weights {weights} ask to import {', '.join(map(str, asked))}, which runs code; if you know it and trust "
            f"it, add {' '.join(f'--import {name}' for name in asked)}."
        )


def _overridden_imports(overrides: Sequence[str]) -> Sequence[str]:
    """The modules that the user's own overrides name."""
    cfg = load_config("", [text for pair in _pairs(overrides) if pair[0] == "ENGINE.IMPORT" for text in pair])
    return cfg.ENGINE.IMPORT


def _pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(overrides[::2], overrides[1::2], strict=False))
