"""Training and evaluation through Detectron2's engine."""

from eql_d2.engine.launch import launch
from eql_d2.engine.setup import load_config, setup
from eql_d2.engine.trainer import LongTailTrainer

__all__ = ["LongTailTrainer", "launch", "load_config", "setup"]
