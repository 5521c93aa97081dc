"""The report on finished runs: one HTML page with tables, the papers' figures, and galleries of detections."""

import html
from collections.abc import Sequence

from eql_d2.analysis.charts import page_figure
from eql_d2.analysis.finished_runs import FinishedRun
from eql_d2.analysis.gallery import gallery, legend
from eql_d2.analysis.page import html_page
from eql_d2.analysis.report_page_style import REPORT_SCRIPT, REPORT_STYLE
from eql_d2.analysis.report_tables import folded, remarks, runs_table
from eql_d2.analysis.run_figures import FIGURES, group_means_table
from eql_d2.errors import UserError

MOST_IN_FIGURES = 6  # rows; colours that can be told apart


def report_page(
    runs: Sequence[FinishedRun],
    skipped: Sequence[str] = (),
    *,
    tables: Sequence[str] = (),
    gallery_images: int = 8,
    score_threshold: float | None = None,
) -> str:
    """The page.

    What cannot be shown is left out, and the page says why.

    Args:
        runs: to report on; figures show the first six rows (runs that differ by the seed are one), galleries the first
            two runs with saved detections.
        skipped: what was not read, a sentence each.
        tables: sections of HTML with reported and reproduced results.
        gallery_images: images of a gallery; 0 for none.
        score_threshold: see :func:`eql_d2.analysis.gallery.gallery`.
    """
    table, without_metrics = runs_table(runs)
    sections = [("runs", "Runs", f"{table}{remarks(without_metrics)}")]
    if tables:
        sections.insert(0, ("tables", "Reported and reproduced", "\n".join(tables)))
    sections.append(("figures", "Figures", _figures(runs)))
    if gallery_images:
        sections.append(("galleries", "Detections", _galleries(runs, gallery_images, score_threshold)))
    if skipped:
        sections.append(("skipped", "Left out", remarks(skipped)))
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in sections)
    parts = ["<h1>Report on runs</h1>", _summary(runs, skipped), f"<nav>{links}</nav>", _FILTER]
    parts += [f'<section id="{key}"><h2>{title}</h2>\n{content}</section>' for key, title, content in sections]
    return html_page("Report on runs", parts, "tools/report.py", style=REPORT_STYLE, script=REPORT_SCRIPT)


_FILTER = (
    '<div class="filter"><input id="filter" type="search" placeholder="filter the rows of all tables" '
    'aria-label="filter the rows of all tables"><output id="matches" for="filter"></output></div>'
)


def _summary(runs: Sequence[FinishedRun], skipped: Sequence[str]) -> str:
    text = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}"
    if skipped:
        text += f', {len(skipped)} <a href="#skipped">left out</a>'
    return f'<p class="soft">{text}. Metrics are in percent; a click on a header sorts by it.</p>'


def _figures(runs: Sequence[FinishedRun]) -> str:
    rows = list(dict.fromkeys(run.row for run in runs))
    shown, missing, parts = [run for run in runs if run.row in rows[:MOST_IN_FIGURES]], [], []
    for make in FIGURES.values():
        try:
            figure = make(shown)
        except UserError as error:
            missing.append(f"A figure was left out. {error}")
            continue
        table = group_means_table(figure) if figure.group_means else ""
        parts.append(
            f"<figure><h3>{figure.title}</h3>{page_figure(figure.draw, figure.title)}"
            f"<figcaption>{html.escape(figure.caption)}</figcaption>{table}"
            f"{folded('Not in this figure', figure.left_out)}</figure>"
        )
    if len(runs) > len(shown):
        missing.append(
            f"Figures show {', '.join(rows[:MOST_IN_FIGURES])}, {len(shown)} of {len(runs)} runs; "
            "name fewer to see others."
        )
    return f'<div class="columns figures">{"".join(parts)}</div>{remarks(missing)}'


def _galleries(runs: Sequence[FinishedRun], num_images: int, score_threshold: float | None) -> str:
    """A gallery of each test set of the first run that has detections, beside the next run that has."""
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
    parts = []
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
