"""The set-up: which Pythons it takes, and where it gets one from."""

import re
import shutil
import sys

import pytest

from tests.conftest import ROOT


@pytest.fixture
def python_and_uv(monkeypatch):
    """The module, which runs by itself from tools/."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    import python_and_uv

    python_and_uv.fetch_python.cache_clear()
    return python_and_uv


def test_all_that_speaks_of_pythons_says_the_same(python_and_uv):
    oldest, newest = python_and_uv.PYTHONS[0], python_and_uv.PYTHONS[-1]
    assert list(python_and_uv.PYTHONS) == [(3, minor) for minor in range(oldest[1], newest[1] + 1)]
    for name in ("pyproject.toml", "tools/install_detectron2.py"):
        assert f'requires-python = ">=3.{oldest[1]},<3.{newest[1] + 1}"' in (ROOT / name).read_text()
    for name in ("README.md", "Makefile", "tools/set_up.py", "tools/python_and_uv.py"):
        ranges = re.findall(r"3\.\d+ to 3\.\d+", (ROOT / name).read_text())
        assert ranges and set(ranges) == {f"3.{oldest[1]} to 3.{newest[1]}"}, name


def test_a_python_by_its_version(python_and_uv, monkeypatch):
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    asked = []
    monkeypatch.setattr(
        python_and_uv, "probe", lambda name: (sys.version_info[:2], name) if here in name else (None,) * 2
    )
    monkeypatch.setattr(python_and_uv, "fetch_python", lambda wanted: asked.append(wanted) or ((3, 14), "uv's"))
    monkeypatch.setenv("PYTHON", here)
    assert python_and_uv.requested_python() == (sys.version_info[:2], f"python{here}")
    monkeypatch.setenv("PYTHON", "3.14" if here != "3.14" else "3.13")
    assert python_and_uv.requested_python()[1] == "uv's" and len(asked) == 1
    monkeypatch.setenv("PYTHON", "3.9")
    with pytest.raises(python_and_uv.UserError, match=r"^PYTHON=3\.9: there is no such Python; name one of version"):
        python_and_uv.requested_python()


@pytest.mark.parametrize("wanted", [None, "3.14"])
def test_a_machine_without_a_python_and_without_a_network(python_and_uv, monkeypatch, tmp_path, wanted):
    uv = shutil.which("uv") or shutil.which("uv", path=ROOT / ".cache" / "uv" / "bin")
    if uv is None:
        pytest.skip("needs uv, on PATH or as the set-up keeps it")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "pythons"))
    monkeypatch.setattr(python_and_uv, "find_uv", lambda python: uv)
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    sentence = rf"^Python 3\.10 to 3\.14 is needed \(python3 is {here}\), and uv could not fetch one \("
    if wanted:
        monkeypatch.setattr(python_and_uv, "probe", lambda name: (None, None))
        monkeypatch.setenv("PYTHON", wanted)
        sentence = r"^PYTHON=3\.14: there is no python3\.14 here, and uv could not fetch one \("
    else:
        monkeypatch.setattr(python_and_uv, "PYTHONS", ())  # this machine's are none of them
    with pytest.raises(python_and_uv.UserError, match=sentence):
        python_and_uv.requested_python() if wanted else python_and_uv.find_python()
