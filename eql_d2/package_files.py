"""The configs and tools of this project: top-level folders of a clone, folders of the package in a wheel."""

import os
from pathlib import Path

VERSION = "0.1.0"
PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    """A folder that setup.py copies into the package, or the one of the clone."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def configs_folder() -> Path:
    """Folder of all configs and tables; the environment's EQL_D2_CONFIGS names another, with one's own."""
    return Path(os.environ["EQL_D2_CONFIGS"]).resolve() if os.environ.get("EQL_D2_CONFIGS") else _folder("configs")


TOOLS = _folder("tools")
"""Folder of the tools, one script a job."""


def shipped_config(name: str) -> Path | None:
    """A config by its name below :func:`configs_folder`, with or without that folder's own name.

    Args:
        name: such as ``EmojiLVIS/demo_eql.yaml`` or ``configs/EmojiLVIS/demo_eql.yaml``.

    Returns:
        None where there is no such file.
    """
    folder = configs_folder()
    for path in (folder / name, folder.parent / name):
        inside = os.path.normpath(path).startswith(f"{folder}{os.sep}")
        if inside and path.is_file():
            return path
    return None


def shown_path(path: Path) -> str:
    """A path as one types it: relative where it is below the current folder."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
