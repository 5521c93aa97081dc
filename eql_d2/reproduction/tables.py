"""Tables as data: ``configs/tables/*.yaml``, one file per table of a paper, or a file of one's own anywhere.

A file has ``title``, ``num_gpus`` (that the source trained on), optionally ``seeds`` and ``notes``, and ``rows``. What
rows share stands above them: ``source``, ``dataset``, ``model``, ``task``, ``config``, ``first_stage``, ``not_trained``
and ``metrics``. A row has ``id`` and ``method``, and of these what is its own, besides ``overrides``, ``reported`` and
``note``:

- ``config``: file below configs/ or below the folder of a table of one's own, changed by ``overrides`` (alternating
  keys and values).
- ``sweep``: {KEY: [values]}: in place of the row one for each value, with the id ``ROW_VALUE``; of several keys one for
  each combination.
- ``first_stage``: ``{config, overrides}`` of the run whose final weights the row starts from (decoupled training), with
  a ``first_stage`` of its own if it has one, and a ``seed`` if it is the same run for all seeds of the row.
- ``not_trained``: why this project cannot train the row; it stands in the table for completeness.
- ``reported``: {metric: percent} in the source's names. AP without a task is that of ``task``, and APbbox of boxes;
  ``metrics`` says {name: task/metric} where the source's names mean something else.
"""

import difflib
import itertools
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from eql_d2.errors import UserError
from eql_d2.package_files import configs_folder, shown_path

TABLE_ENDINGS = (".yaml", ".yml")


def tables_folder() -> Path:
    """Folder of the tables."""
    return configs_folder() / "tables"


ROW_KEYS = {"id", "method", "source", "dataset", "model", "task", "config", "overrides", "first_stage", "not_trained"}
ROW_KEYS |= {"metrics", "reported", "note", "sweep"}
SHARED_KEYS = {"source", "dataset", "model", "task", "config", "first_stage", "not_trained", "metrics"}
TABLE_KEYS = {"title", "num_gpus", "seeds", "notes", "rows"} | SHARED_KEYS


