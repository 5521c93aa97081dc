"""Training and evaluation through Detectron2's engine."""

from detectron2.engine import default_argument_parser

from eql_d2.engine.command_line import run_tool
from eql_d2.engine.config_files import load_config
from eql_d2.engine.launch import launch, leave
from eql_d2.engine.setup import setup
from eql_d2.engine.trainer import LongTailTrainer

__all__ = ["LongTailTrainer", "default_argument_parser", "launch", "leave", "load_config", "run_tool", "setup"]
