"""Collecting: means and standard errors worked out by hand, and nothing mixed that does not belong together."""

import json
import math
from pathlib import Path

import pytest

from eql_d2.engine.ledger.identity import plain_config
from eql_d2.engine.ledger.reading import mean_and_error, read_entry, read_ledger
from eql_d2.errors import UserError
from eql_d2.reproduction.collect import collect, records, text_table
from eql_d2.reproduction.recipes import recipe_of_row
from eql_d2.reproduction.tables import find_table
from tests.ledger_entries import made_up_entry


def test_entries_are_kept_and_never_overwritten(leave, reproduce, capsys):
    path = leave("eql", 0, 20.0)
    leave("eql", 1, 22.0)
    reproduce(["collect", "runs", "--table", "mini", "--copy-to", "kept"])
    from_runs = capsys.readouterr().out
    assert sorted(str(p) for p in Path("kept").rglob("*.json")) == [f"kept/mini/eql/seed_{n}.json" for n in (0, 1)]
    assert read_entry("kept/mini/eql/seed_0.json") == read_entry(path)
    reproduce(["collect", "--ledger", "kept", "--table", "mini", "--copy-to", "kept"])  # they are the same
    assert capsys.readouterr().out == from_runs
    leave("eql", 0, 30.0, place="others")
    with pytest.raises(UserError, match=r"kept/mini/eql/seed_0.json is the entry of another run"):
        reproduce(["collect", "others", "--table", "mini", "--copy-to", "kept"])
    assert read_entry("kept/mini/eql/seed_0.json") == read_entry(path)


def test_mean_and_standard_error():
    # 20, 22 and 27: mean 23, squares 9 + 1 + 16 = 26, variance 13, error sqrt(13 / 3)
    assert mean_and_error([20.0, 22.0, 27.0]) == pytest.approx((23, math.sqrt(13 / 3)))
    assert mean_and_error([5.0])[0] == 5 and math.isnan(mean_and_error([5.0])[1])
    assert all(map(math.isnan, mean_and_error([])))


@pytest.fixture
def leave(mini_root):
    """Writes the entry of a finished run of the table mini."""
    table = find_table("mini")

    def write(row, seed, ap, place=None, overrides=(), **changes):
        recipe = recipe_of_row(table.by_id[row])
        cfg = recipe.cfg.clone()
        cfg.merge_from_list(["OUTPUT_DIR", f"runs/{row}/{seed}", "SEED", seed, *overrides])
        entry = made_up_entry(
            name=f"mini/{row}/seed_{seed}",
            seed=seed,
            config=plain_config(cfg),
            first_stage=recipe.first.hash if recipe.first else None,
            metrics={"tiny_val": {"segm": {"AP": ap, "APr": None}, "bbox": {"AP": ap + 1}}},
            seconds={"training": 60.0 * ap, "evaluation": 1.0},
            datasets={"tiny_train": {"digest": "a", "num_images": 3}},
        )
        path = mini_root / (place or f"runs/{row}/seed_{seed}") / "ledger.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({**entry, **changes}))
        return path

    return write


def collected(folder):
    results, left_out = collect(find_table("mini"), read_ledger([folder]))
    return {result.row.id: result for result in results}, [s for s in left_out if "gone" not in s and "htc" not in s]


def test_reported_reproduced_and_difference(leave, mini_root):
    for seed, ap in enumerate((20.0, 22.0, 27.0)):
        leave("eql", seed, ap)
    by_row, left_out = collected(mini_root / "runs")
    assert left_out == []
    assert by_row["eql"].metrics["AP"] == pytest.approx((23.0, math.sqrt(13 / 3), 3))
    assert by_row["eql"].metrics["APbbox"][0] == pytest.approx(24.0)
    assert by_row["eql"].metrics["APr"][2] == 0  # undefined in all runs
    assert by_row["eql"].minutes[0] == pytest.approx(23.0)
    assert by_row["softmax"].metrics["AP"][2] == 0
    assert by_row["same"].metrics == {"AP": by_row["eql"].metrics["AP"]}  # the same training
    (record,) = [record for record in records(list(by_row.values())) if record["row"] == "mini/eql"]
    assert record["metrics"]["AP"]["difference"] == pytest.approx(3.0)
    assert (record["minutes"], record["memory_mb"]) == (by_row["eql"].minutes[0], by_row["eql"].memory[0])
    assert record["metrics"]["APr"] == {"reported": 5.0, "mean": None, "error": None, "seeds": 0, "difference": None}
    table = text_table(list(by_row.values()))
    assert "20 / 23.0 ± 2.1 (+3.0)" in table and "5 / –" in table and "18.5 / –" in table


