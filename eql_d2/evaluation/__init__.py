"""Evaluation by the rules of LVIS and of Open Images."""

from eql_d2.evaluation.lvis_evaluation import LVISEvaluator
from eql_d2.evaluation.open_images_evaluation import OpenImagesEvaluator

__all__ = ["LVISEvaluator", "OpenImagesEvaluator"]