@dataclass(frozen=True)
class Training:
    """What is to be trained: a config file below configs/ and what changes it.

    Attributes:
        config: the file.
        overrides: alternating keys and values.
        first_stage: what is trained before, whose final weights it starts from, if anything.
        seed: that of all its runs; None takes the seed of the row's run.
    """

    config: str
    overrides: tuple[str, ...] = ()
    first_stage: "Training | None" = None
    seed: int | None = None


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        table: name of its table.
        id: unique in the table; that of a paper's row is the same in all tables it stands in.
        training: with what is trained before; None where the row cannot be trained.
        not_trained: why it cannot be trained, else empty.
        reported: {metric: percent} by the source's names.
        metrics: {name in ``reported``: "task/metric" of this project}.
    """

    table: str
    id: str
    method: str
    source: str
    dataset: str
    model: str
    task: str
    training: Training | None
    not_trained: str
    num_gpus: int
    reported: dict[str, float] = field(hash=False, default_factory=dict)
    metrics: dict[str, str] = field(hash=False, default_factory=dict)
    note: str = ""

    @property
    def name(self) -> str:
        """``TABLE/ROW``."""
        return f"{self.table}/{self.id}"

    def metric(self, name: str) -> str:
        """The ``task/metric`` of this project that a reported name stands for."""
        if name in self.metrics:
            return self.metrics[name]
        if name.startswith("APbbox"):  # APbbox, APbbox_r
            return f"bbox/AP{name.removeprefix('APbbox').lstrip('_')}"
        return f"{self.task}/{name}"


@dataclass(frozen=True)
class Table:
    """A table: its rows and what its file says about all of them."""

    name: str
    title: str
    rows: tuple[Row, ...]
    seeds: tuple[int, ...] = (0,)
    notes: tuple[str, ...] = ()

    @cached_property
    def by_id(self) -> dict[str, Row]:
        """The rows by their ids."""
        return {row.id: row for row in self.rows}


def read_table(path: str | Path) -> Table:
    """Read a table file.

    Raises:
        UserError: it is not a table; the sentence names the file, the row and the key.
    """
    path = Path(path)
    try:
        content = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise UserError(f"Table {path} cannot be read ({error.strerror}).") from None
    except yaml.YAMLError as error:
        raise UserError(f"Table {path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise UserError(f"Table {path} has no rows; see the tables beside it for the form.")
    _refuse_unknown_keys(content, TABLE_KEYS, f"Table {path}")
    records = [swept for record in content["rows"] for swept in _swept(path.stem, record)]
    rows = tuple(_read_row(path, content, record) for record in records)
    ids = [row.id for row in rows]
    for row_id in ids:
        if ids.count(row_id) > 1:
            raise UserError(f"Table {path} has two rows of id {row_id}; rename one.")
    return Table(
        name=path.stem,
        title=str(content.get("title", path.stem)),
        rows=rows,
        seeds=tuple(content.get("seeds", (0,))),
        notes=tuple(content.get("notes", ())),
    )


def _swept(table: str, record: Any) -> list[Any]:
    """The rows that a row with ``sweep`` stands for; a row without as it is."""
    if not isinstance(record, dict) or "sweep" not in record:
        return [record]
    sweep = record["sweep"]
    if not isinstance(sweep, dict) or not all(isinstance(values, list) and values for values in sweep.values()):
        raise UserError(f"Row {table}/{record.get('id')} has a sweep that is not of the form KEY: [value, value].")
    rows = []
    for values in itertools.product(*sweep.values()):
        texts = [str(value) for value in values]
        row = {key: value for key, value in record.items() if key != "sweep"}
        row["id"] = "_".join([str(record.get("id")), *(re.sub(r"[^\w.+-]+", "-", text) for text in texts)])
        told = ", ".join(f"{key.rpartition('.')[2]} {text}" for key, text in zip(sweep, texts, strict=True))
        row["method"] = f"{record.get('method', '')} ({told})".strip()
        row["overrides"] = [*(record.get("overrides") or ()), *itertools.chain(*zip(sweep, texts, strict=True))]
        rows.append(row)
    return rows


def _read_row(path: Path, shared: dict[str, Any], record: Any) -> Row:
    table = path.stem
    if not isinstance(record, dict) or "id" not in record:
        raise UserError(f"Table {table} has a row without id.")
    where = f"Row {table}/{record['id']}"
    _refuse_unknown_keys(record, ROW_KEYS, where)
    values = {key: shared[key] for key in SHARED_KEYS if key in shared} | record
    reason = str(values.get("not_trained") or "")
    if not (reason or values.get("config")):
        raise UserError(f"{where} has neither a config nor not_trained, which says why it has none.")
    own: dict[str, Any] = {key: values[key] for key in ("config", "overrides", "first_stage") if key in values}
    return Row(
        table=table,
        id=str(record["id"]),
        **{key: str(values.get(key, "")) for key in ("method", "source", "dataset", "model", "note")},
        task=values.get("task", "segm"),
        training=None if reason else _read_training(own, where, path.parent),
        not_trained=reason,
        num_gpus=int(shared.get("num_gpus", 1)),
        reported=dict(values.get("reported") or {}),
        metrics=dict(values.get("metrics") or {}),
    )


def _read_training(record: dict[str, Any], where: str, folder: Path) -> Training:
    if not isinstance(record, dict):
        raise UserError(f"{where}: first_stage is {record!r}; give it a config and overrides.")
    _refuse_unknown_keys(record, {"config", "overrides", "first_stage", "seed"}, where)
    overrides = record.get("overrides") or ()
    if not isinstance(record.get("config"), str) or len(overrides) % 2:
        raise UserError(f"{where}: a config file and pairs of KEY, VALUE in overrides are needed.")
    before = _read_training(record["first_stage"], where, folder) if record.get("first_stage") else None
    config, beside = record["config"], folder / record["config"]
    if beside.is_file():  # of a table of one's own
        config = str(beside.resolve())
    return Training(config, tuple(str(value) for value in overrides), before, record.get("seed"))


def _refuse_unknown_keys(record: dict[str, Any], known: set[str], where: str) -> None:
    for key in record:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1)
            raise UserError(f"{where} has the unknown key {key}; {_did_you_mean(nearest, known)}")


def table_names(folder: Path | None = None) -> list[str]:
    """Names of all tables, those of the papers in their order."""

    def order(name: str) -> tuple[str, int, str]:
        head, _, number = name.rpartition("_t")
        return (head, int(number), "") if number.isdigit() else (name.split("_")[0], 99, name)

    return sorted((path.stem for path in (folder or tables_folder()).glob("*.yaml")), key=order)


def find_table(name: str, folder: Path | None = None) -> Table:
    """The table of a name, or of a file of one's own.

    Args:
        name: of a table of the folder, or the path of a YAML file.
        folder: of the tables; None is :func:`tables_folder`.

    Raises:
        UserError: there is none; the nearest name is given.
    """
    if name.endswith(TABLE_ENDINGS):
        return read_table(name)
    folder = folder or tables_folder()
    names = table_names(folder)
    if not names:
        raise UserError(f"{shown_path(folder)} has no tables; unset EQL_D2_CONFIGS, or name a folder that has some.")
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1)
        raise UserError(f"There is no table {name}; {_did_you_mean(nearest, names)}")
    return read_table(folder / f"{name}.yaml")


def find_rows(name: str, folder: Path | None = None) -> tuple[Table, tuple[Row, ...]]:
    """The rows that TABLE or TABLE/ROW names; TABLE may be a file of one's own, as ``my_tables/prior.yaml``.

    Raises:
        UserError: there is no such table or row; the nearest name is given.
    """
    own = re.fullmatch(rf"(.+?(?:{'|'.join(map(re.escape, TABLE_ENDINGS))}))(?:/(.*))?", name)
    table_name, row_id = (own[1], own[2] or "") if own else name.strip("/").partition("/")[::2]
    table = find_table(table_name, folder)
    if not row_id:
        return table, table.rows
    if row_id not in table.by_id:
        nearest = difflib.get_close_matches(row_id, table.by_id, n=1)
        raise UserError(f"Table {table_name} has no row {row_id}; {_did_you_mean(nearest, table.by_id)}")
    return table, (table.by_id[row_id],)


def _did_you_mean(nearest: list[str], known: Any) -> str:
    return f"did you mean {nearest[0]}?" if nearest else f"choose one of {', '.join(sorted(known))}."
