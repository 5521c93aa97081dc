"""Detectron2's config with every key that this project adds; each key's default and meaning stand in its room.

docs/config.md lists them all.
"""

from detectron2.config import CfgNode, get_cfg

from eql_d2.classification.config import add_classification_config
from eql_d2.data.config import add_data_config
from eql_d2.engine.config import add_engine_config
from eql_d2.evaluation.config import add_evaluation_config
from eql_d2.modeling.config import add_modeling_config


def add_eql_d2_config(cfg: CfgNode) -> None:
    """Add this project's keys to a Detectron2 config, in place."""
    add_modeling_config(cfg)  # first: it makes the node MODEL.LONG_TAIL
    add_data_config(cfg)
    add_engine_config(cfg)
    add_evaluation_config(cfg)
    add_classification_config(cfg)


def get_eql_d2_config() -> CfgNode:
    """Detectron2's default config with this project's keys added."""
    cfg = get_cfg()
    add_eql_d2_config(cfg)
    return cfg
