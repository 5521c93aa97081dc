"""Tables of LVIS metrics from run folders."""

import math
from pathlib import Path

from tabulate import tabulate

from eql_d2.engine.metrics_file import METRICS_FILE, read_metrics_file
from eql_d2.errors import UserError

TABLE_METRICS = ("AP", "AP50", "AP75", "APr", "APc", "APf")
Metrics = dict[str, dict[str, float]]


def read_final_metrics(run_folder: str | Path) -> Metrics:
    """The metrics that a run ended with.

    Args:
        run_folder: ``OUTPUT_DIR`` of a finished run.

    Returns:
        ``{"bbox": {metric: percent}, "segm": …}``.

    Raises:
        UserError: the folder has no evaluation in its ``metrics.json``.
    """
    path = Path(run_folder) / METRICS_FILE
    metrics: Metrics = {}
    for record in read_metrics_file(path) if path.exists() else ():
        for key, value in record.items():
            task, _, metric = key.partition("/")
            if task in ("bbox", "segm"):
                metrics.setdefault(task, {})[metric] = value
    if not metrics:
        raise UserError(f"{path} has no evaluation results; the run has not finished.")
    return metrics


def comparison_table(runs: dict[str, Metrics]) -> str:
    """A text table with a row per run and task.

    Args:
        runs: metrics by the run's name.
    """
    task_names = {"bbox": "box", "segm": "mask"}
    rows = [
        [task_names[task], name, *(_percent(metrics[task].get(metric, math.nan)) for metric in TABLE_METRICS)]
        for task in task_names
        for name, metrics in runs.items()
        if task in metrics
    ]
    return tabulate(rows, headers=["", "", *TABLE_METRICS], stralign="right", disable_numparse=True)


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"
