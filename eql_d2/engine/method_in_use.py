"""Which method a config uses, and which of the keys that a user has named it does not."""

from collections.abc import Iterable, Iterator
from typing import Any

from detectron2.config import CfgNode
from fvcore.common.config import BASE_KEY

from eql_d2.data.category_counts import ONE_STAGE
from eql_d2.losses.registry import METHODS, Method, method_of_predictor
from eql_d2.modeling.predictors import predictor_class

_KEYS = {"ImageClassifier": "MODEL.CLASSIFIER.LOSS", **dict.fromkeys(ONE_STAGE, "MODEL.RETINANET.LOSS")}
_KEY_OF_BOXES = "MODEL.ROI_BOX_HEAD.PREDICTOR"
_NODES = "MODEL.LONG_TAIL."

METHOD_KEYS = tuple(dict.fromkeys((_KEY_OF_BOXES, *_KEYS.values())))
"""The keys that say what a model classifies by; which of them it is follows from ``MODEL.META_ARCHITECTURE``."""


def method_key(architecture: str) -> str:
    """That of :data:`METHOD_KEYS` which counts for a value of ``MODEL.META_ARCHITECTURE``."""
    return _KEYS.get(architecture, _KEY_OF_BOXES)


def method_named(key: str, value: str) -> Method | None:
    """The method that a value of one of :data:`METHOD_KEYS` names; None of one without a method."""
    return method_of_predictor(value) if key == _KEY_OF_BOXES else METHODS.get(value)


def method_in_use(cfg: CfgNode) -> tuple[str, str, Method | None]:
    """What a config's model classifies by.

    Returns:
        The key that says it, its value, and the method; None of a box predictor that was registered without one.
    """
    key = method_key(cfg.MODEL.META_ARCHITECTURE)
    value: Any = cfg
    for part in key.split("."):
        value = value[part]
    return key, value, method_named(key, value)


def why_unused(cfg: CfgNode, key: str) -> str | None:
    """By what a key of a method is not used, as the end of a sentence; None of a key that is used, or of no method."""
    user, value, method = method_in_use(cfg)
    if key in METHOD_KEYS:
        return None if key == user else f"{user} {value}"
    node = key.removeprefix(_NODES).split(".")[0]
    if not key.startswith(_NODES) or node not in {other.node for other in METHODS.values()}:
        return None
    if method is not None:
        used = method.node
    else:
        predictor = predictor_class(value) if user == _KEY_OF_BOXES else None
        if predictor is None:  # building the model will name it
            return None
        used = predictor.config_node or ""
    return None if node == used else f"{user} {value}"


def unused_keys(cfg: CfgNode, keys: Iterable[str]) -> list[str]:
    """A sentence for each of some keys that belongs to a method that a config does not use.

    Args:
        cfg: full config.
        keys: those that a user has named: see :func:`~eql_d2.engine.config_files.load_config_and_names`.
    """
    reasons = {key: why_unused(cfg, key) for key in dict.fromkeys(keys)}
    return [f"{key} is set, but not used by {reason}." for key, reason in reasons.items() if reason]


def leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """The keys in the text of a config, as ``MODEL.DEVICE``."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        elif key != BASE_KEY:
            yield f"{prefix}{key}"
