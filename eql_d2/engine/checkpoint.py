"""Checkpoints that are complete or absent, never half written."""

import os
import pickle
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer

from eql_d2.engine.class_transfer import ClassTransfer
from eql_d2.engine.compatibility import check_form
from eql_d2.errors import UserError


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, writing to a side file that takes the real name once it is on disk.

    A full disk or a killed process leaves the last good checkpoint, and ``last_checkpoint`` naming it.

    Attributes:
        description: what every checkpoint says about itself (see :mod:`eql_d2.engine.description`).
        exclude: shell-style name patterns of tensors that are not loaded.
        class_transfer: gives weights to classes of the same name, where the model's are others.
        misfits: after loading, the model's tensors that did not come from the file, and why.
    """

    description: dict[str, Any] = {}
    exclude: Sequence[str] = ()
    class_transfer: ClassTransfer | None = None
    misfits: dict[str, str] = {}

    def save(self, name: str, **kwargs: Any) -> None:
        """Save model and trainer as ``<save_dir>/<name>.pth``.

        Args:
            name: file name without its ending.
            kwargs: further values to save, e.g. ``iteration``.

        Raises:
            UserError: the disk does not take the file; the last good checkpoint is named.
        """
        partial = f".{name}.partial"
        try:
            super().save(partial, **self.description, **kwargs)  # calls tag_last_checkpoint once the file is complete
        except (OSError, RuntimeError) as error:
            Path(self.save_dir, f"{partial}.pth").unlink(missing_ok=True)
            # PyTorch's file writer trips over the OSError with a RuntimeError of its own.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            last = self.get_checkpoint_file() if self.has_checkpoint() else "none"
            raise UserError(
                f"Checkpoint {Path(self.save_dir, name)}.pth could not be written ({cause.strerror}); "
                f"free some space and go on with --resume (last good checkpoint: {last})."
            ) from None

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint, or model weights of Detectron2's model zoo.

        Args:
            path: file or URL; empty loads nothing.
            args: as in Detectron2.
            kwargs: as in Detectron2.

        Raises:
            UserError: the file is missing, cannot be fetched, or is no checkpoint.
        """
        try:
            return super().load(path, *args, **kwargs)
        except (AssertionError, OSError) as error:  # Detectron2 asserts that the file exists
            raise UserError(f"Weights {path} cannot be read ({error}); check MODEL.WEIGHTS and the network.") from None

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        excluded = {name for name in checkpoint["model"] if any(fnmatchcase(name, p) for p in self.exclude)}
        checkpoint["model"] = {name: value for name, value in checkpoint["model"].items() if name not in excluded}
        if self.class_transfer is not None:
            checkpoint["model"] = self.class_transfer.apply(checkpoint["model"], self.model)
        has_weights = bool(checkpoint["model"])
        result = super()._load_model(checkpoint)
        self.misfits = dict.fromkeys(result.missing_keys, "not in the file")
        self.misfits |= {name: "excluded by MODEL.WEIGHTS_EXCLUDE" for name in self.misfits if name in excluded}
        self.misfits |= {name: f"shape {file}, not {model}" for name, file, model in result.incorrect_shapes}
        if has_weights and len(self.misfits) == len(self.model.state_dict()):
            raise UserError(
                f"Not one tensor of {self._source} fits the model ({describe_misfits(self.misfits, shown=2)}); check "
                "MODEL.WEIGHTS, and convert weights of other code bases with tools/convert_checkpoint.py."
            )
        return result

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            loaded = super()._load_file(filename)
        except (RuntimeError, ValueError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(
                f"Weights {filename} are truncated or no checkpoint of PyTorch or Detectron2 "
                f"({str(error).splitlines()[0]}); check MODEL.WEIGHTS."
            ) from None
        check_form(filename, loaded["model"])
        self._source = filename
        return loaded

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Give the complete file its real name, then name it in ``last_checkpoint``.

        Args:
            last_filename_basename: base name of the side file, or of a file that is in place.
        """
        folder = Path(self.save_dir)
        final = last_filename_basename
        if final.startswith("."):
            final = final.removeprefix(".").removesuffix(".partial.pth") + ".pth"
            _flush_to_disk(folder / last_filename_basename)
            os.replace(folder / last_filename_basename, folder / final)
        side_file = folder / ".last_checkpoint.partial"
        side_file.write_text(final)
        os.replace(side_file, folder / "last_checkpoint")


def describe_misfits(misfits: dict[str, str], shown: int = 5) -> str:
    """The first tensors that did not fit, each with its reason, and the number of the others."""
    listed = [f"{name} ({reason})" for name, reason in list(misfits.items())[:shown]]
    others = len(misfits) - len(listed)
    return ", ".join(listed) + (f" and {others} more" if others else "")


def check_run_folder(folder: str, resume: bool) -> None:
    """Make sure that a training run neither overwrites another nor resumes nothing.

    Args:
        folder: ``OUTPUT_DIR``.
        resume: whether the run is to be continued.

    Raises:
        UserError: there is nothing to resume, or there is a run that a new one would overwrite.
    """
    has_checkpoint = Path(folder, "last_checkpoint").exists()
    if resume and not has_checkpoint:
        raise UserError(f"--resume: {folder} has no checkpoint; start without --resume or set OUTPUT_DIR.")
    if has_checkpoint and not resume:
        raise UserError(f"{folder} holds a run already; continue it with --resume or set another OUTPUT_DIR.")


def _flush_to_disk(path: Path) -> None:
    """Some file systems report a full disk only when data is flushed."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
