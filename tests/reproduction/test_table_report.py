"""A paper's table in a report: reported, reproduced and their difference, worked out by hand."""

import json

import pytest

from eql_d2.engine import load_config
from eql_d2.engine.ledger.writing import plain_config
from eql_d2.errors import UserError
from eql_d2.reproduction.recipes import recipe_of_row
from eql_d2.reproduction.table_report import tables_of
from eql_d2.reproduction.tables import find_table
from tests.analysis.test_dataset_report import PageReader
from tests.conftest import ROOT
from tests.ledger_entries import made_up_entry

CONFIG = "configs/LVISv0.5/official/mask_rcnn_R50_FPN/softmax.yaml"


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """Three runs of eql_readme/r072 (reported: AP 21.2, APr 3.2, APbbox 20.8), one of them of another config."""
    monkeypatch.chdir(ROOT)
    config = plain_config(load_config(CONFIG))
    folder = tmp_path / "ledger" / "eql_readme" / "r072"
    folder.mkdir(parents=True)
    for seed, (ap, rare, box) in enumerate([(20.0, 3.0, 22.0), (22.0, None, 22.4), (99.0, 99.0, 99.0)]):
        metrics = {"lvis_v0.5_val": {"segm": {"AP": ap, "APr": rare}, "bbox": {"AP": box}}}
        entry = made_up_entry(name=f"eql_readme/r072/seed_{seed}", seed=seed, config=config, metrics=metrics)
        if seed == 2:
            entry["config"] = json.loads(json.dumps(config))
            entry["config"]["SOLVER"]["BASE_LR"] = 0.5
        (folder / f"seed_{seed}.json").write_text(json.dumps(entry))
    return tmp_path / "ledger"


def rows_of(section: str) -> tuple[list[str], dict[str, list[str]]]:
    groups, headers, *rows = [row for row in PageReader(section).rows if row]
    assert groups[1:6] == ["AP", "APr", "APc", "APf", "APbbox"]
    return headers, {row[0].split(" · ")[0][-4:]: row for row in rows}


def test_reported_reproduced_difference(ledger):
    (section,) = tables_of([ledger])
    headers, rows = rows_of(section)
    assert headers[:4] == ["method", "reported", "here", "diff."]
    ap, rare, box = (rows["r072"][start : start + 3] for start in (1, 4, 13))
    assert ap == ["21.2", "21.0 ± 1.0", "−0.2"]  # of 20 and 22: s = sqrt(2), over sqrt(2) runs
    assert rare == ["3.2", "3.0", "−0.2"]  # one of two runs has it
    assert box == ["20.8", "22.2 ± 0.2", "+1.4"]  # more than two errors better
    assert rows["r072"][16] == "2"
    assert section.count('better" data-v="1.4"') == 1 and "worse" not in section
    assert rows["r072"][0] == "Mask R-CNN baseliner072 · Mask R-CNN R50-FPN"
    assert rows["r073"][1:4] == ["24.0", "–", "–"]  # no run
    assert list(rows) == [row.id for row in find_table("eql_readme").rows]
    assert "seed_2.json is named after row eql_readme/r072, but differs from it in SOLVER.BASE_LR" in section


def test_another_dataset_has_no_difference(ledger, monkeypatch):
    recipe = recipe_of_row(find_table("eql_readme").by_id["r072"], "emoji")
    for path in ledger.rglob("*.json"):
        entry = json.loads(path.read_text())
        path.write_text(json.dumps({**entry, "config": plain_config(recipe.cfg), "first_stage": recipe.first.hash}))
    (section,) = tables_of([ledger], ["eql_readme"], scale="emoji")
    _, rows = rows_of(section)
    assert rows["r072"][1:4] == ["21.2", "47.0 ± 26.0", "–"]
    assert "no difference to what is reported on another dataset" in section


def test_a_table_that_nothing_was_reported_for_has_no_such_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe = recipe_of_row(find_table("emoji_benchmark").by_id["seesaw"])
    for seed, ap in enumerate([20.0, 22.0]):
        entry = made_up_entry(
            name=f"emoji_benchmark/seesaw/seed_{seed}",
            seed=seed,
            config=plain_config(recipe.cfg),
            first_stage=recipe.first.hash,
            metrics={"emoji_lvis_demo_val": {"segm": {"AP": ap}}},
            seconds={"training": 120.0, "evaluation": 1.0},
            peak_memory_mb={"host": 800.4, "gpu": None},
        )
        (tmp_path / f"{seed}").mkdir()
        (tmp_path / f"{seed}" / "ledger.json").write_text(json.dumps(entry))
    (section,) = tables_of([tmp_path])
    headers, *rows = [row for row in PageReader(section).rows if row]
    assert headers == ["method", "AP", "APr", "APc", "APf", "minutes", "memory, MB", "seeds"]
    assert ["Seesaw Lossseesaw", "21.0 ± 1.0", "–", "–", "–", "2.0 ± 0.0", "800", "2"] in rows
    assert len(rows) == len(find_table("emoji_benchmark").rows)


def test_tables_by_name(ledger):
    eql, seesaw = tables_of([ledger], ["eql_readme", "seesaw_t1"])
    assert "(eql_readme)" in eql and "(seesaw_t1)" in seesaw
    with pytest.raises(UserError, match="no table eql_redme; did you mean eql_readme"):
        tables_of([ledger], ["eql_redme"])
