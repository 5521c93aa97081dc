"""A picture of which classes are taken for which, from the most frequent to the rarest in training."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MAX_NAMES = 40
"""Classes that are named at the axes; more would not be legible."""
MAX_CELLS = 400
"""Cells in a row of the picture; of more classes, neighbours share a cell."""


def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, instance_counts: np.ndarray, max_cells: int = MAX_CELLS
) -> tuple[np.ndarray, int]:
    """Shares of predictions, with the classes in descending order of their training images.

    Args:
        labels: (N,) true class in [0, K).
        predictions: (N,) predicted class in [0, K).
        instance_counts: (K,) number of training images of each class; of equal ones the lower class comes first.
        max_cells: largest number of rows. Of more classes, neighbours in the order share a row and a column.

    Returns:
        (C, C) float64: in row i the share of the images of i's classes that were predicted as column j's, NaN where
        there are no images; and the number of classes in a cell (the last one may have fewer).
    """
    num_classes = len(instance_counts)
    classes_a_cell = -(-num_classes // max_cells)
    cells = -(-num_classes // classes_a_cell)
    cell_of_class = np.empty(num_classes, dtype=np.int64)
    cell_of_class[np.argsort(-instance_counts, kind="stable")] = np.arange(num_classes) // classes_a_cell
    flat = cell_of_class[labels] * cells + cell_of_class[predictions]
    counts = np.bincount(flat, minlength=cells * cells).reshape(cells, cells)
    totals = counts.sum(axis=1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1), np.nan), classes_a_cell


def save_confusion_picture(
    path: Path,
    labels: np.ndarray,
    predictions: np.ndarray,
    instance_counts: np.ndarray,
    class_names: Sequence[str],
) -> None:
    """Draw :func:`confusion_matrix` as a PNG file; classes without images are grey.

    Args:
        path: file to write.
        labels: (N,) true class in [0, K).
        predictions: (N,) predicted class in [0, K).
        instance_counts: (K,) number of training images of each class.
        class_names: names of the K classes.
    """
    shares, classes_a_cell = confusion_matrix(labels, predictions, instance_counts)
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure((7.2, 6.4), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        colors = matplotlib.colormaps["viridis"].with_extremes(bad="0.75")
        image = axes.imshow(100 * shares, cmap=colors, vmin=0, vmax=100, interpolation="nearest")
        figure.colorbar(image, label="% of the true class's images", shrink=0.85)
        unit = "" if classes_a_cell == 1 else f", {classes_a_cell} classes a cell"
        axes.set(xlabel=f"predicted class (frequent to rare{unit})", ylabel=f"true class (frequent to rare{unit})")
        if len(class_names) <= MAX_NAMES:
            names = [class_names[i] for i in np.argsort(-instance_counts, kind="stable")]
            # A dollar sign in a name is no formula.
            axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
            axes.set_yticks(range(len(names)), names, parse_math=False)
        else:
            axes.set_xticks([])
            axes.set_yticks([])
        partial = path.with_name(f".{path.name}.partial")
        figure.savefig(partial, format="png")
    partial.replace(path)
