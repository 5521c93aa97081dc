"""What configs there are, and which reported results each reproduces."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from eql_d2.engine.method_in_use import method_key, method_named
from eql_d2.reproduction.tables import find_table, table_names

_DEFAULTS = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.ROI_BOX_HEAD.PREDICTOR": "SoftmaxPredictor",
    "MODEL.RETINANET.LOSS": "focal",
    "MODEL.CLASSIFIER.LOSS": "softmax",
}


@dataclass(frozen=True)
class ConfigEntry:
    """One config.

    Attributes:
        name: file below configs/.
        method: what its loss is called.
        sampler: its training sampler, "" for the plain one.
        schedule: iterations and images per batch.
        rows: the rows of tables that train by it, ``TABLE/ROW``.
    """

    name: str
    method: str
    sampler: str
    schedule: str
    rows: tuple[str, ...]


def list_configs(folder: Path, names: Iterable[str] = ()) -> list[ConfigEntry]:
    """The YAML configs that can be trained by; bases and tables are left out.

    Args:
        folder: configs/.
        names: parts of names, of which one must occur; none lists all.
    """
    wanted = tuple(names)
    rows = rows_by_config(folder / "tables")
    entries = []
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder).as_posix()
        is_config = not path.stem.startswith("Base") and not name.startswith("tables/")
        if is_config and (not wanted or any(part in name for part in wanted)):
            entries.append(_entry(path, name, tuple(rows.get(name, ()))))
    return entries


def rows_by_config(tables: Path) -> dict[str, list[str]]:
    """The rows of all tables, ``TABLE/ROW``, by the config that they are trained by."""
    rows: dict[str, list[str]] = {}
    for table in (find_table(name, tables) for name in table_names(tables)):
        for row in table.rows:
            if row.training is not None:
                rows.setdefault(row.training.config, []).append(f"{table.name}/{row.id}")
    return rows


def _entry(path: Path, name: str, rows: tuple[str, ...]) -> ConfigEntry:
    # The text alone, which takes milliseconds where a checked config takes a tenth of a second.
    content = CfgNode.load_yaml_with_base(str(path))

    def value(key: str) -> Any:
        node: Any = content
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return _DEFAULTS.get(key) if node is None else node

    key = method_key(value("MODEL.META_ARCHITECTURE"))
    named = str(value(key))
    method = method_named(key, named)
    shown = method.title if method else named
    sampler = str(value("DATALOADER.SAMPLER_TRAIN") or "TrainingSampler").removesuffix("TrainingSampler")
    schedule = f"{value('SOLVER.MAX_ITER')} x {value('SOLVER.IMS_PER_BATCH')}"
    return ConfigEntry(name, shown, sampler, schedule, rows)
