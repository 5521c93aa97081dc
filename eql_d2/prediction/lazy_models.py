"""Detectors of lazy configs for prediction: a lazy config is a program, so that its file has to be named."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, instantiate
from detectron2.data import transforms as T
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from omegaconf import DictConfig
from torch import nn

from eql_d2.config import get_eql_d2_config
from eql_d2.engine.lazy_config import engine_config, load_lazy_config
from eql_d2.engine.lazy_trainer import load_trained_lazily


def lazy_config_of(config_file: str, overrides: Sequence[str]) -> tuple[DictConfig, CfgNode]:
    """A lazy config, and what prediction asks a config of this project.

    Args:
        config_file: Python file, or the name of one of this project's.
        overrides: as ``train.device=cpu``; without it the device is this machine's.

    Raises:
        UserError: the file is missing, or an override does not fit.
    """
    lazy = load_lazy_config(config_file, list(overrides))
    if not any(override.startswith("train.device=") for override in overrides):
        lazy.train.device = get_eql_d2_config().MODEL.DEVICE  # what the run's machine had says nothing about this one
    cfg = engine_config(lazy)
    mapper = lazy.dataloader.test.mapper
    cfg.INPUT.FORMAT = str(mapper.image_format)
    for augmentation in mapper.augmentations:
        if "short_edge_length" in augmentation:
            cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = augmentation.short_edge_length, augmentation.max_size
    return lazy, cfg


def trained_lazy_model(lazy: DictConfig, cfg: CfgNode) -> tuple[nn.Module, list[Any]]:
    """A lazy config's model with the weights, classes and limits of a config, and its augmentations for prediction.

    Args:
        lazy: of :func:`lazy_config_of`.
        cfg: that beside it, with ``MODEL.WEIGHTS`` and the dataset of the classes.

    Raises:
        UserError: the weights are missing, broken, or of another model.
    """
    lazy.train.init_checkpoint = cfg.MODEL.WEIGHTS
    if cfg.DATASETS.TRAIN:
        lazy.dataloader.train.names = list(cfg.DATASETS.TRAIN)
    model = load_trained_lazily(lazy)
    for module in model.modules():
        if isinstance(module, FastRCNNOutputLayers):
            module.test_score_thresh = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
            module.test_topk_per_image = cfg.TEST.DETECTIONS_PER_IMAGE
    augmentations: list[T.Augmentation] = [instantiate(entry) for entry in lazy.dataloader.test.mapper.augmentations]
    return model, augmentations
