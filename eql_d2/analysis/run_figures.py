"""The papers' figures of any finished runs, each worked out from the runs' files."""

import html
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from eql_d2.analysis.charts import Draw
from eql_d2.analysis.class_values import MIN_IOU, positive_scores, weight_norms
from eql_d2.analysis.classes_of_runs import have_same_classes, labels_of, of_classes, with_number_of_seeds
from eql_d2.analysis.dataset_pictures import GROUP_NAMES, draw_long_tail
from eql_d2.analysis.finished_runs import FinishedRun, Values
from eql_d2.analysis.report_tables import say_once
from eql_d2.analysis.run_charts import Series, draw_by_count, draw_by_rank, draw_losses, draw_thresholds
from eql_d2.errors import UserError

PAPER_LAMBDA = 0.00177
_OF_CLASSES = (
    "Dots are classes (left out where they are too many), the line their smooth mean (Gaussian weights); runs that "
    "differ by the seed are averaged, and the band is one standard deviation of their lines."
)


class RunFigure(NamedTuple):
    """A figure of some runs.

    Attributes:
        title: what it shows, in a few words.
        caption: what exactly is drawn, plain text.
        draw: draws it.
        group_means: a row a series: its label and the means over rare, common and frequent classes.
        left_out: a sentence for each run that is not in it.
        digits: of the means after the point; None is three significant ones.
        note: how its lines are drawn, which other figures may share; plain text.
    """

    title: str
    caption: str
    draw: Draw
    group_means: list[tuple[str, list[float]]]
    left_out: list[str]
    digits: int | None = None
    note: str = ""


def gradient_ratio(runs: Sequence[FinishedRun]) -> RunFigure:
    """Positive over negative gradient sums (the balance that EQLv2 watches)."""
    caption = (
        "Sum of the absolute gradients of the loss with respect to a class's logits of its own RoIs (positive), over "
        "the sum for all other RoIs (negative), over the whole training. A class without positive gradients lies on "
        "the lower edge."
    )
    draw = partial(draw_by_rank, ylabel="positive / negative gradients", logarithmic=True)
    return _of_classes(runs, lambda run: run.gradient_ratios, "Gradient ratio by class", caption, draw)


def weight_norm(runs: Sequence[FinishedRun]) -> RunFigure:
    """Norms of the classifier's weights (what BAGS starts from)."""
    caption = "Length ‖w‖ of each class's weights in the classifier of the last checkpoint, without the bias."
    draw = partial(draw_by_rank, ylabel="‖w‖ of the classifier")
    return _of_classes(runs, weight_norms, "Classifier weight norm by class", caption, draw)


def positive_score(runs: Sequence[FinishedRun]) -> RunFigure:
    """Scores of objects' own classes of the test set."""
    caption = (
        "For each object of the test set, the highest score of its class among saved detections whose box overlaps it "
        f"with an IoU of at least {MIN_IOU}, and 0 if there is none; the mean over the class's objects. A lower bound "
        "of the mean predicted probability of positives: detections below the score threshold, beyond the number kept "
        "of an image, or suppressed by a better one are not in the file."
    )

    def read(run: FinishedRun) -> dict[str, Values]:
        return {_of_dataset(run, name): positive_scores(run, name) for name in run.cfg.DATASETS.TEST}

    draw = partial(draw_by_rank, ylabel="mean score of positives")
    return _of_classes(runs, read, "Mean predicted probability of positives by class", caption, draw)


def ap_by_frequency(runs: Sequence[FinishedRun], task: str) -> RunFigure:
    """AP of each class against its number of training images."""
    kind = {"bbox": "box", "segm": "mask"}[task]
    caption = f"{kind.capitalize()} AP of each class that the test set has objects of."

    def read(run: FinishedRun) -> dict[str, Values]:
        return {_of_dataset(run, name): run.class_ap(name, task) for name in run.cfg.DATASETS.TEST}

    draw = partial(draw_by_count, ylabel=f"{kind} AP in %")
    title = f"{kind.capitalize()} AP against frequency"
    return _of_classes(runs, read, title, caption, draw, against_count=True, digits=1)


def losses(runs: Sequence[FinishedRun], part: str) -> RunFigure:
    """Losses during training: ``total_loss``, or ``loss_cls`` (summed over a Cascade's stages)."""
    found: dict[tuple[str, tuple[float | None, ...]], list[np.ndarray]] = {}
    left_out: list[str] = []
    for run in runs:
        try:
            curve = run.curve
            columns = [curve[name] for name in curve if name == part or name.startswith(f"{part}_stage")]
            if not columns:
                raise UserError(f"The training curve of {run.name} has no {part}.")
            table = np.array(columns, dtype=np.float64)  # None becomes NaN
            found.setdefault((run.row, tuple(curve["iteration"])), []).append(table.sum(axis=0))
        except UserError as error:
            left_out.append(f"{run.name}: {error}")
    labels = labels_of(row for row, _ in found)
    series = [
        Series(with_number_of_seeds(labels[row], len(curves)), np.array(iterations), np.mean(curves, axis=0))
        for (row, iterations), curves in found.items()
    ]
    what = {"total_loss": "Total loss", "loss_cls": "Classification loss"}[part]
    if not found:
        raise UserError(" ".join(say_once(left_out, [run.name for run in runs])))
    caption = "As logged: the median over 20 iterations. Losses of different methods are not on one scale."
    draw = partial(draw_losses, series=series, ylabel=what.lower())
    return RunFigure(f"{what} in training", caption, draw, [], left_out)


