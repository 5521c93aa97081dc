"""The rows of LVIS's tables at the size of EmojiLVIS: the same methods on a set that takes minutes.

A row keeps what its method is (loss and its keys, sampler, heads, what trains); data, network, weights to start from
and schedule are those of ``configs/EmojiLVIS/Base-benchmark.yaml``. Shares of LVIS's images become shares of the 800 of
EmojiLVIS's demo set, so that a threshold stands at as many images as there: rare and common classes end at 10 and 100
images in both.
"""

import math
from typing import Any

from detectron2.config import CfgNode

from eql_d2.data.category_counts import ONE_STAGE
from eql_d2.data.emoji_lvis import PRESETS
from eql_d2.engine import load_config
from eql_d2.errors import UserError
from eql_d2.losses.registry import method_of_predictor
from eql_d2.package_files import configs_folder
from eql_d2.reproduction.tables import Training

BASE = "EmojiLVIS/Base-benchmark.yaml"
SECOND_STAGE_BASE = "EmojiLVIS/Base-benchmark-second-stage.yaml"
PRETRAINING = Training("EmojiLVIS/pretrain.yaml", seed=1)

LVIS_IMAGES = {"lvis_v0.5_train": 56_740, "lvis_v1_train": 99_388}  # those with annotations
METHOD_KEYS = (
    "MODEL.ROI_HEADS.NAME",
    "MODEL.ROI_BOX_HEAD.PREDICTOR",
    "MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER",
    "MODEL.ROI_BOX_HEAD.TEMPERATURE",
    "MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER",
    "MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER_BIAS",
    "MODEL.ROI_BOX_CASCADE_HEAD.SCORE_AVERAGE",
    "MODEL.ROI_BOX_CASCADE_HEAD.STAGE_WEIGHTS",
    "MODEL.ROI_BOX_CASCADE_HEAD.FEATURE_GRADIENT",
    "MODEL.ROI_MASK_HEAD.NAME",
    "MODEL.ROI_MASK_HEAD.TEMPERATURE",
    "MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS",
    "DATALOADER.SAMPLER_TRAIN",
    "DATALOADER.CLASS_BALANCED_POWER",
    "SOLVER.TRAINABLE",
)
REPEAT_KEYS = tuple(f"DATALOADER.REPEAT_{key}" for key in ("FACTORS", "ALPHA", "SQRT", "ROUNDING"))


def emoji_training(training: Training, cfg: CfgNode) -> Training:
    """What a row's training is on EmojiLVIS.

    Args:
        training: of the row, or before it; one of EmojiLVIS stays as it is.
        cfg: its config.

    Raises:
        UserError: it has no counterpart.
    """
    if training.config.startswith("EmojiLVIS/"):
        return training
    if cfg.MODEL.META_ARCHITECTURE in ONE_STAGE:
        raise UserError("it has no counterpart on EmojiLVIS, as that scale is of Mask R-CNN.")
    if cfg.MODEL.LONG_TAIL.EQL.THRESHOLD != "step":
        raise UserError("it has no counterpart on EmojiLVIS, as its threshold function is made for LVIS's frequencies.")
    config = SECOND_STAGE_BASE if cfg.SOLVER.TRAINABLE else BASE
    base = load_config(str(configs_folder() / config))
    method = method_of_predictor(cfg.MODEL.ROI_BOX_HEAD.PREDICTOR)
    node = method.node if method and method.options else None
    of_node = [f"MODEL.LONG_TAIL.{node}.{key}" for key in cfg.MODEL.LONG_TAIL[node]] if node else []
    repeats = "RepeatFactor" in cfg.DATALOADER.SAMPLER_TRAIN
    of_stage = ("MODEL.WEIGHTS_EXCLUDE",) if training.first_stage else ()
    keys = (*METHOD_KEYS, *of_stage, *of_node, *(REPEAT_KEYS if repeats else ()))
    values = {key: value_of(cfg, key) for key in keys}
    num_images = LVIS_IMAGES.get(cfg.DATASETS.TRAIN[0])
    for key in [key for key in of_node if key.endswith(".LAMBDA")]:
        # On Open Images the number of images says nothing; EmojiLVIS keeps its own threshold.
        values[key] = _scaled_lambda(values[key], num_images) if num_images else value_of(base, key)
    for key in [key for key in of_node if key.endswith(".TAIL_INSTANCES")]:
        values[key] = value_of(base, key)  # a number of boxes of Open Images; by the share of images above
    if repeats and num_images:
        scale = num_images / PRESETS["demo"].num_train_images
        values["DATALOADER.REPEAT_THRESHOLD"] = round(min(cfg.DATALOADER.REPEAT_THRESHOLD * scale, 1.0), 4)
    changed = [(key, value) for key, value in values.items() if value != value_of(base, key)]
    overrides = tuple(str(part) for pair in changed for part in pair)
    return Training(config, overrides, training.first_stage or PRETRAINING)


def _scaled_lambda(lambda_: float, num_images: int) -> float:
    """The threshold of EmojiLVIS below which lie the classes of as many images as on LVIS, half an image above."""
    images = math.floor(lambda_ * num_images)
    return min((images + 0.5) / PRESETS["demo"].num_train_images, 1.0) if lambda_ else 0.0


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key."""
    node = cfg
    for part in key.split("."):
        node = node[part]
    return node
