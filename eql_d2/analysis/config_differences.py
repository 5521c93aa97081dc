"""In which keys of their configs runs differ."""

from collections.abc import Sequence
from typing import Any

from eql_d2.analysis.finished_runs import FinishedRun
from eql_d2.analysis.report_tables import sortable_table
from eql_d2.engine.ledger.identity import config_identity, flat, plain_config
from eql_d2.errors import UserError

LONGEST = 60  # characters of a value


def config_section(runs: Sequence[FinishedRun], labels: dict[str, str]) -> str:
    """A table of the keys in which rows of runs differ, a column a row; empty where they do not.

    Places, the machine's keys and seeds are left out.

    Args:
        runs: of which the first of each row is looked at.
        labels: what the rows (:attr:`FinishedRun.row`) are called.
    """
    configs: dict[str, dict[str, Any]] = {}
    whole: dict[str, dict[str, Any]] = {}
    for run in runs:
        if run.row in configs:
            continue
        try:
            plain = plain_config(run.cfg)
        except UserError:  # the tables of metrics tell it
            continue
        configs[run.row], whole[run.row] = config_identity(plain), dict(flat(plain))
    if len(configs) < 2:
        return ""
    keys = sorted({key for config in configs.values() for key in config})
    differing = [key for key in keys if len({repr(_value(whole[row], configs[row], key)) for row in configs}) > 1]
    if not differing:
        return "<p>Their configs are the same, but for seeds and places.</p>"
    rows = [[key, *(_short(_value(whole[row], configs[row], key)) for row in configs)] for key in differing]
    return sortable_table("config differences", ["key", *(labels.get(row, row) for row in configs)], rows)


def _value(whole: dict[str, Any], changed: dict[str, Any], key: str) -> Any:
    """A key's value: files by their names, as in a config's identity."""
    return changed.get(key, whole.get(key, "–"))


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
