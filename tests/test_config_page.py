"""The page of all configuration keys: current, complete, and right about defaults."""

import re
import runpy

from eql_d2.config import get_eql_d2_config
from tests.conftest import ROOT

PAGE_MAKER = runpy.run_path(str(ROOT / "docs" / "config_page.py"))


def test_the_page_is_current():
    assert (ROOT / "docs" / "config.md").read_text() == PAGE_MAKER["page"](), "run python docs/config_page.py"


def test_defaults_are_those_of_the_config():
    cfg = get_eql_d2_config()
    rows = re.findall(r"^\| `([A-Z0-9_.]+)` \| `(.*?)` \|", (ROOT / "docs" / "config.md").read_text(), re.M)
    assert len(rows) > 50
    for key, default in rows:
        value = cfg
        for part in key.split("."):
            value = value[part]
        assert str(value) == default.strip("'"), key


def test_a_comment_is_the_meaning_of_the_key_below_it(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(
        "# of the file\n\ndef add(cfg):\n    # One\n    # two.\n    cfg.A.B = 3  # not this\n    cfg.C = ()\n"
    )
    assert PAGE_MAKER["keys_of_file"](file) == [("A.B", "3", "One two."), ("C", "()", "")]


def test_meanings_of_arguments_are_those_of_the_docstring():
    text = """A loss.

    Args:
        alpha: first,
            goes on.
        beta: second.

    Raises:
        ValueError: never.
    """
    assert PAGE_MAKER["meanings_of_arguments"](text) == {"alpha": "first, goes on.", "beta": "second."}
