"""Evaluation by the rules of LVIS and of Open Images."""

from eql_d2.evaluation.lvis_evaluator import LVISEvaluator
from eql_d2.evaluation.open_images.open_images_evaluator import OpenImagesEvaluator

__all__ = ["LVISEvaluator", "OpenImagesEvaluator"]
