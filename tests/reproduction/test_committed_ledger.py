"""The committed runs: whole, of today's configs, and a page has the table that they give."""

import pytest

from eql_d2.engine.ledger.reading import read_ledger
from eql_d2.reproduction.collect import collect, text_table
from eql_d2.reproduction.tables import find_table
from tests.conftest import ROOT

ITERATIONS = {"emoji_benchmark": {1200, 300}, "emoji_federated": {1200}}  # all that a table's runs have
PAGES = {"emoji_benchmark": "emoji_lvis.md", "emoji_federated": "emoji_federated.md"}


@pytest.fixture(scope="module")
def ledger():
    return read_ledger([ROOT / "benchmarks" / "ledger"])


@pytest.fixture(params=ITERATIONS)
def table(request):
    return find_table(request.param, ROOT / "configs" / "tables")


@pytest.mark.parametrize("folder", ["ledger", "ledger_emoji"])
def test_entries_lie_under_their_names_and_are_of_committed_sources(folder):
    ledger = read_ledger([ROOT / "benchmarks" / folder])
    assert ledger.entries and not ledger.skipped
    for path, entry in ledger.entries.items():
        assert path == ROOT / "benchmarks" / folder / f"{entry['name']}.json"
        assert entry["git"]["revision"] and not entry["git"]["dirty"]


def test_the_page_has_the_table_of_the_ledger(table, ledger, monkeypatch):
    monkeypatch.chdir(ROOT)
    results, left_out = collect(table, ledger)
    assert left_out == []
    assert all(len(result.entries) >= 2 for result in results)
    assert text_table(results, "github") in (ROOT / "docs" / PAGES[table.name]).read_text()


def test_all_rows_differ_in_their_method_alone(table, ledger):
    """One data set, one machine, one set of versions, and as many iterations but for the second stage."""
    rows = tuple(f"{row.name}/" for row in table.rows)
    of_table = [entry for entry in ledger.entries.values() if entry["name"].startswith(rows)]
    for key in ("datasets", "versions", "hardware"):
        assert all(entry[key] == of_table[0][key] for entry in of_table), key
    assert {entry["iterations"] for entry in of_table} == ITERATIONS[table.name]
