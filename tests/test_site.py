"""The site of the docs: all pages in its navigation, its packages as pyproject.toml says, and a strict build."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
try:
    from set_up import extras
finally:
    sys.path.pop(0)

BUILDER = ROOT / ".cache" / "docs" / "bin" / "mkdocs"
FROM_OUTSIDE = {"datasets.md", "contributing.md", "changes.md"}  # made by docs/site_hooks.py


def pages_of(nav) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in pages_of(part)]


def test_every_page_is_in_the_navigation_once():
    pages = pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(pages) == sorted(written | FROM_OUTSIDE)
    day = [
        "install.md",
        "first_run.md",
        "your_data.md",
        "which_method.md",
        "train.md",
        "results.md",
        "your_own_loss.md",
    ]
    assert [page for page in pages if page in day] == day


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python reads TOML since 3.11")
def test_extras_are_read_as_toml_says():
    import tomllib

    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert extras() == content["project"]["optional-dependencies"]


def test_modules_of_the_api_exist():
    named = [
        line.split()[1]
        for page in (ROOT / "docs" / "api").glob("*.md")
        for line in page.read_text().splitlines()
        if line.startswith(":::")
    ]
    assert len(named) > 20
    for name in named:
        assert (ROOT / Path(*name.split("."))).with_suffix(".py").exists(), name


@pytest.mark.slow
@pytest.mark.skipif(not BUILDER.exists(), reason="needs the environment that `make docs` makes")
def test_the_site_is_built_without_a_warning(tmp_path):
    command = [str(BUILDER), "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "site" / "methods" / "eql.html").read_text()
    assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in text and "$$" not in text
