"""Plans: each training once and after what it starts from; done, broken and foreign folders are told apart."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from eql_d2.data.registration import register_datasets
from eql_d2.engine.auto_values import resolve_auto_values
from eql_d2.engine.ledger.identity import config_hash, plain_config
from eql_d2.engine.ledger.reading import read_entry
from eql_d2.errors import UserError
from eql_d2.reproduction.local import dry_run, weights_of
from eql_d2.reproduction.planned_runs import command_of, finished_runs, plan, state_of
from eql_d2.reproduction.recipes import name_with_changes, split_changes
from eql_d2.reproduction.tables import find_rows, find_table
from tests.conftest import ROOT
from tests.ledger_entries import made_up_entry

OUTPUT = Path("out")
AUTO_TABLE = """
dataset: tiny
model: Mask R-CNN
task: segm
config: tiny.yaml
seeds: [0]
rows:
- {id: auto, method: EQL, overrides: &auto [MODEL.LONG_TAIL.EQL.LAMBDA, auto]}
- {id: second, method: BAGS, first_stage: {config: tiny.yaml, overrides: *auto},
   overrides: [MODEL.ROI_BOX_HEAD.PREDICTOR, BAGSPredictor]}
- {id: by_hand, method: EQL, overrides: [MODEL.LONG_TAIL.EQL.LAMBDA, 0.0314]}
"""


@pytest.fixture
def mini_plan(mini_root):
    table = find_table("mini")
    return plan(table, table.rows, table.seeds, OUTPUT)


def finish(run, **changes):
    """Leave what a finished run leaves."""
    run.folder.mkdir(parents=True)
    first = run.before.recipe.hash if run.before else None
    entry = made_up_entry(
        name=run.name,
        config=plain_config(run.recipe.cfg),
        config_hash=run.recipe.hash,
        seed=run.seed,
        first_stage=first,
    )
    (run.folder / "ledger.json").write_text(json.dumps({**entry, **changes}))
    (run.folder / "model_final.pth").write_text("weights")


def interrupt(run, cfg=None):
    """Leave what a killed run leaves."""
    run.folder.mkdir(parents=True)
    (run.folder / "config.yaml").write_text((cfg or run.recipe.cfg).dump())
    (run.folder / "last_checkpoint").write_text("model_0000001.pth")


def test_each_training_once_and_first_stages_first(mini_plan):
    runs, left_out = mini_plan
    first = next(run.name for run in runs if "first_stage" in run.name)
    hash_ = first.split("/")[1]
    assert [run.name for run in runs] == [
        *("mini/eql/seed_0", "mini/eql/seed_1"),  # the row "same" is the same training
        *("mini/softmax/seed_0", "mini/softmax/seed_1"),
        *("mini/bags/seed_0", "mini/bags/seed_1"),  # after the row softmax, which is planned already
        *(f"mini/{hash_}/seed_0", "mini/bags_on_eql/seed_0", f"mini/{hash_}/seed_1", "mini/bags_on_eql/seed_1"),
    ]
    assert [run.before.name for run in runs if run.before] == [
        "mini/softmax/seed_0",
        "mini/softmax/seed_1",
        f"mini/{hash_}/seed_0",
        f"mini/{hash_}/seed_1",
    ]
    assert left_out == [
        "Row mini/htc cannot be trained: HTC is not part of Detectron2.",
        "Row mini/gone: its config configs/gone.yaml no longer exists.",
    ]


def test_a_row_alone_brings_its_first_stage_under_the_name_of_that_row(mini_root):
    table = find_table("mini")
    runs, _ = plan(table, [table.by_id["bags"]], [4], OUTPUT)
    assert [run.name for run in runs] == ["mini/softmax/seed_4", "mini/bags/seed_4"]


def test_states(mini_plan):
    runs, _ = mini_plan
    by_name = {run.name: run for run in runs}
    eql, other_seed, softmax = (by_name[f"mini/{name}"] for name in ("eql/seed_0", "eql/seed_1", "softmax/seed_0"))
    assert state_of(eql, {}) == ("new", eql.folder)
    eql.folder.mkdir(parents=True)  # killed before its first checkpoint
    assert state_of(eql, {})[0] == "new"
    eql.folder.rmdir()
    interrupt(eql)
    assert state_of(eql, {})[0] == "resume"
    assert "--resume" in command_of(eql, "resume", num_gpus=1)
    finish(softmax)
    assert state_of(softmax, finished_runs(OUTPUT)) == ("done", softmax.folder)
    assert state_of(other_seed, finished_runs(OUTPUT))[0] == "new"


def test_an_equal_run_of_another_table_is_not_repeated(mini_plan, mini_root):
    runs, _ = mini_plan
    finish(runs[0])
    runs[0].folder.parent.rename(OUTPUT / "mini" / "moved")
    assert state_of(runs[0], finished_runs(OUTPUT)) == ("done", OUTPUT / "mini" / "moved" / "seed_0")
    # The second stages have one config; what tells them apart is what they start from.
    bags, on_eql = (next(run for run in runs if run.name == f"mini/{name}/seed_0") for name in ("bags", "bags_on_eql"))
    finish(bags)
    assert state_of(on_eql, finished_runs(OUTPUT))[0] == "new"


def test_an_equal_run_is_known_where_the_data_settles_a_value(mini_root):
    """An entry has the value itself: the recipe's is worked out from the data, and no other value is taken for it."""
    (mini_root / "configs" / "tables" / "auto.yaml").write_text(AUTO_TABLE)
    table = find_table("auto")
    runs, _ = plan(table, table.rows, [0], OUTPUT)
    auto, second, by_hand = runs
    settled = auto.recipe.cfg.clone()
    register_datasets(settled)
    resolve_auto_values(settled)
    assert settled.MODEL.LONG_TAIL.EQL.LAMBDA != by_hand.recipe.cfg.MODEL.LONG_TAIL.EQL.LAMBDA
    finish(auto, config=plain_config(settled), config_hash=config_hash(plain_config(settled)))
    auto.folder.parent.rename(OUTPUT / "auto" / "moved")
    moved = OUTPUT / "auto" / "moved" / "seed_0"
    assert state_of(auto, finished_runs(OUTPUT)) == ("done", moved)
    assert state_of(by_hand, finished_runs(OUTPUT))[0] == "new"
    assert weights_of(second, OUTPUT) == moved / "model_final.pth"


