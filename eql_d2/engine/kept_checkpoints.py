"""Which checkpoints stay: the best by a metric, and no more than so many of the others."""

from pathlib import Path
from typing import Any

from detectron2.engine.hooks import BestCheckpointer, PeriodicCheckpointer

from eql_d2.errors import UserError


class KeepBest(BestCheckpointer):
    """Detectron2's ``model_best.pth``, which a resumed run replaces only by a better one.

    Args:
        eval_period: as of ``EvalHook``.
        checkpointer: of the run.
        metric: see ``SOLVER.BEST_METRIC``.

    Raises:
        UserError: there is no evaluation during training.
    """

    def __init__(self, eval_period: int, checkpointer: Any, metric: str) -> None:
        if eval_period <= 0:
            raise UserError(
                f"SOLVER.BEST_METRIC is {metric}, but TEST.EVAL_PERIOD is {eval_period}, so that there is nothing to "
                "choose from; set it to a number of iterations."
            )
        super().__init__(eval_period, checkpointer, metric)
        self._metric = metric

    def before_train(self) -> None:
        """Judge the evaluation that a stopped run had not judged, or not kept the judgement of."""
        start, storage = self.trainer.start_iter, self.trainer.storage
        if start and storage.latest().get(self._metric, (0, -1))[1] == start - 1:
            self.trainer.iter = start - 1
            self.after_step()
            self.trainer.iter = start

    def after_train(self) -> None:
        """As in Detectron2, but what is written then has as many iterations as the last step."""
        self.trainer.iter -= 1
        super().after_train()
        self.trainer.iter += 1

    def state_dict(self) -> dict[str, Any]:
        """The best so far."""
        return {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best_metric, self.best_iter = state_dict["best_metric"], state_dict["best_iter"]


def limit_kept(hook: PeriodicCheckpointer, folder: str, most: int) -> None:
    """Let a run keep its last checkpoints only; those of ``model_final`` and ``model_best`` do not count.

    Args:
        hook: of the run, changed in place.
        folder: of the run; what it holds of an earlier part of the run counts.
        most: how many.

    Raises:
        UserError: it is negative.
    """
    if most < 0:
        raise UserError(f"SOLVER.MAX_CHECKPOINTS is {most}; set it to 1 or more, or to 0 for all.")
    if most:
        hook.max_to_keep = most
        hook.recent_checkpoints = _Paths(sorted(map(str, Path(folder).glob("model_[0-9]*.pth"))))


class _Paths(list):
    """Each once: a run that resumed from before a broken checkpoint writes that again, and it is not to count twice."""

    def append(self, path: str) -> None:
        """At the end, wherever it was."""
        if path in self:
            self.remove(path)
        super().append(path)