def test_one_run_has_minutes_and_memory_and_no_error(leave, mini_root):
    leave("eql", 0, 20.0)
    by_row, _ = collected(mini_root / "runs")
    (record,) = [record for record in records(list(by_row.values())) if record["row"] == "mini/eql"]
    assert record["minutes"] > 0 and record["memory_mb"] > 0 and record["metrics"]["AP"]["error"] is None


def test_memory_is_that_of_the_gpu_where_there_was_one(leave, mini_root):
    leave("eql", 0, 20.0, peak_memory_mb={"gpu": 900.0, "host": 5000.0})
    leave("softmax", 0, 20.0, peak_memory_mb={"gpu": None, "host": 3000.0})
    by_row, _ = collected(mini_root / "runs")
    assert by_row["eql"].memory[::2] == (900.0, 1)
    assert by_row["softmax"].memory[::2] == (3000.0, 1)


def test_runs_of_another_table_are_no_strangers_in_this_one(leave, mini_root):
    """... though a row there has the name of one here and another config."""
    leave("eql", 0, 20.0)
    leave("eql", 1, 90.0, name="other/eql/seed_1", overrides=["SOLVER.BASE_LR", 0.5])
    by_row, left_out = collected(mini_root / "runs")
    assert (by_row["eql"].metrics["AP"][::2], left_out) == ((20.0, 1), [])


def test_runs_that_differ_in_more_than_the_seed_are_named_and_not_averaged(leave, mini_root):
    leave("eql", 0, 20.0)
    path = leave("eql", 1, 90.0, overrides=["SOLVER.BASE_LR", 0.5, "SOLVER.MAX_ITER", 3])
    by_row, left_out = collected(mini_root / "runs")
    assert by_row["eql"].metrics["AP"][0] == 20.0 and by_row["eql"].metrics["AP"][2] == 1
    assert left_out == [f"{path} is named after row mini/eql, but differs from it in SOLVER.BASE_LR, SOLVER.MAX_ITER."]


def test_what_a_second_stage_started_from_matters(leave, mini_root):
    leave("bags", 0, 20.0)
    path = leave("bags", 1, 90.0, first_stage="another")
    by_row, left_out = collected(mini_root / "runs")
    assert by_row["bags"].metrics["AP"][0] == 20.0
    assert not by_row["bags_on_eql"].entries
    assert left_out == [f"{path} is named after row mini/bags, but differs from it in its first stage."]


def test_two_runs_of_a_seed_and_runs_on_other_data_are_left_out(leave, mini_root):
    leave("eql", 0, 20.0)
    leave("eql", 1, 22.0, place="runs/x/y", name="other/x/seed_1")
    leave("eql", 1, 23.0, place="runs/z/y", name="other/z/seed_1")
    by_row, left_out = collected(mini_root / "runs")
    assert by_row["eql"].metrics["AP"][0] == 20.0
    assert any("Row mini/eql has 2 runs of seed 1" in sentence for sentence in left_out)
    leave("softmax", 0, 20.0)
    leave("softmax", 1, 30.0, datasets={"tiny_train": {"digest": "b", "num_images": 3}})
    by_row, left_out = collected(mini_root / "runs")
    assert not by_row["softmax"].entries
    assert any("Row mini/softmax was trained on different data" in sentence for sentence in left_out)


def test_a_rows_own_run_goes_before_that_of_an_equal_row(leave, mini_root):
    leave("eql", 0, 20.0)
    leave("same", 0, 30.0)
    by_row, left_out = collected(mini_root / "runs")
    assert (by_row["eql"].metrics["AP"][0], by_row["same"].metrics["AP"][0], left_out) == (20.0, 30.0, [])


def test_tool_tells_what_it_left_out(leave, mini_root, reproduce, capsys):
    leave("eql", 0, 20.0)
    half = mini_root / "runs" / "eql" / "seed_7"
    half.mkdir()
    (half / "config.yaml").write_text("SEED: 7")
    old = leave("eql", 2, 99.0, version=0)
    reproduce(["collect", "runs"])
    printed = capsys.readouterr().out
    assert "20 / 20.0 (+0.0)" in printed
    assert "Left out: runs/eql/seed_7 has no ledger.json: the run has not finished" in printed
    assert f"Left out: Ledger entry {old.relative_to(mini_root)} has version 0" in printed
    with pytest.raises(UserError, match="There is no finished run of a table in empty"):
        (mini_root / "empty").mkdir()
        reproduce(["collect", "empty"])


def test_committed_entries_are_read(leave, mini_root, reproduce, capsys):
    path = leave("eql", 0, 20.0)
    copy = mini_root / "benchmarks" / "ledger" / "mini" / "eql" / "seed_0.json"
    copy.parent.mkdir(parents=True)
    path.rename(copy)
    reproduce(["collect", "--ledger", "benchmarks/ledger", "--format", "markdown"])
    assert "20 / 20.0 (+0.0)" in capsys.readouterr().out
