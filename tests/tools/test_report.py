"""tools/report.py and tools/figures.py: the page stands alone, says what it lacks, and works in a browser."""

import json
import runpy
import sys

import pytest

from eql_d2.analysis.finished_runs import FinishedRun
from eql_d2.analysis.report_tables import runs_table
from tests.analysis.made_up_run import ledger_entry, write_dataset, write_run
from tests.analysis.test_dataset_report import PageReader
from tests.browser import Browser, find_browser
from tests.conftest import ROOT
from tools import figures, report


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two run folders and a folder of ledger entries."""
    folder = tmp_path_factory.mktemp("runs")
    dataset = write_dataset(folder / "data")
    write_run(folder / "eql", dataset)
    # A name with markup, and a run without a checkpoint.
    other = write_run(folder / "<b>softmax", dataset, PREDICTOR="SoftmaxPredictor")
    (other / "model_final.pth").unlink()
    ledger = folder / "ledger"
    ledger.mkdir()
    for seed, ap in enumerate((9.5, 10.5, 101.25)):
        entry = ledger_entry(dataset, name=f"seesaw/seed_{seed}", seed=seed)
        entry["metrics"]["made_up_val"]["bbox"] = {"AP": ap, "APr": None if seed else 4.0}
        (ledger / f"seed_{seed}.json").write_text(json.dumps(entry))
    (ledger / "old.json").write_text(json.dumps(ledger_entry(dataset, version=0)))
    return [str(folder / "eql"), str(folder / "<b>softmax"), str(ledger)]


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "folder" / "report.html"
    report.main(["--runs", *runs, "--output", str(path)])
    return path


def test_the_page_is_well_formed_and_stands_alone(page):
    reader = PageReader(page.read_text())
    assert len(reader.ids) == len(set(reader.ids))
    inside = {link for link in reader.links if link.startswith("#")}
    assert {link[1:] for link in inside} <= set(reader.ids)
    assert all(link.startswith("data:image/jpeg;base64,") for link in set(reader.links) - inside)


def test_the_page_has_the_numbers_of_the_runs(page):
    rows = [row for row in PageReader(page.read_text()).rows if row]
    header = next(row for row in rows if row[0] == "run")
    assert header[:5] == ["run", "AP of", "AP", "AP50", "APr"]
    assert ["seesaw/seed_2", "box", "101.2", "–", "–"] in [row[:5] for row in rows]
    assert ["eql", "box", "20.0", "–", "10.0", "20.0", "30.0"] in [row[:7] for row in rows]
    costs = header.index("seed")
    assert next(row for row in rows if row[0] == "seesaw/seed_2")[costs : costs + 4] == ["2", "40", "1.5", "1,000"]


def test_how_lines_are_drawn_is_said_once(page):
    assert page.read_text().count("the band is one standard deviation of their lines") == 1


def test_the_page_says_what_it_lacks(page):
    text = page.read_text()
    assert "old.json has version 0" in text
    assert "model_final.pth is missing" in text
    assert "<li>&lt;b&gt;softmax: " in text
    assert "<b>softmax" not in text  # a name is no markup


def test_tasks_of_other_metrics_have_a_table_of_their_own(tmp_path):
    entry = ledger_entry(write_dataset(tmp_path / "data"), name="images")
    entry["metrics"] = {"cifar": {"classification": {"top1": 71.25, "many": None}}}
    table, left_out = runs_table([FinishedRun("images", None, entry)])
    header, row = [row for row in PageReader(table).rows if row]
    assert header[:4] == ["run", "classification", "top1", "many"]
    assert row[:4] == ["images", "classification", "71.2", "–"]
    assert not left_out


def test_nothing_to_report_on(tmp_path, monkeypatch):
    (tmp_path / "broken.json").write_text("{")
    monkeypatch.setattr(sys, "argv", ["report.py", "--runs", str(tmp_path), "--output", str(tmp_path / "page.html")])
    with pytest.raises(SystemExit, match=r"^error: There is nothing to report on\. .*broken\.json was skipped"):
        runpy.run_path(str(ROOT / "tools" / "report.py"), run_name="__main__")
    assert not (tmp_path / "page.html").exists()


def test_a_figure_as_a_file(runs, tmp_path, capsys):
    figures.main([*runs[:2], "--figure", "weight-norm", "--output", str(tmp_path / "norms.svg")])
    told = capsys.readouterr().out
    assert "Not in the figure: <b>softmax: " in told and "model_final.pth is missing" in told
    assert (tmp_path / "norms.svg").read_text().count("<svg") == 1


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_browser()
    if program is None:
        pytest.skip("needs Chromium or Chrome, which is not here; EQL_D2_BROWSER may name one")
    with Browser(program, tmp_path_factory.mktemp("browser")) as browser:
        yield browser


COLUMN = """[...document.querySelectorAll('[data-name="runs"] tbody tr')].filter(row => !row.hidden)
    .map(row => row.cells[%d].textContent)"""


def header(column: int) -> str:
    return f'[data-name="runs"] th:nth-child({column + 1}) button'


def test_a_click_on_a_header_sorts(page, browser):
    browser.open(page)
    as_written = browser.run(COLUMN % 0)
    assert len(as_written) == 5
    # Numbers by value, not as text: best first, then worst first; what is not there is last in both.
    browser.click(header(2))
    assert browser.run(COLUMN % 2) == ["101.2", "20.0", "20.0", "10.5", "9.5"]
    browser.click(header(2))
    assert browser.run(COLUMN % 2) == ["9.5", "10.5", "20.0", "20.0", "101.2"]
    assert browser.run(f"document.querySelector('{header(2)}').parentElement.ariaSort") == "ascending"
    for expected in (["10.0", "10.0", "4.0", "–", "–"], ["4.0", "10.0", "10.0", "–", "–"]):
        browser.click(header(4))
        assert browser.run(COLUMN % 4) == expected
    browser.click(header(0))
    assert browser.run(COLUMN % 0) == sorted(as_written)
    assert browser.run("document.querySelectorAll('th[aria-sort]').length") == 1
    assert not browser.errors


def test_the_text_field_filters(page, browser):
    browser.open(page)
    browser.click("#filter")
    browser.type("SEED_")
    assert browser.run(COLUMN % 0) == ["seesaw/seed_0", "seesaw/seed_1", "seesaw/seed_2"]
    browser.type(" 101")
    assert browser.run(COLUMN % 0) == ["seesaw/seed_2"]
    assert browser.run("document.getElementById('matches').textContent").startswith("1 of ")
    browser.type("nothing")
    assert browser.run(COLUMN % 0) == []
    browser.run("document.getElementById('filter').select()")
    browser.type(" ")
    assert len(browser.run(COLUMN % 0)) == 5
    assert not browser.errors


def test_a_picture_grows_at_a_click(page, browser):
    browser.open(page, width=390)
    width = "document.querySelector('.pair img').getBoundingClientRect().width"
    small = browser.run(width)
    browser.click(".pair .enlarge")
    shown = "document.querySelector('dialog[open] img')"
    assert browser.run(f"{shown}.decode().then(() => {shown}.getBoundingClientRect().width)") > 2 * small
    browser.click("dialog button")
    assert browser.run(f"{shown} === null")
    assert not browser.errors


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_is_silent(page, browser, width, scheme):
    browser.open(page, width=width, scheme=scheme)
    assert not browser.errors
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.resolve().as_uri()]
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    lightness = browser.run(
        "[document.body, ...document.querySelectorAll('svg text')].map(e => getComputedStyle(e))"
        ".map((s, i) => (i ? s.fill : s.backgroundColor).match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3)"
    )
    paper, texts = lightness[0], lightness[1:]
    assert (paper > 128) == (scheme == "light")
    assert texts and all(abs(paper - text) > 100 for text in texts)  # text of figures can be read


def test_the_browser_would_tell_of_errors(browser, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text("<!DOCTYPE html><img src='missing.png'><script>console.error('a'); nothing()</script>")
    browser.open(broken)
    assert len(browser.errors) >= 3
    assert any("missing.png" in url for url in browser.requests)
