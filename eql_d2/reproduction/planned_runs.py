"""From the rows of a table to runs: which config, which folder, what has to run before, and what is done already."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from detectron2.config import CfgNode

from eql_d2.engine import load_config
from eql_d2.engine.ledger.identity import NOT_IN_HASH, config_hash, config_identity, plain_config
from eql_d2.engine.ledger.reading import read_entry
from eql_d2.engine.ledger.writing import FILE_NAME
from eql_d2.errors import UserError
from eql_d2.package_files import TOOLS, configs_folder, shown_path
from eql_d2.plain_files import read_yaml
from eql_d2.reproduction.emoji import emoji_training
from eql_d2.reproduction.tables import Row, Table, Training

SCALES = ("paper", "emoji")
DEFAULT_OUTPUT = {"paper": Path("output/tables"), "emoji": Path("output/tables_emoji")}
FINAL_WEIGHTS = "model_final.pth"
MOST_IN_A_NAME = 120  # characters of a folder's name


@dataclass(frozen=True)
class Recipe:
    """A training and what identifies it.

    Attributes:
        training: config file and overrides.
        cfg: its config.
        hash: of the config, see :func:`eql_d2.engine.ledger.writing.config_hash`; without the keys of ``auto``.
        auto: keys that the training data settles, which no config file knows.
        first: the recipe of what is trained before, whose final weights it starts from; None without.
    """

    training: Training
    cfg: CfgNode = field(hash=False, compare=False)
    hash: str
    auto: tuple[str, ...]
    first: "Recipe | None" = None

    def differing_keys(self, config: dict) -> list[str]:
        """Keys in which another config differs in more than two runs of one recipe may."""
        own, other = (config_identity(c, self.auto) for c in (plain_config(self.cfg), config))
        return sorted(key for key in own.keys() | other.keys() if own.get(key) != other.get(key))

    def fits(self, entry: dict) -> bool:
        """Whether the config of a ledger entry is of this recipe."""
        return config_hash(entry["config"], self.auto) == self.hash


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
    def stage(self) -> int:
        """1 of a run that starts from no other, else one more than the run before."""
        return self.before.stage + 1 if self.before else 1


@lru_cache(maxsize=1024)
def recipe_of(training: Training, scale: str = "paper") -> Recipe:
    """Load the config of a training and of those before it.

    Raises:
        UserError: a file is missing or one of its keys, or there is no counterpart at this scale.
    """
    path = configs_folder() / training.config
    if not path.is_file():
        raise UserError(f"its config {shown_path(path)} no longer exists.")
    cfg = _config_of(training)
    if scale == "emoji":
        training = emoji_training(training, cfg)
        cfg = _config_of(training)
    first = recipe_of(training.first_stage, scale) if training.first_stage else None
    if first:
        training = replace(training, overrides=(*training.overrides, "MODEL.WEIGHTS", FINAL_WEIGHTS))
        cfg = _config_of(training)
    auto = tuple(cfg.MODEL.LONG_TAIL.AUTO)
    ignored = (*auto, "MODEL.LONG_TAIL.AUTO") if auto else ()
    return Recipe(training, cfg, config_hash(plain_config(cfg), ignored), ignored, first)


@lru_cache(maxsize=1024)
def _config_of(training: Training) -> CfgNode:
    return load_config(str(configs_folder() / training.config), list(training.overrides))


def recipe_of_row(row: Row, scale: str = "paper") -> Recipe:
    """The recipe of a row.

    Raises:
        UserError: the row cannot be trained at this scale, or its config does not exist any more.
    """
    if row.training is None:
        raise UserError(f"Row {row.name} cannot be trained: {row.not_trained}.")
    if scale == "emoji" and row.task == "classification":
        raise UserError(f"Row {row.name} has no counterpart on EmojiLVIS: it classifies images.")
    try:
        return recipe_of(row.training, scale)
    except UserError as error:
        raise UserError(f"Row {row.name}: {error}") from None


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """A recipe with other values of some keys; what is trained before stays as it is.

    Args:
        recipe: of a row.
        changes: alternating keys and values.
    """
    if not changes:
        return recipe
    overrides = recipe.training.overrides
    weights = overrides[-2:] if recipe.first else ()  # stay last, see recipe_of
    own = overrides[: len(overrides) - len(weights)]
    training = replace(recipe.training, overrides=(*own, *changes, *weights))
    cfg = _config_of(training)
    auto = tuple(cfg.MODEL.LONG_TAIL.AUTO)
    ignored = (*auto, "MODEL.LONG_TAIL.AUTO") if auto else ()
    return Recipe(training, cfg, config_hash(plain_config(cfg), ignored), ignored, recipe.first)


def split_changes(pairs: Sequence[str]) -> tuple[list[str], list[str]]:
    """KEY VALUE pairs of a command, parted into what makes another training of a row, and what is the machine's.

    Raises:
        UserError: a value is missing, or a pair says what the plan says.
    """
    if len(pairs) % 2:
        raise UserError(f"--opts {' '.join(pairs)} is not of the form KEY VALUE KEY VALUE.")
    changes: list[str] = []
    of_machine: list[str] = []
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if key in ("OUTPUT_DIR", "SEED"):
            raise UserError(f"--opts {key} is not taken: folders and seeds follow from --output and --seeds.")
        (of_machine if key in NOT_IN_HASH else changes).extend((key, value))
    return changes, of_machine


def name_with_changes(row_id: str, changes: Sequence[str]) -> str:
    """What a row with other values of some keys is called, as ``seesaw@SEESAW.P=0.5``."""
    pairs = zip(changes[::2], changes[1::2], strict=True)
    told = [f"{key.removeprefix('MODEL.').removeprefix('LONG_TAIL.')}={value}" for key, value in pairs]
    name = "@".join([row_id, *(re.sub(r"[^\w.+=-]+", "_", text) for text in told)])
    if len(name) <= MOST_IN_A_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: MOST_IN_A_NAME - 9]}-{digest}"


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
    """{key of a run: folder} of the finished runs below a folder; what cannot be read is not finished."""
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
    if run.key in finished:
        return "done", finished[run.key]
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
