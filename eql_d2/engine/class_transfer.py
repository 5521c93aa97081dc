"""Fine-tuning to other classes: those of the same name keep their weights of the last layers."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor, nn

from eql_d2.engine.compatibility import loss_state_names
from eql_d2.errors import UserError
from eql_d2.long_tail import LVIS_COUNT_FILES, read_count_file

logger = logging.getLogger(__name__)

# Ends of the names of tensors that have rows for each class, and how many.
_ROWS = {
    "cls_score.weight": 1,
    "cls_score.bias": 1,
    "cls_score.scale": 1,
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
            All weights but the losses' statistics, which start afresh.

        Raises:
            UserError: the checkpoint's classes are unknown.
        """
        theirs = _comparable(self.theirs if self.theirs is not None else self._guessed(weights))
        places = {name: place for place, name in enumerate(theirs)}
        pairs = [(place, places[name]) for place, name in enumerate(_comparable(self.ours)) if name in places]
        to, of = (torch.tensor([pair[side] for pair in pairs], dtype=torch.long) for side in (0, 1))
        own, state = model.state_dict(), loss_state_names(model)
        moved = {name: value for name, value in weights.items() if name not in state}
        for name, value in weights.items():
            rows = next((rows for end, rows in _ROWS.items() if name.endswith(end)), None)
            if rows and name in own:
                columns = _class_columns(model, name) if "cls_score" in name else torch.arange(len(self.ours))
                moved[name] = self._moved(torch.as_tensor(value), own[name], rows, len(theirs), to, of, columns)
        self._tell([self.ours[place] for place, _ in pairs])
        return moved

    def _moved(
        self, value: Tensor, own: Tensor, rows: int, num_theirs: int, to: Tensor, of: Tensor, columns: Tensor
    ) -> Tensor:
        """A tensor of the model's classes from one of the checkpoint's."""
        num_ours = len(self.ours)
        if len(value) < rows * num_theirs or len(own) < rows * num_ours:
            return value  # the same for all classes
        if rows == 1 and not self.first_rows and len(value) > num_theirs:
            return own.cpu()
        moved = own.detach().cpu().clone()
        for row in range(rows):
            moved[columns.cpu()[to] * rows + row] = value[of * rows + row].to(moved.dtype)
        others = len(value) - rows * num_theirs
        if others and others == len(own) - rows * num_ours and bool((columns.cpu() == torch.arange(num_ours)).all()):
            moved[rows * num_ours :] = value[rows * num_theirs :].to(moved.dtype)  # background, objectness
        return moved

    def _guessed(self, weights: dict[str, Any]) -> list[str]:
        """Class names by their number, of COCO and LVIS, whose weights in Detectron2's model zoo carry none."""
        known = {len(names): names for names in known_classes()}
        sizes = [len(value) for name, value in weights.items() if name.endswith("cls_score.weight")]
        for size in sizes:
            for number in (size, size - 1):  # with background or without
                if number in known:
                    return known[number]
        raise UserError(
            f"MODEL.WEIGHTS_MATCH_CLASSES is True, but {self.weights} carries no class names, and its classifier "
            f"of {sizes[0] if sizes else 'no'} rows is none of COCO's or LVIS's; set it to False."
        )

    def _tell(self, kept: Sequence[str]) -> None:
        anew = [name for name in self.ours if name not in set(kept)]
        for what, names in (("keep their weights", kept), ("start anew", anew)):
            logger.info("%d classes %s (%s): %s", len(names), what, self.weights, ", ".join(names) or "none")


def known_classes() -> list[list[str]]:
    """Class names of COCO and of both versions of LVIS, in the order of their ids."""
    coco = [category["name"] for category in COCO_CATEGORIES if category["isthing"]]
    return [coco, *(list(read_count_file(str(path)).names) for path in LVIS_COUNT_FILES.values())]


def _comparable(names: Sequence[str]) -> list[str]:
    return [name.strip().lower().replace("_", " ") for name in names]


def _class_columns(model: nn.Module, name: str) -> Tensor:
    """(K,) rows of the classes in the classifier that a tensor's name belongs to."""
    predictor = model.get_submodule(name[: name.rindex("cls_score") - 1])
    loss = getattr(predictor, "loss", None)
    return loss.class_columns if loss is not None else torch.arange(len(model.state_dict()[name]) - 1)
