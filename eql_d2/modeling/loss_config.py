"""The configuration of losses: a node for each method, whose keys are its constructor's keywords in upper case."""

import inspect
from typing import Any

from detectron2.config import CfgNode

from eql_d2.data.category_counts import category_counts, num_classes_of_model
from eql_d2.errors import UserError
from eql_d2.losses import METHODS, ClassificationLoss, build_loss
from eql_d2.losses.registry import STATISTICS


def key_of(keyword: str) -> str:
    """The config key of a constructor's keyword: ``lambda_`` is LAMBDA."""
    return keyword.rstrip("_").upper()


def add_loss_nodes(cfg: CfgNode) -> None:
    """Add a node below ``MODEL.LONG_TAIL`` for each method that has options, with the constructor's defaults."""
    for method in METHODS.values():
        if method.options:
            options = {key_of(keyword): default for keyword, default in method.options.items()}
            cfg.MODEL.LONG_TAIL[method.node] = CfgNode(options)


def loss_of_config(
    loss_class: type[ClassificationLoss], cfg: CfgNode, node_name: str | None, has_background: bool = True
) -> ClassificationLoss:
    """Build a loss from its node of the config and from the category counts of the training data.

    Args:
        loss_class: the loss.
        cfg: full config.
        node_name: name of the node below ``MODEL.LONG_TAIL``; None, or one that is not there, for a loss without
            options.
        has_background: False is image classification.

    Raises:
        UserError: a key has no counterpart in the constructor, or a value is out of its range.
    """
    node = cfg.MODEL.LONG_TAIL.get(node_name, {}) if node_name else {}
    parameters = inspect.signature(loss_class).parameters
    keywords = {key_of(keyword): keyword for keyword in parameters}
    unknown = set(node) - set(keywords)
    if unknown:
        raise UserError(f"MODEL.LONG_TAIL.{node_name} has keys that {loss_class.__name__} lacks: {sorted(unknown)}.")
    options: dict[str, Any] = {keywords[key]: value for key, value in node.items()}
    counts = category_counts(cfg) if set(STATISTICS) & set(parameters) else None
    try:
        return build_loss(loss_class, num_classes_of_model(cfg)[1], counts, has_background, **options)
    except ValueError as error:
        raise UserError(f"MODEL.LONG_TAIL.{node_name}: {error}" if node_name else str(error)) from None
