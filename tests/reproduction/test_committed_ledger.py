"""The committed runs: whole, of today's configs, and a page has the table that they give."""

import json
import math

import pytest

from eql_d2.engine.ledger.reading import read_ledger
from eql_d2.reproduction.collect import collect, text_table
from eql_d2.reproduction.tables import find_table
from tests.conftest import ROOT
from tests.docs_pages import tables

# All that a table's runs have.
ITERATIONS = {
    "emoji_benchmark": {1200, 300},
    "emoji_federated": {1200},
    "emoji_federated_since": {1200},
    "emoji_one_stage": {1200},
}
FEDERATION = ROOT / "benchmarks" / "results" / "federation.json"
PAGES = {
    "emoji_benchmark": "emoji_lvis.md",
    "emoji_federated": "emoji_federated.md",
    "emoji_federated_since": "emoji_federated.md",
    "emoji_one_stage": "methods/one_stage.md",
}


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
    seeds = {len(result.entries) for result in results}
    assert len(seeds) == 1  # of all rows the same
    assert text_table(results, "github") in (ROOT / "docs" / PAGES[table.name]).read_text()


def test_all_rows_differ_in_their_method_alone(table, ledger):
    """One data set, one machine, one set of versions, and as many iterations but for the second stage."""
    rows = tuple(f"{row.name}/" for row in table.rows)
    of_table = [entry for entry in ledger.entries.values() if entry["name"].startswith(rows)]
    assert len(of_table) % len(table.rows) == 0
    for key in ("datasets", "versions", "hardware"):
        assert all(entry[key] == of_table[0][key] for entry in of_table), key
    assert {entry["iterations"] for entry in of_table} == ITERATIONS[table.name]


def test_the_page_has_the_differences_of_the_ledger(ledger):
    """Of means, and in standard errors."""
    (told,) = (
        table for table in tables(ROOT / "docs" / "emoji_federated.md") if table.header[:2] == ("method", "above")
    )
    federated = find_table("emoji_federated", ROOT / "configs" / "tables")
    of_method = {result.row.method: result.metrics for result in collect(federated, ledger)[0]}
    for method, above, *differences in told.rows:
        for metric, text in zip(told.header[2:], differences, strict=True):
            (mean, error, _), (other, its_error, _) = of_method[method][metric], of_method[above][metric]
            expected = f"{mean - other:+.1f} ({(mean - other) / math.hypot(error, its_error):.0f})"
            assert text == expected.replace("-", "−"), (method, above, metric)


def test_the_page_has_the_numbers_of_the_detections_judged_again():
    (told,) = (table for table in tables(ROOT / "docs" / "emoji_federated.md") if "100 %" in table.header)
    methods = {row.method: row.id for row in find_table("emoji_federated", ROOT / "configs" / "tables").rows}
    measured = {(entry["row"], entry["negatives"]): entry for entry in json.loads(FEDERATION.read_text())}
    for method, *values in told.rows:
        of_row = [measured[methods[method], negatives] for negatives in (2, None, 30, 299)]
        assert list(values) == [f"{entry['AP']:.1f} / {entry['APr']:.1f}" for entry in of_row], method
