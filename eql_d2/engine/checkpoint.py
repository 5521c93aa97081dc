"""Checkpoints that are complete or absent, never half written."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager

from eql_d2.engine.checksum import damage_of, is_sealed, seal
from eql_d2.engine.class_transfer import ClassTransfer
from eql_d2.engine.compatibility import check_form
from eql_d2.engine.resuming import checkpoint_to_resume
from eql_d2.errors import UserError
from eql_d2.once_a_machine import first_on_each_machine
from eql_d2.plain_files import load_checkpoint, load_pickle, tensors_by_name


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, writing to a side file that takes the real name once it is on disk.

    A full disk or a killed process leaves the last good checkpoint, and ``last_checkpoint`` naming it.

    Attributes:
        description: what every checkpoint says about itself (see :mod:`eql_d2.engine.description`).
        exclude: shell-style name patterns of tensors that are not loaded.
        class_transfer: gives weights to classes of the same name, where the model's are others.
        is_last: whether a run goes on from what is saved, so that ``last_checkpoint`` names it.
        misfits: after loading, the model's tensors that did not come from the file, and why.
    """

    description: dict[str, Any] = {}
    exclude: Sequence[str] = ()
    class_transfer: ClassTransfer | None = None
    is_last: bool = True
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
            Path(self.save_dir).mkdir(parents=True, exist_ok=True)
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
        # Buffers that the file need not have (of losses, say) are no sign that it fits.
        if has_weights and all(name in self.misfits for name, _ in self.model.named_parameters()):
            raise UserError(
                f"Not one tensor of {self._source} fits the model ({describe_misfits(self.misfits, shown=2)}); check "
                "MODEL.WEIGHTS, and convert weights of other code bases with tools/convert_checkpoint.py."
            )
        return result

    def resume_or_load(self, path: str, *, resume: str | bool = True) -> dict[str, Any]:
        """Load the checkpoint that a run goes on from, or model weights alone.

        Args:
            path: of the weights.
            resume: "last" or True for the last checkpoint of the folder, "last-good" for the newest whole one; empty
                or False loads ``path``.

        Raises:
            UserError: there is no whole checkpoint, or the weights cannot be read.
        """
        if not resume:
            return self.load(path, checkpointables=[])
        chosen = checkpoint_to_resume(self.save_dir, resume)
        content = self.load(str(chosen))
        if resume == "last-good" and self.save_to_disk:
            self.tag_last_checkpoint(chosen.name)
        return content

    def _load_file(self, filename: str) -> dict[str, Any]:
        """What Detectron2's method gives, read without running code that the file may hold."""
        path = Path(filename)
        try:
            if is_sealed(path) and (damage := damage_of(path)):
                raise UserError(f"Weights {path} are damaged: {damage}; take another checkpoint.")
            is_pickle = path.suffix == ".pkl" and not zipfile.is_zipfile(path)
            content = load_pickle(path) if is_pickle else load_checkpoint(path)
        except OSError:
            raise
        # Whatever the bytes of a broken file say, unpickling can raise.
        except Exception as error:
            if isinstance(error, UserError):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"Weights {path} are truncated or no checkpoint of PyTorch or Detectron2 ({reason}); check "
                "MODEL.WEIGHTS."
            ) from None
        content = _in_form_of_detectron2(content, path.suffix)
        tensors = tensors_by_name(content.get("model"))
        if not tensors:
            if isinstance(content.get("model"), Mapping):
                check_form(filename, content["model"])  # names the command for files of other code bases
            raise UserError(
                f"Weights {path} hold no tensors by name (of a whole module, save its state_dict()); check "
                "MODEL.WEIGHTS."
            )
        self._source = filename
        return {**content, "model": tensors}

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Give the complete file its real name, then name it in ``last_checkpoint``.

        Args:
            last_filename_basename: base name of the side file, or of a file that is in place.
        """
        folder = Path(self.save_dir)
        final = last_filename_basename
        if final.startswith("."):
            final = final.removeprefix(".").removesuffix(".partial.pth") + ".pth"
            seal(folder / last_filename_basename)
            _flush_to_disk(folder / last_filename_basename)
            os.replace(folder / last_filename_basename, folder / final)
            _flush_folder_to_disk(folder)
        if not self.is_last:
            return
        side_file = folder / ".last_checkpoint.partial"
        side_file.write_text(final)
        _flush_to_disk(side_file)
        os.replace(side_file, folder / "last_checkpoint")


def fetch_weights(path: str) -> None:
    """Bring weights of an address to this machine's cache, by one process for all of it; a local file stays as it is.

    Args:
        path: ``MODEL.WEIGHTS``.

    Raises:
        UserError: they cannot be fetched; one process tells it.
    """
    if "://" in path:
        first_on_each_machine(lambda: _fetch(path))


def _fetch(path: str) -> str:
    try:
        return PathManager.get_local_path(path)
    except Exception as error:  # of the handler of its kind of address
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"Weights {path} cannot be fetched ({reason}); check the address and the network, or set MODEL.WEIGHTS to "
            "a file (docs/your_project.md: weights without a network)."
        ) from None


def describe_misfits(misfits: dict[str, str], shown: int = 5) -> str:
    """The first tensors that did not fit, each with its reason, and the number of the others."""
    listed = [f"{name} ({reason})" for name, reason in list(misfits.items())[:shown]]
    others = len(misfits) - len(listed)
    return ", ".join(listed) + (f" and {others} more" if others else "")


def _in_form_of_detectron2(content: Any, suffix: str) -> dict[str, Any]:
    """The entries of a checkpoint, its tensors under ``model``.

    Besides Detectron2's own files: pickles of Detectron and Caffe2, and pycls' .pyth, whose names are then matched.
    """
    if not isinstance(content, Mapping):
        return {}
    if suffix == ".pkl" and not {"model", "__author__"} <= set(content):
        blobs = content.get("blobs", content)
        names = blobs if isinstance(blobs, Mapping) else {}
        model = {name: value for name, value in names.items() if not str(name).endswith("_momentum")}
        return {"model": model, "__author__": "Caffe2", "matching_heuristics": True}
    if suffix == ".pyth":
        states = content.get("model_state")
        names = states if isinstance(states, Mapping) else {}
        model = {name: value for name, value in names.items() if not str(name).endswith("num_batches_tracked")}
        return {"model": model, "__author__": "pycls", "matching_heuristics": True}
    return dict(content) if "model" in content else {"model": content}


def _flush_to_disk(path: Path) -> None:
    """Some file systems report a full disk only when data is flushed."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _flush_folder_to_disk(folder: Path) -> None:
    """A new name lasts through a power failure once its folder is on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems know no such thing
        pass
    finally:
        os.close(descriptor)
