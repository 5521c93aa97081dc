"""From the rows of a table to runs: which folder, what has to run before, and what is done already."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eql_d2.engine.ledger.reading import read_entry
from eql_d2.engine.ledger.writing import FILE_NAME
from eql_d2.errors import UserError
from eql_d2.package_files import TOOLS, configs_folder, shown_path
from eql_d2.plain_files import read_yaml
from eql_d2.reproduction.recipes import Recipe, changed, name_with_changes, recipe_of_row
from eql_d2.reproduction.tables import Row, Table

SCALES = ("paper", "emoji")
DEFAULT_OUTPUT = {"paper": Path("output/tables"), "emoji": Path("output/tables_emoji")}


@dataclass(frozen=True)
class PlannedRun:
    """One training, with a seed, of a row or of what comes before it.

    Attributes:
        name: ``TABLE/ROW/seed_N``; of a first stage that is no row, ``TABLE/first_stage_HASH/seed_N``.
        folder: its ``OUTPUT_DIR``.
        num_gpus: that the source of the row trained on.
        before: the run whose final weights it starts from.
    """

    name: str
    recipe: Recipe
    seed: int
    folder: Path
    num_gpus: int
    before: "PlannedRun | None" = None

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes two runs the same: hashes of the config and of the first stage's (or ""), and the seed."""
        return self.recipe.hash, self.recipe.first.hash if self.recipe.first else "", self.seed

    @property
    def key_of_entry(self) -> tuple[str | None, str | None, int]:
        """The same of its ledger entry, where values stand for ``auto``: one that no entry has without the data."""
        first = self.recipe.first
        return self.recipe.hash_of_runs, first.hash_of_runs if first else "", self.seed

    @property
    def stage(self) -> int:
        """1 of a run that starts from no other, else one more than the run before."""
        return self.before.stage + 1 if self.before else 1


def plan(
    table: Table,
    rows: Iterable[Row],
    seeds: Sequence[int],
    output: Path,
    scale: str = "paper",
    changes: Sequence[str] = (),
) -> tuple[list[PlannedRun], list[str]]:
    """The runs of some rows, each once, after what it starts from.

    Args:
        table: to which the rows belong.
        rows: those to run.
        seeds: one run of each row per seed.
        output: folder of all runs.
        scale: one of :data:`SCALES`.
        changes: KEY VALUE pairs that change the rows, and not what they start from; the runs have folders of their
            own then.

    Returns:
        The runs, and one sentence for each row that has none.
    """
    runs: dict[tuple[str, str, int], PlannedRun] = {}
    left_out: list[str] = []
    names = _names_by_hash(table, scale)
    for row in rows:
        try:
            recipe = recipe_of_row(row, scale)
            own = changed(recipe, changes)
        except UserError as error:
            left_out.append(str(error))
            continue
        name = row.id if own.hash == recipe.hash else name_with_changes(row.id, changes)
        for seed in seeds:
            _add(runs, own, seed, output, row, names | {own.hash: name})
    return list(runs.values()), left_out


def _names_by_hash(table: Table, scale: str) -> dict[str, str]:
    """{hash: row id} of the rows that are the first stages of others."""
    wanted = {row.training.first_stage for row in table.rows if row.training}
    names: dict[str, str] = {}
    for row in table.rows:
        if row.training and row.training in wanted:
            try:
                names.setdefault(recipe_of_row(row, scale).hash, row.id)
            except UserError:
                continue
    return names


def _add(
    runs: dict[tuple[str, str, int], PlannedRun],
    recipe: Recipe,
    seed: int,
    output: Path,
    row: Row,
    names: dict[str, str],
) -> PlannedRun:
    """Add a run after those that it starts from, unless it is there."""
    before = _add(runs, recipe.first, seed, output, row, names) if recipe.first else None
    own = names.get(recipe.hash, f"first_stage_{recipe.hash[:8]}")
    seed = seed if recipe.training.seed is None else recipe.training.seed
    name = f"{row.table}/{own}/seed_{seed}"
    run = PlannedRun(name, recipe, seed, output / name, row.num_gpus, before)
    return runs.setdefault(run.key, run)


def finished_runs(output: Path) -> dict[tuple[str, str, int], Path]:
    """{key of an entry: folder} of the finished runs below a folder; what cannot be read is not finished."""
    found: dict[tuple[str, str, int], Path] = {}
    for path in sorted(output.glob(f"*/*/seed_*/{FILE_NAME}")):
        try:
            entry = read_entry(path)
        except UserError:
            continue
        found.setdefault((entry["config_hash"], entry.get("first_stage") or "", entry["seed"]), path.parent)
    return found


def state_of(run: PlannedRun, finished: dict[tuple[str, str, int], Path]) -> tuple[str, Path]:
    """How far a run is.

    Args:
        run: one of a plan.
        finished: of :func:`finished_runs`.

    Returns:
        "done" and the folder that holds it (its own, or that of an equal run of another row), "resume" or "new" and
        its own folder.

    Raises:
        UserError: the folder holds a run of another config, or what is there is broken.
    """
    entry_file = run.folder / FILE_NAME
    if entry_file.exists():
        entry = read_entry(entry_file)
        _refuse_another_config(run, entry["config"])
        return "done", run.folder
    if run.key_of_entry in finished:
        return "done", finished[run.key_of_entry]
    if (run.folder / "last_checkpoint").exists():
        _refuse_another_config(run, _config_in(run.folder))
        return "resume", run.folder
    return "new", run.folder


def _config_in(folder: Path) -> dict:
    try:
        config = read_yaml((folder / "config.yaml").read_text(), "config.yaml")
        return json.loads(json.dumps(config))
    except (OSError, ValueError, TypeError, UserError):
        raise UserError(f"{folder} holds a checkpoint, but no whole config.yaml; delete the folder.") from None


def _refuse_another_config(run: PlannedRun, config: dict) -> None:
    keys = run.recipe.differing_keys(config)
    if keys:
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise UserError(
            f"{run.folder} holds a run whose config differs from the row's in {', '.join(keys[:3])}{more}; "
            "move it away or set another --output."
        )


def command_of(
    run: PlannedRun,
    state: str,
    *,
    num_gpus: int,
    weights: Path | None = None,
    python: Sequence[str] = ("python",),
    more: Sequence[str] = (),
) -> list[str]:
    """The command of tools/train_net.py, or of tools/train_classifier.py, that carries out a run.

    Args:
        run: one of a plan.
        state: "new" or "resume".
        num_gpus: processes of this machine; under torchrun or srun they say it themselves.
        weights: final weights of the run before; None without.
        python: what starts Python.
        more: KEY VALUE pairs to add.
    """
    training = run.recipe.training
    classifies = run.recipe.cfg.MODEL.META_ARCHITECTURE == "ImageClassifier"
    tool = shown_path(TOOLS / ("train_classifier.py" if classifies else "train_net.py"))
    config = shown_path(configs_folder() / training.config)
    command = [*python, tool, "--config-file", config, "--num-gpus", str(num_gpus)]
    if state == "resume":
        command.append("--resume")
    overrides = list(training.overrides)
    if weights is not None and run.before is not None:
        overrides[-1] = str(weights)  # in place of the name alone, see recipe_of
    command += [*overrides, *more]
    return [*command, "OUTPUT_DIR", str(run.folder), "SEED", str(run.seed)]
