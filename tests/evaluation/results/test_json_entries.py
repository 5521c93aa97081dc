"""A JSON list read in pieces: the same entries, whatever the pieces."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eql_d2.evaluation.results import json_entries as json_entries_module
from eql_d2.evaluation.results.json_entries import json_entries
from tests.evaluation.made_up import made_up


@pytest.fixture
def case():
    return made_up(seed=10, num_images=20)


VALUES = st.recursive(
    st.none()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet='ab{}[],": \\é𝄞\n')
    | st.integers(-(2**63), 2**63 - 1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    records=st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=4), max_size=8),
    window=st.integers(1, 60),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
)
def test_any_list_of_dictionaries(records, window, indent, ascii_only):
    """However small the pieces that are read, and whatever looks like an entry's end within one."""
    text = json.dumps(records, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    patch = pytest.MonkeyPatch()
    patch.setattr(json_entries_module, "WINDOW", max(window, len(text) // 4 + 1))
    try:
        found = list(json_entries(io.BytesIO(text), "r.json"))
    finally:
        patch.undo()
    assert [content for _, _, content, _ in found] == json.loads(text)
    for offset, length, content, _ in found:
        assert json.loads(text[offset : offset + length]) == content


def test_memory_of_a_large_file_is_that_of_a_window(case, run, monkeypatch):
    """Same numbers where the file is read in pieces smaller than an entry's neighbours."""
    whole = run(*case)
    monkeypatch.setattr(json_entries_module, "WINDOW", 500)
    assert run(*case) == whole


def test_nan_in_a_field_that_nobody_reads(case, run):
    expected = run(*case)
    case[1][5]["logit"] = float("nan")
    assert run(*case) == expected