def test_a_folder_of_another_config_is_refused(mini_plan):
    eql, *_ = mini_plan[0]
    other = eql.recipe.cfg.clone()
    other.SOLVER.BASE_LR = 0.5
    interrupt(eql, other)
    with pytest.raises(UserError, match=r"config differs from the row's in SOLVER.BASE_LR; move it away or set"):
        state_of(eql, {})
    (eql.folder / "config.yaml").write_text("SOLVER: {BASE")
    with pytest.raises(UserError, match="holds a checkpoint, but no whole config"):
        state_of(eql, {})
    (eql.folder / "ledger.json").write_text('{"version": 1, "na')
    with pytest.raises(UserError, match="not JSON or cut short"):
        state_of(eql, {})


def test_commands_build_the_configs_that_the_plan_says(mini_plan):
    from eql_d2.engine import default_argument_parser, load_config

    lines = dry_run(mini_plan[0], OUTPUT, None)
    assert len(lines) == 2 * len(mini_plan[0])
    for name, command, run in zip(lines[::2], lines[1::2], mini_plan[0], strict=True):
        python, tool, *arguments = shlex.split(command)
        assert (name, python, tool) == (f"# {run.name}", "python", str(ROOT / "tools" / "train_net.py"))
        args = default_argument_parser().parse_args(arguments)
        cfg = load_config(args.config_file, args.opts)
        assert config_hash(plain_config(cfg)) == run.recipe.hash
        assert (run.seed, str(run.folder)) == (cfg.SEED, cfg.OUTPUT_DIR)
        assert not run.before or str(run.before.folder / "model_final.pth") == cfg.MODEL.WEIGHTS


def test_tool_names_mistakes_in_a_sentence(mini_root, reproduce):
    with pytest.raises(UserError, match=r"^Table mini has no row eq1; did you mean eql\?$"):
        reproduce(["run", "mini/eq1", "--dry-run"])
    with pytest.raises(UserError, match=r"mini/gone has no row to run"):
        reproduce(["run", "mini/gone"])


CHANGES = ["SOLVER.BASE_LR", "0.01", "MODEL.LONG_TAIL.EQL.LAMBDA", "0.5"]


def test_changes_are_of_the_row_alone_and_have_a_folder_of_their_own(mini_root):
    table = find_table("mini")
    rows = [table.by_id["bags"]]
    runs, _ = plan(table, rows, [0], OUTPUT, changes=CHANGES)
    first, second = runs
    assert first.name == "mini/softmax/seed_0"  # with no change
    assert first.recipe.hash == plan(table, rows, [0], OUTPUT)[0][0].recipe.hash
    assert second.name == "mini/bags@SOLVER.BASE_LR=0.01@EQL.LAMBDA=0.5/seed_0"
    assert (second.recipe.cfg.SOLVER.BASE_LR, second.recipe.cfg.MODEL.LONG_TAIL.EQL.LAMBDA) == (0.01, 0.5)
    assert second.before == first
    command = command_of(second, "new", num_gpus=1, weights=Path("w.pth"))
    assert command[command.index("MODEL.WEIGHTS") + 1] == "w.pth"
    # A value that the row has anyway makes no other training.
    same, _ = plan(table, rows, [0], OUTPUT, changes=["SOLVER.MAX_ITER", "2"])
    assert [run.name for run in same] == ["mini/softmax/seed_0", "mini/bags/seed_0"]


