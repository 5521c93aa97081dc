"""The report on finished runs: one HTML page with tables, the papers' figures, and galleries of detections."""

import html
from collections.abc import Sequence

from eql_d2.analysis.charts import page_figure
from eql_d2.analysis.class_ap_table import class_ap_section
from eql_d2.analysis.class_confusion import confusion_section
from eql_d2.analysis.classes_of_runs import labels_of
from eql_d2.analysis.config_differences import config_section
from eql_d2.analysis.finished_runs import FinishedRun
from eql_d2.analysis.gallery import gallery, legend
from eql_d2.analysis.page import html_page
from eql_d2.analysis.report_page_style import REPORT_SCRIPT, REPORT_STYLE
from eql_d2.analysis.report_tables import folded, remarks, runs_table, say_once
from eql_d2.analysis.run_figures import FIGURES, group_means_table
from eql_d2.errors import UserError

MOST_IN_FIGURES = 6  # rows; colours that can be told apart
FIRST_STAGE = "/first_stage_"  # in the name of a run that others start from, see eql_d2.reproduction


def report_page(
    runs: Sequence[FinishedRun],
    skipped: Sequence[str] = (),
    *,
    tables: Sequence[str] = (),
    gallery_images: int = 8,
    score_threshold: float | None = None,
    baseline: str = "",
    series: Sequence[str] = (),
) -> str:
    """The page.

    What cannot be shown is left out, and the page says why.

    Args:
        runs: to report on; galleries show the first two with saved detections.
        skipped: what was not read, a sentence each.
        tables: sections of HTML with reported and reproduced results.
        gallery_images: images of a gallery; 0 for none.
        score_threshold: see :func:`eql_d2.analysis.gallery.gallery`.
        baseline: row or run (or the last part of its name) that others are compared with; empty takes the softmax
            cross-entropy, else the first.
        series: rows that figures and class tables show, beside the baseline; none shows the first.

    Raises:
        UserError: there is no such row.
    """
    names = [run.name for run in runs]
    base, rows = chosen_rows(runs, baseline, series)
    shown = [run for row in rows for run in runs if run.row == row]
    table, without_metrics = runs_table(runs)
    sections = [("runs", "Runs", f"{table}{remarks(say_once(without_metrics, names))}")]
    if tables:
        sections.insert(0, ("tables", "Reported and reproduced", "\n".join(tables)))
    sections.append(("figures", "Figures", _figures(runs, shown, rows)))
    classes, left_out = class_ap_section(shown, base)
    if classes:
        told = f'<p class="soft">Means over seeds; small numbers are changes against {html.escape(base)}.</p>'
        sections.append(("classes", "Classes", f"{told}{classes}{folded('Left out', say_once(left_out, names))}"))
    differences = config_section(shown, labels_of(rows))
    if differences:
        sections.append(("configs", "Where the configs differ", differences))
    detections, without = _detections(runs)
    if gallery_images:
        pictures = _galleries(detections, gallery_images, score_threshold)
        sections.append(("galleries", "Detections", pictures + remarks(say_once(without, names))))
    confusion = _confusion(detections)
    if confusion:
        sections.append(("confusion", "Confusion of classes", confusion))
    if skipped:
        sections.append(("skipped", "Left out", remarks(say_once(skipped, names))))
    links = " ".join(f'<a href="#{key}">{title}</a>' for key, title, _ in sections)
    head = [_summary(runs, skipped), f'<nav aria-label="sections">{links}</nav>', _FILTER]
    body = [f'<section id="{key}"><h2>{title}</h2>\n{content}</section>' for key, title, content in sections]
    parts = ["<main>", "<h1>Report on runs</h1>", *head, *body, "</main>", _DIALOG]
    return html_page("Report on runs", parts, "tools/report.py", style=REPORT_STYLE, script=REPORT_SCRIPT)


