"""Runs test files on a copy of the repository, in which files are changed one at a time."""

import compileall
import contextlib
import gc
import hashlib
import importlib
import importlib.metadata
import json
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # this package imports nothing of the package that it changes

# What tests import and mutants are not made of: imported once, and forked with.
LIBRARIES = (
    *("numpy", "torch", "torchvision", "cv2", "PIL.Image", "pycocotools.mask", "hotcoco", "matplotlib.pyplot", "scipy"),
    *("detectron2.checkpoint", "detectron2.config", "detectron2.data", "detectron2.engine", "detectron2.evaluation"),
    *("detectron2.modeling", "hypothesis", "pytest", "tensorboard", "lvis"),
)
ALL_PASSED, NO_TESTS = 0, 5  # pytest's exit codes
UNTIL_STUCK = 60.0  # seconds, and several times what the tests take on the unchanged code


def copy_of_repository(folder: Path) -> Path:
    """Copy what is or may be committed, beside a link to ``shared`` where there is one."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    copy = folder / "repository"
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    if (ROOT.parent / "shared").is_dir():
        (folder / "shared").symlink_to((ROOT.parent / "shared").resolve())
    # By their time, code compiled from two contents of a size and a second would be taken for one another.
    compileall.compile_dir(copy / "eql_d2", quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    return copy


class TestRunner:
    """Runs test files in processes that are forked off one that has imported the libraries.

    Args:
        copy: of the repository; its package and its tests are those that run.
        known: JSON file of what test files take, from earlier runs; written here as well.
    """

    __test__ = False  # of pytest's collection

    def __init__(self, copy: Path, known: Path | None = None) -> None:
        self._copy, self._known = copy, known
        self._usual: dict[str, list[float] | None] = {}
        if known is not None and known.exists():
            self._usual = json.loads(known.read_text())
        plugins = {entry.module for entry in importlib.metadata.entry_points(group="pytest11")}
        for name in (*LIBRARIES, *sorted(plugins)):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        gc.freeze()  # pytest collects garbage several times, and there is none here

    def seconds(self, test_file: str) -> float | None:
        """CPU seconds of a test file on the unchanged code; None where it fails there, and says nothing."""
        key = self._key(test_file)
        if key not in self._usual:
            start = time.monotonic()
            code, seconds = self._run([test_file], timeout=900)
            usual = [seconds, time.monotonic() - start]
            self._usual[key] = usual if code in (ALL_PASSED, NO_TESTS) else None
            if self._known is not None:
                self._known.write_text(json.dumps(self._usual, indent=1))
        found = self._usual[key]
        return None if found is None else found[0]

    def _key(self, test_file: str) -> str:
        """A test file and its content."""
        return f"{test_file} {hashlib.sha1((self._copy / test_file).read_bytes()).hexdigest()[:12]}"

    def notice(self, test_files: list[str]) -> bool:
        """Whether a test of the files fails, or does not come to an end, on the code as it is now."""
        usual = sum(found[1] for test in test_files if (found := self._usual.get(self._key(test))))
        return self._run(test_files, timeout=UNTIL_STUCK + 5 * usual)[0] not in (ALL_PASSED, NO_TESTS)

    @contextlib.contextmanager
    def changed(self, path: str, content: bytes) -> Iterator[None]:
        """Another content of one file of the copy."""
        file = self._copy / path
        before = file.read_bytes()
        file.write_bytes(content)
        try:
            yield
        finally:
            file.write_bytes(before)

    def _run(self, arguments: list[str], timeout: float) -> tuple[int, float]:
        """The exit code of pytest, negative where the time is over, and the CPU seconds that it took."""
        child = os.fork()
        if child == 0:
            code = 3
            try:
                code = self._pytest(arguments)
            finally:
                os._exit(code)
        with contextlib.suppress(OSError):
            os.setpgid(child, child)  # the child does so as well: whoever is first
        try:
            return _end_of(child, timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):  # the child, and what it started and left behind
                os.killpg(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)

    def _pytest(self, arguments: list[str]) -> int:
        import pytest

        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        os.chdir(self._copy)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        os.environ["PYTHONPATH"] = str(self._copy)
        # The copy's package and tests, not those that this process runs from.
        sys.path = [str(self._copy), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
        for name in [name for name in sys.modules if name.split(".")[0] in ("eql_d2", "tests")]:
            del sys.modules[name]
        options = ["-q", "-x", "--tb=no", "--no-header", "-m", "not slow", "-p", "no:cacheprovider"]
        return int(pytest.main([*options, "--hypothesis-seed=0", *arguments]))


def _end_of(child: int, timeout: float) -> tuple[int, float]:
    """Exit code of a process, negative if it does not end in time or by a signal, and its CPU seconds."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        time.sleep(0.05)
    return -1, timeout
