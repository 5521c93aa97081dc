"""Plans: each training once and after what it starts from; done, broken and foreign folders are told apart."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from eql_d2.engine.ledger.identity import plain_config
from eql_d2.engine.ledger.reading import read_entry
from eql_d2.errors import UserError
from eql_d2.reproduction.local import dry_run
from eql_d2.reproduction.planned_runs import command_of, finished_runs, plan, state_of
from eql_d2.reproduction.tables import find_table
from tests.conftest import ROOT
from tests.ledger_entries import made_up_entry

OUTPUT = Path("out")


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
    from eql_d2.engine.ledger.identity import config_hash

    lines = dry_run(mini_plan[0], OUTPUT, None)
    assert len(lines) == len(mini_plan[0])
    for line, run in zip(lines, mini_plan[0], strict=True):
        name, _, command = line.partition(": ")
        python, tool, *arguments = shlex.split(command)
        assert (name, python, tool) == (run.name, "python", str(ROOT / "tools" / "train_net.py"))
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


@pytest.mark.slow
def test_rows_train_resume_and_are_collected(mini_root, reproduce, capsys):
    more = ["--output", "out", "--seeds", "0", "--opts", "SOLVER.CHECKPOINT_PERIOD", "2"]
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