def chosen_rows(runs: Sequence[FinishedRun], baseline: str = "", series: Sequence[str] = ()) -> tuple[str, list[str]]:
    """The row to compare with, and the rows that figures show: it, and those that are named or come first.

    Raises:
        UserError: a name is of no row.
    """
    rows = list(dict.fromkeys(run.row for run in runs))

    def named(name: str, option: str) -> str:
        found = [row for row in rows if row == name or row.rpartition("/")[2] == name]
        found += [run.row for run in runs if run.name == name]
        if not found:
            known = ", ".join(row.rpartition("/")[2] for row in rows)
            raise UserError(f"{option} {name} is none of the runs; choose of {known}.")
        return found[0]

    later = [row for row in rows if FIRST_STAGE not in row] or rows
    if baseline:
        base = named(baseline, "--baseline")
    else:
        base = next((row for row in later if row.rpartition("/")[2] == "softmax"), later[0])
    wanted = [named(name, "--series") for name in series] or later
    return base, list(dict.fromkeys([base, *wanted]))[:MOST_IN_FIGURES]


_DIALOG = (
    '<dialog class="picture" aria-label="a picture in full size"><button type="button">close</button><p></p></dialog>'
)
_FILTER = (
    '<div class="filter"><input id="filter" type="search" placeholder="filter the rows of all tables" '
    'aria-label="filter the rows of all tables"><output id="matches" for="filter"></output></div>'
)


def _summary(runs: Sequence[FinishedRun], skipped: Sequence[str]) -> str:
    text = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}"
    if skipped:
        text += f', {len(skipped)} <a href="#skipped">left out</a>'
    return f'<p class="soft">{text}. Metrics are in percent; a click on a header sorts by it.</p>'


def _figures(runs: Sequence[FinishedRun], shown: Sequence[FinishedRun], rows: Sequence[str]) -> str:
    names = [run.name for run in runs]
    missing, parts = [], []
    note = ""
    for make in FIGURES.values():
        try:
            figure = make(shown)
        except UserError as error:
            missing.append(f"A figure was left out. {error}")
            continue
        if figure.note:  # of all figures of classes the same: said once, above them
            note = f'<p class="soft">Figures of classes: {figure.note[0].lower()}{figure.note[1:]}</p>'
        table = group_means_table(figure) if figure.group_means else ""
        parts.append(
            f"<figure><h3>{figure.title}</h3>{page_figure(figure.draw, figure.title)}"
            f"<figcaption>{html.escape(figure.caption)}</figcaption>{table}"
            f"{folded('Not in this figure', say_once(figure.left_out, names))}</figure>"
        )
    if len(runs) > len(shown):
        missing.append(
            f"Figures and class tables show {', '.join(rows)}, {len(shown)} of {len(runs)} runs; --series chooses "
            "others by their names, --baseline the one to compare with."
        )
    return f'{note}<div class="columns figures">{"".join(parts)}</div>{remarks(missing)}'


def _detections(runs: Sequence[FinishedRun]) -> tuple[dict[str, list[FinishedRun]], list[str]]:
    """Test set → the runs with saved detections on it; and a sentence for each run without."""
    by_dataset: dict[str, list[FinishedRun]] = {}
    left_out = []
    for run in runs:
        try:
            names = run.cfg.DATASETS.TEST
        except UserError as error:
            left_out.append(f"No detections of {run.name}: {error}")
            continue
        for name in names:
            try:
                run.results_file(name)
            except UserError as error:
                left_out.append(f"No detections of {run.name}: {error}")
            else:
                by_dataset.setdefault(name, []).append(run)
    return by_dataset, left_out


def _confusion(by_dataset: dict[str, list[FinishedRun]]) -> str:
    parts = []
    for name, having in by_dataset.items():
        for run in having[:2]:
            try:
                parts.append(f"<h3>{html.escape(run.name)}</h3>{confusion_section(run, name)}")
            except UserError as error:
                parts.append(remarks([f"No confusion of classes of {run.name}: {error}"]))
    return "".join(parts)


def _galleries(by_dataset: dict[str, list[FinishedRun]], num_images: int, score_threshold: float | None) -> str:
    """A gallery of each test set of the first run that has detections, beside the next run that has."""
    parts, left_out = [], []
    for name, having in by_dataset.items():
        try:
            pictures = gallery(having[:2], name, num_images, score_threshold)
        except UserError as error:
            left_out.append(f"No gallery of {name}: {error}")
            continue
        which = "as many of the best as the image has objects"
        if score_threshold is not None:
            which = f"those with a score of at least {score_threshold:g}"
        note = f"Of each image's detections, {which}. Images are taken at equal distances over the test set."
        parts.append(f'<h3>{html.escape(name)}</h3><p class="soft">{note}</p>{legend()}{pictures}')
    return "".join(parts) + remarks(left_out)
