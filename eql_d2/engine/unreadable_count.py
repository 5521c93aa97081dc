"""Counting over all processes the images that training skipped."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from eql_d2.data.training.unreadable_images import UnreadableImages

PERIOD = 20  # iterations; that of Detectron2's writers
SCALAR = "data/unreadable_images"


class CountUnreadableImages(HookBase):
    """Logs the number of different images that some process could not read; it survives a restart.

    A process counts those of its own batches at once, and learns of the others' every few iterations; all stop
    together if there are too many over all.

    Args:
        cfg: full config.
        unreadable: of this process's loader.
    """

    def __init__(self, cfg: CfgNode, unreadable: UnreadableImages) -> None:
        self._checkpoint_period = cfg.SOLVER.CHECKPOINT_PERIOD
        self._unreadable = unreadable

    def after_step(self) -> None:
        """Gather every so often, and before each checkpoint.

        Raises:
            UserError: they are more than ``DATALOADER.MAX_UNREADABLE_IMAGES``; on all processes alike.
        """
        iteration = self.trainer.iter + 1
        if iteration % PERIOD and iteration % self._checkpoint_period and iteration != self.trainer.max_iter:
            return
        for sentences in comm.all_gather(self._unreadable.sentences):
            self._unreadable.add(sentences)
        if len(self._unreadable):
            self.trainer.storage.put_scalar(SCALAR, len(self._unreadable), smoothing_hint=False)

    def state_dict(self) -> dict[str, Any]:
        """The images so far, of all processes."""
        return {"sentences": self._unreadable.sentences} if len(self._unreadable) else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting from those of a checkpoint."""
        self._unreadable.restore(state_dict["sentences"])

    def local_state(self) -> dict[str, Any]:
        """The images that this process knows of, for a checkpoint between two gatherings."""
        return self.state_dict()

    def load_local_state(self, state: dict[str, Any]) -> None:
        """Take back :meth:`local_state`."""
        if state:
            self.load_state_dict(state)
