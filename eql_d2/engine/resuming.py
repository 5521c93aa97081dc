"""Which checkpoint a run goes on from, if any, and what is left to do where its iterations are done."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from detectron2.checkpoint import Checkpointer
from detectron2.engine import HookBase
from detectron2.utils import comm

from eql_d2.engine.checksum import damage_of
from eql_d2.engine.run_lock import launch_of, record_in
from eql_d2.errors import UserError
from eql_d2.plain_files import load_checkpoint

RESUME_MODES = ("last", "auto", "last-good")
"""Of ``--resume``: the last checkpoint; that if there is one, else a new run; the newest whole one."""
LAST_CHECKPOINT = "last_checkpoint"
FINAL_CHECKPOINT = "model_final.pth"


def decide_resume(folder: str, mode: str, environment: Mapping[str, str]) -> str:
    """What a run is to do at its start.

    A worker that torchrun restarts, and a job that Slurm puts into its queue again, go on by themselves, on the command
    line of the first start; not from a run that was in the folder before.

    Args:
        folder: ``OUTPUT_DIR``.
        mode: one of :data:`RESUME_MODES` as the command line says; empty without ``--resume``.
        environment: environment variables.

    Returns:
        "last", "last-good", or empty for a new run.
    """
    restarts = max(int(environment.get(name) or 0) for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    if restarts and not mode and launch_of(environment) and record_in(folder).get("launch") == launch_of(environment):
        mode = "auto"
    if mode == "auto":
        has_run = Path(folder, LAST_CHECKPOINT).exists() or any(_checkpoints(folder))
        return "last" if has_run else ""
    return mode


def check_run_folder(folder: str, resume: str | bool) -> None:
    """Make sure that a training run neither overwrites another nor resumes nothing.

    Args:
        folder: ``OUTPUT_DIR``.
        resume: whether the run is to be continued; "last-good" from the newest whole checkpoint.

    Raises:
        UserError: there is nothing to resume, or there is a run that a new one would overwrite.
    """
    has_last = Path(folder, LAST_CHECKPOINT).exists()
    others = sorted(path.name for path in _checkpoints(folder))
    if not resume and has_last:
        raise UserError(f"{folder} holds a run already; continue it with --resume or set another OUTPUT_DIR.")
    if not resume and others:
        raise UserError(
            f"{folder} holds checkpoints of a run ({others[-1]}) but no {LAST_CHECKPOINT}; continue it with "
            "--resume last-good or set another OUTPUT_DIR."
        )
    if resume and not has_last and not others:
        raise UserError(f"--resume: {folder} has no checkpoint; start without --resume or set OUTPUT_DIR.")


def checkpoint_to_resume(folder: str, resume: str | bool = "last") -> Path:
    """The checkpoint that a run goes on from, whole.

    Args:
        folder: ``OUTPUT_DIR``.
        resume: "last-good" for the newest whole checkpoint, else the last.

    Raises:
        UserError: there is none, or the last is broken; the newest whole one is named.
    """
    if resume == "last-good":
        good = newest_good(folder)
        if good is None:
            raise UserError(f"--resume last-good: {folder} has no whole checkpoint; start anew in another OUTPUT_DIR.")
        return good
    pointer = Path(folder, LAST_CHECKPOINT)
    last = Path(folder)
    try:
        name = pointer.read_text().strip()
        last = last / name
        damage = damage_of(last) if name and Path(name).name == name else f"{pointer} does not name it"
    except (OSError, UnicodeDecodeError, ValueError):
        name, damage = "", f"{pointer} cannot be read"
    if damage is None:
        return last
    good = newest_good(folder)
    what = f"The last checkpoint {last}" if name else f"The last checkpoint of {folder}"
    if good is None:
        raise UserError(f"{what} is broken ({damage}), and no other is whole; start anew in another OUTPUT_DIR.")
    raise UserError(
        f"{what} is broken ({damage}); the newest whole one is {good.name}: go on from there with --resume last-good."
    )


def newest_good(folder: str) -> Path | None:
    """The whole checkpoint of the most iterations in a run's folder; None if there is none."""
    by_iteration = []
    for path in _checkpoints(folder):
        try:
            content = load_checkpoint(path, mmap=True)
            by_iteration.append((content["iteration"], path.name == FINAL_CHECKPOINT, path))
        except Exception:  # whatever unpickling raises over a broken file
            continue
    return next((path for *_, path in sorted(by_iteration, reverse=True) if damage_of(path) is None), None)


def _checkpoints(folder: str) -> Iterator[Path]:
    yield from Path(folder).glob(FINAL_CHECKPOINT)
    yield from Path(folder).glob("model_[0-9]*.pth")


class FinishRun(HookBase):
    """Ends a run that was killed after its last iteration as one that was not.

    ``model_final.pth`` is written after the last numbered checkpoint, which has all iterations as well; a resumed run
    has no step left that would write it. After the hooks that have state.

    Args:
        checkpointer: of the run.
    """

    def __init__(self, checkpointer: Checkpointer) -> None:
        self._checkpointer = checkpointer

    def before_train(self) -> None:
        """Write it, unless it is what the run was resumed from; the evaluation counts as of the last iteration."""
        start = self.trainer.start_iter
        if start < self.trainer.max_iter:
            return
        self.trainer.iter = start - 1  # Detectron2 adds one after the loop, also after one without steps
        if comm.is_main_process() and Path(self._checkpointer.get_checkpoint_file()).name != FINAL_CHECKPOINT:
            self._checkpointer.save(Path(FINAL_CHECKPOINT).stem, iteration=start - 1)
