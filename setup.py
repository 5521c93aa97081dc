"""Packaging entry; the metadata is in pyproject.toml. A wheel gets the clone's configs and tools, too."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

NOT_TOOLS_OF_A_WHEEL = (
    "demo.py",
    "gpu_check.py",
    "set_up.py",
    "child_processes.py",
    "install_detectron2.py",
    "detectron2_edits.py",
    "python_and_uv.py",
    "__pycache__",
)


class BuildWithConfigsAndTools(build_py):
    """Copies configs/ and tools/ into the package; an editable install finds them in the clone."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for name in ("configs", "tools"):
            folder = Path(self.build_lib, "eql_d2", name)
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(name, folder, ignore=shutil.ignore_patterns(*NOT_TOOLS_OF_A_WHEEL))


setup(cmdclass={"build_py": BuildWithConfigsAndTools})
