"""A box predictor for each method of the losses' registry."""

import difflib
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from eql_d2.errors import UserError
from eql_d2.losses.registry import METHODS, Method, method_of_predictor
from eql_d2.modeling.box_predictor import BOX_PREDICTOR_REGISTRY, LongTailPredictor


def predictor_class(name: str) -> type[LongTailPredictor] | None:
    """The box predictor of a name; a method that was registered since gets its predictor now.

    Args:
        name: as in ``MODEL.ROI_BOX_HEAD.PREDICTOR``.

    Returns:
        None if there is none of the name.
    """
    if name not in BOX_PREDICTOR_REGISTRY:
        method = method_of_predictor(name)
        if method is None:
            return None
        BOX_PREDICTOR_REGISTRY.register(_predictor_of(method))
    return BOX_PREDICTOR_REGISTRY.get(name)


def _predictor_of(method: Method) -> type[LongTailPredictor]:
    members = {
        "__doc__": f"{method.title}: {method.loss_class.__name__} as a box predictor.",
        "__module__": "eql_d2.modeling",  # where it is found by its name
        "loss_class": method.loss_class,
        "config_node": method.node if method.options else None,
    }
    return type(method.predictor, (LongTailPredictor,), members)


def build_box_predictor(cfg: CfgNode, input_shape: ShapeSpec, **kwargs: Any) -> LongTailPredictor:
    """Build the predictor that ``MODEL.ROI_BOX_HEAD.PREDICTOR`` names.

    Args:
        cfg: full config.
        input_shape: shape of one RoI's feature.
        kwargs: overrides of constructor arguments, e.g. a Cascade stage's ``box2box_transform``.

    Raises:
        UserError: no predictor has that name.
    """
    return checked_predictor_class(cfg.MODEL.ROI_BOX_HEAD.PREDICTOR)(cfg, input_shape, **kwargs)


def checked_predictor_class(name: str) -> type[LongTailPredictor]:
    """The box predictor that ``MODEL.ROI_BOX_HEAD.PREDICTOR`` names.

    Raises:
        UserError: no predictor has that name; the nearest is given.
    """
    predictor = predictor_class(name)
    if predictor is None:
        known = sorted(registered for registered, _ in BOX_PREDICTOR_REGISTRY)
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"it must be one of {', '.join(known)}."
        raise UserError(f"MODEL.ROI_BOX_HEAD.PREDICTOR is {name!r}; {hint}")
    return predictor


for _method in METHODS.values():
    if _method.predictor:
        predictor_class(_method.predictor)