def thresholds(runs: Sequence[FinishedRun]) -> RunFigure:
    """T(f) of EQL: step, exponential, Gompertz (EQL paper, section 4.4), for the first run that uses EQL."""
    lambda_, chosen, frequencies, left_out, whose = PAPER_LAMBDA, "", [], [], ""
    for run in runs:
        try:
            if run.cfg.MODEL.ROI_BOX_HEAD.PREDICTOR == "EQLPredictor":
                node = run.cfg.MODEL.LONG_TAIL.EQL
                lambda_, chosen, whose = node.LAMBDA, node.THRESHOLD, run.name
                num_images = run.num_images
                frequencies = [record["image_count"] / num_images for record in run.classes]
                break
        except UserError as error:
            left_out.append(f"{run.name}: {error}")
    caption = (
        f"Tail membership T(f) of a class in a share f of the training images; λ and the thick line are {whose}'s, "
        "ticks below are its classes."
        if whose
        else f"Tail membership T(f) of a class in a share f of the training images; λ = {PAPER_LAMBDA} is LVIS v0.5's."
    )
    draw = partial(draw_thresholds, lambda_=lambda_, frequencies=frequencies, chosen=chosen)
    return RunFigure("EQL's threshold functions", caption, draw, [], left_out)


def long_tail(runs: Sequence[FinishedRun]) -> RunFigure:
    """Number of training images of each class (LVIS paper's long tail), of the first run that knows it."""
    left_out = []
    for run in runs:
        try:
            ranked = [record["image_count"] for record in run.classes if record["image_count"]]
        except UserError as error:
            left_out.append(f"{run.name}: {error}")
            continue
        others = [other.name for other in runs if other is not run and not have_same_classes(run, other)]
        left_out += [f"{name}: its training data has other counts, or none are known." for name in others]
        caption = f"Training images of each class, the most frequent first, of {run.name}."
        return RunFigure("Long tail", caption, partial(draw_long_tail, ranked=ranked), [], left_out)
    raise UserError(" ".join(left_out))


FIGURES: dict[str, Callable[[Sequence[FinishedRun]], RunFigure]] = {
    "ap-box": partial(ap_by_frequency, task="bbox"),
    "ap-mask": partial(ap_by_frequency, task="segm"),
    "gradient-ratio": gradient_ratio,
    "weight-norm": weight_norm,
    "positive-score": positive_score,
    "loss": partial(losses, part="total_loss"),
    "loss-cls": partial(losses, part="loss_cls"),
    "thresholds": thresholds,
    "long-tail": long_tail,
}


def group_means_table(figure: RunFigure) -> str:
    """The means over groups as rows of an HTML table."""
    lines = [(label, [_short(mean, figure.digits) for mean in means]) for label, means in figure.group_means]
    rows = "".join(
        f"<tr><td>{html.escape(label)}</td>{''.join(f'<td class=number>{text}</td>' for text in texts)}</tr>"
        for label, texts in lines
    )
    heads = "".join(f'<th class="number group-{letter}">{name}</th>' for letter, name in GROUP_NAMES.items())
    return (
        f'<div class="wide"><table><thead><tr><th>mean of</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _of_classes(
    runs: Sequence[FinishedRun],
    read: Callable[[FinishedRun], dict[str, Values]],
    title: str,
    caption: str,
    draw: Callable[..., None],
    against_count: bool = False,
    digits: int | None = None,
) -> RunFigure:
    """A figure of a number of each class."""
    found = of_classes(runs, read)
    groups = "".join(record["frequency"] for record in found.classes)
    x = np.array([record["image_count"] for record in found.classes]) if against_count else np.arange(len(groups))
    series, means = [], []
    for (row, part), table in found.values.items():
        label = f"{found.labels[row]}, {part}" if part else found.labels[row]
        values = found.mean(row, part)
        series.append(Series(label, x.astype(np.float64), values, table))
        means.append((label, [_mean(values, groups, letter) for letter in GROUP_NAMES]))
    draw = partial(draw, series=series, groups=groups)
    return RunFigure(title, caption, draw, means, found.left_out, digits, _OF_CLASSES)


def _of_dataset(run: FinishedRun, dataset: str) -> str:
    """What tells a series of one of several test sets."""
    return dataset if len(run.cfg.DATASETS.TEST) > 1 else ""


def _mean(values: np.ndarray, groups: str, letter: str) -> float:
    members = values[[group == letter for group in groups]]
    members = members[~np.isnan(members)]
    return float(members.mean()) if len(members) else math.nan


def _short(value: float, digits: int | None = None) -> str:
    if math.isnan(value):
        return "–"
    if digits is not None:
        return f"{value:.{digits}f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
