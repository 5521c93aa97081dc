"""The set-up: which Pythons it takes, and where it gets one from."""

import re
import shutil
import sys

import pytest

from tests.conftest import ROOT


@pytest.fixture
def set_up(monkeypatch):
    """The module, which runs by itself from tools/."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    import set_up

    set_up.fetch_python.cache_clear()
    return set_up


def test_all_that_speaks_of_pythons_says_the_same(set_up):
    oldest, newest = set_up.PYTHONS[0], set_up.PYTHONS[-1]
    assert list(set_up.PYTHONS) == [(3, minor) for minor in range(oldest[1], newest[1] + 1)]
    for name in ("pyproject.toml", "tools/install_detectron2.py"):
        assert f'requires-python = ">=3.{oldest[1]},<3.{newest[1] + 1}"' in (ROOT / name).read_text()
    for name in ("README.md", "Makefile", "tools/set_up.py"):
        ranges = re.findall(r"3\.\d+ to 3\.\d+", (ROOT / name).read_text())
        assert ranges and set(ranges) == {f"3.{oldest[1]} to 3.{newest[1]}"}, name


def test_a_machine_without_a_python_and_without_a_network(set_up, monkeypatch, tmp_path):
    uv = shutil.which("uv") or shutil.which("uv", path=ROOT / ".cache" / "uv" / "bin")
    if uv is None:
        pytest.skip("needs uv, on PATH or as the set-up keeps it")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "pythons"))
    monkeypatch.setattr(set_up, "find_uv", lambda python: uv)
    monkeypatch.setattr(set_up, "PYTHONS", ())  # this machine's are none of them
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    with pytest.raises(
        set_up.UserError, match=rf"^Python 3\.10 to 3\.14 is needed \(python3 is {here}\), and uv could not"
    ):
        set_up.find_python()
