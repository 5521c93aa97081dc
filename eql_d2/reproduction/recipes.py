"""What a row of a table trains: a config with its changes, what identifies it, and what is trained before."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

from detectron2.config import CfgNode

from eql_d2.data.registration import register_datasets
from eql_d2.engine import load_config
from eql_d2.engine.auto_values import resolve_auto_values
from eql_d2.engine.ledger.identity import NOT_IN_HASH, config_hash, config_identity, plain_config
from eql_d2.errors import UserError
from eql_d2.package_files import configs_folder, shown_path
from eql_d2.reproduction.emoji import emoji_training
from eql_d2.reproduction.tables import Row, Training

FINAL_WEIGHTS = "model_final.pth"
MOST_IN_A_NAME = 120  # characters of a folder's name


@dataclass(frozen=True)
class Recipe:
    """A training and what identifies it.

    Attributes:
        training: config file and overrides.
        cfg: its config.
        hash: of the config, see :func:`eql_d2.engine.ledger.identity.config_hash`; without the keys of ``auto``.
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

    @cached_property
    def hash_of_runs(self) -> str | None:
        """The hash in its runs' entries, with what the training data says for ``auto``; None without these data."""
        if not self.auto:
            return self.hash
        cfg = self.cfg.clone()
        try:
            register_datasets(cfg)
            resolve_auto_values(cfg)
        except UserError:
            return None
        return config_hash(plain_config(cfg))


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
    return _identified(training, cfg, first)


@lru_cache(maxsize=1024)
def _config_of(training: Training) -> CfgNode:
    return load_config(str(configs_folder() / training.config), list(training.overrides))


def _identified(training: Training, cfg: CfgNode, first: Recipe | None) -> Recipe:
    auto = tuple(cfg.MODEL.LONG_TAIL.AUTO)
    ignored = (*auto, "MODEL.LONG_TAIL.AUTO") if auto else ()
    return Recipe(training, cfg, config_hash(plain_config(cfg), ignored), ignored, first)


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
    return _identified(training, _config_of(training), recipe.first)


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