def test_a_long_name_of_changes_is_cut_and_stays_apart():
    changes = [word for number in range(9) for word in (f"SOLVER.A_RATHER_LONG_KEY_{number}", "('a', 'b/c')")]
    names = {name_with_changes("row", changes[:-2] + ["SOLVER.LAST", last]) for last in ("1", "2")}
    assert len(names) == 2 and all(len(name) <= 120 and "/" not in name for name in names)


def test_what_is_the_machines_changes_no_training():
    changes, of_machine = split_changes(["MODEL.DEVICE", "cpu", *CHANGES, "DATALOADER.NUM_WORKERS", "0"])
    assert (changes, of_machine) == (CHANGES, ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"])
    with pytest.raises(UserError, match=r"--opts SEED is not taken: folders and seeds follow from"):
        split_changes(["SEED", "3"])
    with pytest.raises(UserError, match=r"is not of the form KEY VALUE"):
        split_changes(["SOLVER.BASE_LR"])


OWN_TABLE = """
title: Mine
seeds: [0, 1, 2]
rows:
- {id: softmax, method: Softmax, config: mine.yaml}
- {id: eql, method: EQL, config: mine.yaml, overrides: [SOLVER.MAX_ITER, 3], sweep: {
    MODEL.LONG_TAIL.EQL.LAMBDA: [0.1, 0.2], MODEL.ROI_BOX_HEAD.PREDICTOR: [EQLPredictor]}}
"""


def test_a_table_of_ones_own_in_any_folder(mini_root, reproduce, capsys):
    folder = mini_root / "elsewhere"
    folder.mkdir()
    (folder / "mine.yaml").write_text(f"_BASE_: {mini_root / 'configs' / 'tiny.yaml'}\n")
    (folder / "table.yaml").write_text(OWN_TABLE)
    table, rows = find_rows("elsewhere/table.yaml")
    assert [row.id for row in rows] == ["softmax", "eql_0.1_EQLPredictor", "eql_0.2_EQLPredictor"]
    assert rows[1].method == "EQL (LAMBDA 0.1, PREDICTOR EQLPredictor)"
    runs, left_out = plan(table, rows, table.seeds, OUTPUT)
    assert len(runs) == 9 and not left_out
    cfg = runs[-1].recipe.cfg
    assert (cfg.SOLVER.MAX_ITER, cfg.MODEL.LONG_TAIL.EQL.LAMBDA) == (3, 0.2)
    reproduce(["run", "elsewhere/table.yaml/eql_0.1_EQLPredictor", "--seeds", "5", "--dry-run"])
    name, command = capsys.readouterr().out.splitlines()
    assert name == "# table/eql_0.1_EQLPredictor/seed_5"
    assert f"--config-file {Path('elsewhere', 'mine.yaml')} " in command
    with pytest.raises(UserError, match=r"Table elsewhere/table.yaml has no row softmx; did you mean softmax"):
        find_rows("elsewhere/table.yaml/softmx")
    with pytest.raises(UserError, match=r"elsewhere/table.yaml is no table of configs/tables; job scripts need"):
        reproduce(["jobs", "elsewhere/table.yaml", "--scheduler", "slurm"])
    (folder / "table.yaml").write_text("rows: [{id: a, config: mine.yaml, sweep: {KEY: 3}}]")
    with pytest.raises(UserError, match=r"Row table/a has a sweep that is not of the form KEY: \[value, value\]"):
        find_rows("elsewhere/table.yaml")


@pytest.mark.slow
def test_rows_train_resume_and_are_collected(mini_root, reproduce, capsys):
    more = ["--output", "out", "--seeds", "0", "--opts", "ENGINE.STOP_GRACE", "20"]
    reproduce(["run", "mini/bags", *more])
    first, second = read_entry("out/mini/softmax/seed_0"), read_entry("out/mini/bags/seed_0")
    assert first["first_stage"] is None
    assert second["first_stage"] == first["config_hash"]
    assert second["config_file"] == "configs/tiny.yaml"
    # A run killed in its evaluation: weights, no entry.
    (Path("out") / "mini" / "bags" / "seed_0" / "ledger.json").unlink()
    capsys.readouterr()
    reproduce(["run", "mini/bags", *more])
    printed = capsys.readouterr().out
    assert "mini/softmax/seed_0: done already" in printed and "resuming" in printed
    assert yaml.safe_load(Path("out/mini/bags/seed_0/config.yaml").read_text())["SEED"] == 0
    reproduce(["collect", "out", "--format", "json"])
    told = json.loads(capsys.readouterr().out)
    seeds = {row["row"]: row["seeds"] for row in told["tables"]["mini"]}
    assert seeds == {"mini/eql": [], "mini/same": [], "mini/softmax": [0], "mini/bags": [0], "mini/bags_on_eql": []}
    assert told["left_out"] == ["Row mini/gone: its config configs/gone.yaml no longer exists."]
