"""Configs, and models by them, by their names below ``configs/``."""

import difflib
from typing import Any

import torch
from detectron2.config import CfgNode, LazyConfig, instantiate
from torch import nn

from eql_d2.engine import LongTailTrainer, load_config
from eql_d2.engine.checkpoint import AtomicCheckpointer
from eql_d2.engine.partial_training import describe_misfits
from eql_d2.errors import UserError
from eql_d2.package_files import configs_folder, shipped_config


def get_config_file(config_path: str) -> str:
    """The path of a config file.

    Args:
        config_path: name below ``configs/``, as ``EmojiLVIS/demo_eql.yaml``.

    Raises:
        UserError: there is none of that name; the nearest is named.
    """
    path = shipped_config(config_path)
    if path is None:
        folder = configs_folder()
        names = [str(file.relative_to(folder)) for ending in ("yaml", "py") for file in folder.rglob(f"*.{ending}")]
        nearest = difflib.get_close_matches(config_path.removeprefix("configs/"), names, n=1, cutoff=0)
        raise UserError(f"There is no config {config_path}; did you mean {nearest[0]}?")
    return str(path)


def get_config(config_path: str) -> CfgNode | Any:
    """A config: a node with this project's keys of a ``.yaml``, a lazy one (omegaconf) of a ``.py``.

    Args:
        config_path: as of :func:`get_config_file`.

    Raises:
        UserError: there is none of that name.
    """
    path = get_config_file(config_path)
    return LazyConfig.load(path) if path.endswith(".py") else load_config(path)


def get(config_path: str, weights: str | None = None, device: str | None = None) -> nn.Module:
    """Build the model of a config, in evaluation mode.

    Args:
        config_path: as of :func:`get_config_file`.
        weights: checkpoint; None leaves the model as it is initialized. This project hosts none.
        device: "cpu" or "cuda"; None is what the machine has.

    Raises:
        UserError: there is no such config, or the weights do not fit.
    """
    cfg = get_config(config_path)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(cfg, CfgNode):
        model = instantiate(cfg.model).to(device)
        if weights:
            checkpointer = AtomicCheckpointer(model)
            checkpointer.load(weights)
            if checkpointer.misfits:
                raise UserError(f"Weights {weights} do not fit the model: {describe_misfits(checkpointer.misfits)}.")
        return model.eval()
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = device, weights or ""
    model = LongTailTrainer.build_trained_model(cfg) if weights else LongTailTrainer.build_model(cfg)
    return model.eval()
