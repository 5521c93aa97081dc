"""Image classification metrics as a Detectron2 evaluator: accuracies by training frequency, and calibration."""

import csv
import logging
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate
from torch import Tensor

from eql_d2.classification.confusion_picture import save_confusion_picture
from eql_d2.classification.metrics import Samples, class_metrics, sample_metrics, shot_groups
from eql_d2.errors import UserError
from eql_d2.evaluation.results_table import FOR_TERMINAL
from eql_d2.plain_files import csv_text

logger = logging.getLogger(__name__)


class ClassificationEvaluator(DatasetEvaluator):
    """Top-1 and top-5 accuracy, accuracy of many-, medium- and few-shot classes, calibration error and likelihood.

    The groups are those of Liu et al., CVPR 2019: more than 100 training images, 20 to 100, fewer than 20. Keeps a
    few numbers for each image.

    Args:
        instance_counts: (K,) number of training images of each class.
        class_names: names of the K classes; None names them by their number.
        distributed: gather from all processes; False evaluates what this process saw.
        output_dir: folder for ``per_class_accuracy.csv`` and ``confusion.png``; None writes nothing.
        many_shot_above: classes with more training images are many-shot.
        few_shot_below: classes with fewer training images are few-shot; the others are medium-shot.
        num_bins: bins of the calibration error.

    Raises:
        UserError: the numbers do not fit together; the sentence says which.
    """

    def __init__(
        self,
        instance_counts: Sequence[int],
        class_names: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | Path | None = None,
        *,
        many_shot_above: int = 100,
        few_shot_below: int = 20,
        num_bins: int = 15,
    ) -> None:
        self._counts = np.asarray(instance_counts, dtype=np.int64)
        num_classes = len(self._counts)
        self._names = [str(i) for i in range(num_classes)] if class_names is None else [str(n) for n in class_names]
        if len(self._names) != num_classes:
            raise UserError(f"There are {len(self._names)} class names for {num_classes} classes.")
        self._groups = shot_groups(self._counts, many_shot_above, few_shot_below)
        if num_bins < 1:
            raise UserError(f"The calibration error has {num_bins} bins; it needs at least 1.")
        self._num_bins = num_bins
        self._distributed = distributed
        self._output_dir = Path(output_dir) if output_dir else None
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._ids: list[Hashable | None] = []
        self._parts: list[Samples] = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[Tensor] | Tensor) -> None:
        """Take the scores of some images.

        Args:
            inputs: dataset dicts with ``label`` in [0, K). Images with the same ``image_id``, as a sampler gives them
                that fills up the last batch, count once; those without the key all count.
            outputs: (K,) scores of each image, at least 0. Scores that do not add up to 1, as those of sigmoids,
                are divided by their sum.

        Raises:
            UserError: a label or the number of scores disagrees with the number of classes, or a score is not finite.
        """
        if not inputs:
            return
        num_classes = len(self._counts)
        labels = np.array([int(image["label"]) for image in inputs])
        for label, image in zip(labels, inputs, strict=True):
            if not 0 <= label < num_classes:
                raise UserError(
                    f"{_image_name(image)} has the label {label}, and there are {num_classes} classes, from 0 on; "
                    "make the number of classes and the dataset agree."
                )
        scores = torch.stack(list(outputs)).detach().to("cpu", torch.float64).numpy()
        if scores.shape[1] != num_classes:
            raise UserError(f"The model gives {scores.shape[1]} scores an image, but there are {num_classes} classes.")
        is_valid = (np.isfinite(scores) & (scores >= 0)).all(axis=1)
        for image, valid in zip(inputs, is_valid, strict=True):
            if not valid:
                raise UserError(f"The model's scores for {_image_name(image)} are not finite, or below 0.")
        self._parts.append(Samples.from_scores(labels, scores))
        self._ids += [image.get("image_id") for image in inputs]

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Compute the metrics.

        Returns:
            On the first process ``{"classification": {metric: value}}``: ``top1``, ``top5``, ``many``, ``medium`` and
            ``few`` (mean over the group's classes), ``mean_class`` and ``ece`` in percent, ``nll`` in nats; NaN for a
            group without images. Elsewhere, and without images, an empty dict.

        Raises:
            UserError: an image comes twice with different labels, or the files cannot be written.
        """
        samples = self._gather()
        if samples is None:
            return OrderedDict()
        if not len(samples.labels):
            logger.warning("The evaluation has seen no images; there are no metrics.")
            return OrderedDict()
        of_classes, correct, totals = class_metrics(samples, self._groups)
        if self._output_dir:
            self._write(self._output_dir, samples, correct, totals)
        metrics = sample_metrics(samples, self._num_bins) | of_classes
        order = ("top1", "top5", "many", "medium", "few", "mean_class", "ece", "nll")
        values = {name: metrics[name] for name in order}
        cells = [f"{value:.3f}" if name == "nll" else f"{value:.1f}" for name, value in values.items()]
        table = tabulate([cells], headers=list(values), disable_numparse=True, stralign="right")
        logger.info("%d images, in percent (nll in nats)\n%s", len(samples.labels), table, extra=FOR_TERMINAL)
        return OrderedDict(classification=values)

    def _gather(self) -> Samples | None:
        """Every image of all processes once, on the first process; None elsewhere."""
        own = (self._ids, Samples.joined(self._parts))
        gathered = comm.gather(own, dst=0) if self._distributed else [own]
        if not gathered:
            return None
        all_ids = [key for ids, _ in gathered for key in ids]
        samples = Samples.joined([part for _, part in gathered])
        return samples.chosen(_first_of_each(all_ids, samples.labels))

    def _write(self, folder: Path, samples: Samples, correct: np.ndarray, totals: np.ndarray) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._write_table(folder / "per_class_accuracy.csv", correct, totals)
            save_confusion_picture(
                folder / "confusion.png", samples.labels, samples.predictions, self._counts, self._names
            )
        except OSError as error:
            raise UserError(
                f"{self._output_dir} cannot be written ({error.strerror}); free space or set another OUTPUT_DIR."
            ) from None

    def _write_table(self, path: Path, correct: np.ndarray, totals: np.ndarray) -> None:
        """One row per class, in the order of the classes; an accuracy without images is "nan"."""
        partial = path.with_name(f".{path.name}.partial")
        with open(partial, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["class_id", "name", "group", "train_images", "test_images", "correct", "accuracy"])
            columns = (self._names, self._groups, self._counts.tolist(), totals.tolist(), correct.tolist())
            for class_id, (name, group, images, total, right) in enumerate(zip(*columns, strict=True)):
                accuracy = 100 * right / total if total else float("nan")
                writer.writerow([class_id, csv_text(name), group, images, total, right, f"{accuracy:.4f}"])
        partial.replace(path)


def _image_name(image: dict[str, Any]) -> str:
    return str(image.get("file_name") or f"image {image.get('image_id', 'without an id')}")


def _first_of_each(ids: list[Hashable | None], labels: np.ndarray) -> np.ndarray:
    """Indices of the images that count: those without an id, and the first of each id."""
    first: dict[Hashable, int] = {}
    chosen = []
    for index, key in enumerate(ids):
        if key is None:
            chosen.append(index)
            continue
        before = first.setdefault(key, index)
        if before == index:
            chosen.append(index)
        elif labels[before] != labels[index]:
            raise UserError(
                f"Two images with the image_id {key!r} have the labels {labels[before]} and {labels[index]}; give each "
                "image an image_id of its own."
            )
    if len(chosen) < len(ids):
        logger.info("%d images came more than once and count once.", len(ids) - len(chosen))
    return np.array(chosen, dtype=np.int64)
