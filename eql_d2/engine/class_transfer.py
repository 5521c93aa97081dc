"""Fine-tuning to other classes: those of the same name keep their weights of the last layers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor, nn

from eql_d2.engine.compatibility import class_difference, class_names, dataset_with_names, loss_state_names
from eql_d2.engine.description import read_description
from eql_d2.errors import UserError
from eql_d2.long_tail import LVIS_COUNT_FILES, read_count_file
from eql_d2.losses import ClassificationLoss
from eql_d2.modeling.calibration import Calibration
from eql_d2.plain_files import read_yaml

logger = logging.getLogger(__name__)

# Ends of the names of tensors that have rows for each class.
_CLASSIFIER = ("cls_score.weight", "cls_score.bias", "cls_score.scale")
# ... where they are not the same for all classes, and how many rows a class has.
_BOXES_AND_MASKS = {
    "bbox_pred.weight": 4,
    "bbox_pred.bias": 4,
    "mask_head.predictor.weight": 1,
    "mask_head.predictor.bias": 1,
}


@dataclass(frozen=True)
class ClassTransfer:
    """What becomes of a checkpoint's classes in a model of others (``MODEL.WEIGHTS_MATCH_CLASSES``).

    Attributes:
        theirs: K' class names of the checkpoint, in the order of its outputs; None where it carries none.
        ours: K class names of the model.
        weights: ``MODEL.WEIGHTS``, for messages.
        first_rows: whether the checkpoint's classifier has a row a class, these first, as of all predictors but BAGS'.
    """

    theirs: Sequence[str] | None
    ours: Sequence[str]
    weights: str
    first_rows: bool = True

    def apply(self, weights: dict[str, Any], model: nn.Module) -> dict[str, Any]:
        """The weights with the rows of their class-wise tensors put where the model has the class of the same name.

        Args:
            weights: by their names, tensors or arrays.
            model: of the other classes; its own values stay for classes that the checkpoint lacks.

        Returns:
            All weights but the statistics of losses and calibrations, which start afresh.

        Raises:
            UserError: the checkpoint's classes are unknown.
        """
        theirs = _comparable(self.theirs if self.theirs is not None else self._guessed(weights))
        places = {name: place for place, name in enumerate(theirs)}
        pairs = [(place, places[name]) for place, name in enumerate(_comparable(self.ours)) if name in places]
        to, of = (torch.tensor([pair[side] for pair in pairs], dtype=torch.long) for side in (0, 1))
        own, state = model.state_dict(), loss_state_names(model)
        statistics = tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, Calibration))
        moved = {
            name: value for name, value in weights.items() if name not in state and not name.startswith(statistics)
        }
        kept: list[str] = []
        for name, value in moved.items():
            layers = self._rows(model, name, len(value), len(theirs)) if name in own and np.ndim(value) else None
            if layers is None:
                continue
            rows_of_ours, rows_of_theirs, rest = layers
            new = own[name].detach().cpu().clone()
            if rows_of_theirs is not None and new.shape[1:] == np.shape(value)[1:]:
                source = torch.as_tensor(value).to(new.dtype)
                new[rows_of_ours[:, to]] = source[rows_of_theirs[:, of]]
                if rest:
                    new[-rest:] = source[-rest:]
                kept.append(name)
            moved[name] = new
        self._tell([self.ours[place] for place, _ in pairs], kept, own)
        return moved

    def _rows(
        self, model: nn.Module, name: str, length: int, num_theirs: int
    ) -> tuple[Tensor, Tensor | None, int] | None:
        """Where the classes are in a tensor of the model and in the checkpoint's of the same name.

        Returns:
            Rows (P, K) of the model and (P, K') of the checkpoint, None where these are unknown; and how many rows at
            the end, of background and objectness, mean the same in both. None for a tensor that has no classes.
        """
        module = model.get_submodule(name.rpartition(".")[0])
        num_ours, num_own = len(self.ours), len(model.state_dict()[name])
        ours, theirs = torch.arange(num_ours), torch.arange(num_theirs)
        if name.endswith(_CLASSIFIER):
            if isinstance(module, nn.Conv2d):  # of a dense head: the classes of each anchor, one after the other
                anchors = num_own // num_ours
                if length != anchors * num_theirs:
                    return None  # told as a tensor of another shape
                first = torch.arange(anchors)[:, None]
                return first * num_ours + ours, first * num_theirs + theirs, 0
            columns = _class_columns(model, name, num_ours)
            if not self.first_rows or length < num_theirs:
                return columns[None], None, 0
            others = num_own - num_ours
            same = others == length - num_theirs and bool((columns == ours).all())
            return columns[None], theirs[None], others if same else 0
        rows = next((rows for end, rows in _BOXES_AND_MASKS.items() if name.endswith(end)), 0)
        if not rows or num_own != rows * num_ours or num_own == rows or length != rows * num_theirs:
            return None  # the same for all classes, here or there
        parts = torch.arange(rows)[:, None]
        return ours * rows + parts, theirs * rows + parts, 0

    def _guessed(self, weights: dict[str, Any]) -> list[str]:
        """Class names by their number, of COCO and LVIS, whose weights in Detectron2's model zoo carry none."""
        known = {len(names): names for names in known_classes()}
        scores = [value for name, value in weights.items() if name.endswith("cls_score.weight")]
        sizes = [len(value) for value in scores]
        for value in scores:
            if np.ndim(value) == 4:  # of a dense head: all classes for each anchor
                number = next((number for number in known if len(value) % number == 0), None)
                if number:
                    return known[number]
            for number in (len(value), len(value) - 1):  # with background or without
                if number in known:
                    return known[number]
        raise UserError(
            f"MODEL.WEIGHTS_MATCH_CLASSES is True, but {self.weights} carries no class names, and its classifier "
            f"of {sizes[0] if sizes else 'no'} rows is none of COCO's or LVIS's; set it to False."
        )

    def _tell(self, same: Sequence[str], kept: Sequence[str], own: Mapping[str, Any]) -> None:
        anew = [name for name in self.ours if name not in set(same)]
        for what, names in (("keep their weights", same), ("start anew", anew)):
            logger.info("%d classes %s (%s): %s", len(names), what, self.weights, ", ".join(names) or "none")
        lost = [name for name in own if name.endswith("cls_score.weight") and name not in kept]
        if lost and same:
            why = "groups, whose rows are no classes'" if not self.first_rows else "another form"
            logger.warning(
                "The classifier starts anew for all classes, as that of %s has %s (%s).", self.weights, why, lost[0]
            )


def class_transfer_of(weights: str, description: Mapping[str, Any], ours: Sequence[str]) -> ClassTransfer:
    """The transfer from a checkpoint to a model.

    Args:
        weights: ``MODEL.WEIGHTS``.
        description: what the checkpoint says about itself.
        ours: class names of the model.
    """
    kept = read_yaml(description.get("config", ""), f"The config in {weights}") or {}
    predictor = kept.get("MODEL", {}).get("ROI_BOX_HEAD", {}).get("PREDICTOR")
    return ClassTransfer(class_names(description), ours, weights, first_rows=predictor != "BAGSPredictor")


def reordered_classes(weights: str, cfg: CfgNode) -> ClassTransfer | None:
    """What puts the classes of weights that are to be evaluated in the dataset's order; None where they are in it.

    Args:
        weights: the file.
        cfg: full config, whose datasets are registered.

    Raises:
        UserError: the classes are others, or in another order and ``MODEL.WEIGHTS_MATCH_CLASSES`` is False.
    """
    description = read_description(weights)
    difference, dataset = class_difference(description, cfg), dataset_with_names(cfg)
    if not (difference and dataset):
        return None
    transfer = class_transfer_of(weights, description, dataset[1])
    if sorted(transfer.theirs or ()) != sorted(transfer.ours):
        raise UserError(f"Weights {weights} have {difference}; evaluate them on a dataset of their own classes.")
    if not transfer.first_rows:
        raise UserError(
            f"Weights {weights} have {difference}; the rows of BAGS' groups cannot be put in another order: evaluate "
            "them on a dataset in theirs."
        )
    if not cfg.MODEL.WEIGHTS_MATCH_CLASSES:
        raise UserError(
            f"Weights {weights} have {difference}; the classes are the same in another order, into which "
            "MODEL.WEIGHTS_MATCH_CLASSES True puts the weights."
        )
    return transfer


def known_classes() -> list[list[str]]:
    """Class names of COCO and of both versions of LVIS, in the order of their ids."""
    coco = [category["name"] for category in COCO_CATEGORIES if category["isthing"]]
    return [coco, *(list(read_count_file(str(path)).names) for path in LVIS_COUNT_FILES.values())]


def _comparable(names: Sequence[str]) -> list[str]:
    return [name.strip().lower().replace("_", " ") for name in names]


def _class_columns(model: nn.Module, name: str, num_classes: int) -> Tensor:
    """(K,) rows of the classes in the classifier that a tensor's name belongs to; those of BAGS are in groups."""
    predictor = model.get_submodule(name[: name.rindex("cls_score")].rstrip("."))
    loss = getattr(predictor, "loss", None)
    return loss.class_columns.cpu() if isinstance(loss, ClassificationLoss) else torch.arange(num_classes)
