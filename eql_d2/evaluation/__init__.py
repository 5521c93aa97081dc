"""LVIS evaluation."""

from eql_d2.evaluation.lvis_evaluation import LVISEvaluator

__all__ = ["LVISEvaluator"]
