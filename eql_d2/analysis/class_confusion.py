"""Which class takes whose place among the detections of a run."""

import html
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from eql_d2.analysis.charts import Palette, page_figure
from eql_d2.analysis.class_values import corners, open_results
from eql_d2.analysis.dataset_pictures import GROUP_NAMES
from eql_d2.analysis.finished_runs import FinishedRun
from eql_d2.analysis.report_tables import AnyCell, number_cell, sortable_table
from eql_d2.analysis.run_charts import group_bands
from eql_d2.data.annotations.rules import is_region
from eql_d2.drawing.instances import box_iou

MIN_IOU = 0.5
MOST_ROWS = 100
MOST_DOTS = 500


class Confusion(NamedTuple):
    """What the best detection on each object says that it is.

    Attributes:
        pairs: (true category id, detected category id) → number of objects.
        objects: category id → number of objects.
        unseen: category id → number of objects without a detection.
    """

    pairs: Counter[tuple[int, int]]
    objects: Counter[int]
    unseen: Counter[int]


def confusion_of(run: FinishedRun, dataset: str) -> Confusion:
    """Look at each object of a test set: the class of the best-scored detection with an IoU of 0.5 or more is its own,
    another, or there is none.

    Raises:
        UserError: detections or annotations are missing or broken.
    """
    truth, results = open_results(run, dataset)
    found = Confusion(Counter(), Counter(), Counter())
    for image_id in truth.images:
        objects = [a for a in truth.annotations(image_id) if not is_region(a)]
        if not objects:
            continue
        detections = results.of_image(image_id)
        classes = [d["category_id"] for d in detections]
        scores = np.array([d["score"] for d in detections])
        iou = box_iou(corners(objects), corners(detections))
        for place, annotation in enumerate(objects):
            true = annotation["category_id"]
            found.objects[true] += 1
            near = np.flatnonzero(iou[place] >= MIN_IOU)
            if len(near):
                found.pairs[true, classes[near[scores[near].argmax()]]] += 1
            else:
                found.unseen[true] += 1
    return found


def confusion_section(run: FinishedRun, dataset: str) -> str:
    """The picture and the table, as HTML.

    Raises:
        UserError: as of :func:`confusion_of`, or nothing says how frequent the classes are.
    """
    found = confusion_of(run, dataset)
    classes = run.classes  # the most frequent first
    rank = {record["id"]: place for place, record in enumerate(classes)}
    groups = "".join(record["frequency"] for record in classes)
    pairs = [(rank[true], rank[other], n) for (true, other), n in found.pairs.items() if true in rank and other in rank]
    picture = page_figure(
        lambda axes, palette: draw_confusion(axes, palette, pairs, groups),
        html.escape(f"Confusion of classes of {run.name} on {dataset}"),
    )
    confused = sorted(((true, other, n) for true, other, n in pairs if true != other), key=lambda pair: -pair[2])
    rows: list[list[AnyCell]] = [
        [
            _named(classes[true]),
            _named(classes[other]),
            number_cell(n, 0),
            number_cell(100 * n / found.objects[classes[true]["id"]]),
        ]
        for true, other, n in confused[:MOST_ROWS]
    ]
    right = sum(n for true, other, n in pairs if true == other)
    total, unseen = sum(found.objects.values()), sum(found.unseen.values())
    wrong = total - right - unseen
    told = (
        f"{run.name} on {dataset}: of {total:,} objects the best detection with an IoU of at least {MIN_IOU} has the "
        f"right class for {right / total:.1%}, another for {wrong / total:.1%}, and {unseen / total:.1%} have none. "
        "A dot is a pair of classes, its area the number of objects; on the diagonal they are right."
    )
    table = sortable_table("confusion", ["objects of", "taken for", "objects", "in % of the class"], rows)
    return (
        f'<div class="columns"><figure>{picture}<figcaption>{html.escape(told)}</figcaption></figure>'
        f"<div>{table if rows else '<p>No class takes the place of another.</p>'}</div></div>"
    )


def draw_confusion(axes: Axes, palette: Palette, pairs: Sequence[tuple[int, int, int]], groups: str) -> None:
    """Draw a dot a pair of classes, over bands of the groups.

    Args:
        axes: to draw on.
        palette: its colours.
        pairs: (rank of the true class, rank of the detected class, number of objects), the most frequent class first.
        groups: K letters r, c, f in that order.
    """
    group_bands(axes, palette, groups)
    most = max((n for *_, n in pairs), default=1)
    for same, color in ((True, palette.grid), (False, palette.mark)):
        chosen = sorted((pair for pair in pairs if (pair[0] == pair[1]) == same), key=lambda pair: -pair[2])[:MOST_DOTS]
        if chosen:
            true, other, number = np.array(chosen).T
            sizes = 4 + 60 * number / most
            axes.scatter(other, true, s=sizes, color=color, alpha=0.9 if same else 0.6, linewidths=0)
    axes.set(xlim=(-0.5, len(groups) - 0.5), ylim=(len(groups) - 0.5, -0.5))
    axes.set(xlabel="detected class, the most frequent first", ylabel="true class, the most frequent first")


def _named(record: dict) -> str:
    return f"{record['name']} ({GROUP_NAMES[record['frequency']]})"
