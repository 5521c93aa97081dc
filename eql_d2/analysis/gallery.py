"""Detections of runs side by side, their errors coloured, as pictures inside a page."""

import html
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eql_d2.analysis.class_values import corners, open_results, test_files
from eql_d2.analysis.detection_errors import KINDS, Judgement, judge_detections
from eql_d2.analysis.finished_runs import FinishedRun
from eql_d2.analysis.page import picture_url
from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.image_paths import image_paths
from eql_d2.data.annotations.rules import is_region
from eql_d2.data.pictures import BROKEN, read_picture
from eql_d2.drawing.instances import draw_instances
from eql_d2.errors import UserError
from eql_d2.evaluation.metrics.ground_truth import GroundTruth

MISSED = "missed"
# RGB; a mark before the label tells what a colour does to those who see it.
COLORS = {
    "right": (46, 160, 67),
    "class": (255, 140, 0),
    "place": (214, 39, 40),
    "twice": (148, 82, 200),
    "open": (128, 128, 128),
    MISSED: (31, 111, 235),
}
MARKS = {"right": "✓", "class": "≠", "place": "✗", "twice": "2×", "open": "?", MISSED: "–"}
NAMES = {
    "right": "right",
    "class": "wrong class",
    "place": "wrong place",
    "twice": "twice",
    "open": "not judged",
    MISSED: "missed",
}
EXPLANATIONS = {**KINDS, MISSED: "an object that no shown detection found with its class"}
QUALITY = 82  # of the JPEGs


def gallery(
    runs: Sequence[FinishedRun],
    dataset: str,
    num_images: int = 8,
    score_threshold: float | None = None,
    side: int = 480,
) -> str:
    """The same images with the detections of each run, as HTML.

    Images are taken at equal distances over those with objects, so that neither run nor reader chooses them.

    Args:
        runs: with saved detections on the dataset, one or two.
        dataset: name of the test set.
        num_images: how many images.
        score_threshold: detections with less are left out; None shows as many as the image has objects, the best
            first, so that methods whose scores are on different scales can be compared.
        side: length of a picture's longer side, in pixels.

    Raises:
        UserError: detections, annotations or images are missing or broken.
    """
    truth, _ = opened = open_results(runs[0], dataset)
    results = [opened[1], *(open_results(run, dataset)[1] for run in runs[1:])]
    annotation_file, image_root = test_files(runs[0], dataset)
    paths = image_paths_by_id(annotation_file, image_root)
    with_objects = [image_id for image_id in sorted(truth.images) if truth.annotations(image_id)]
    chosen = [
        with_objects[i] for i in np.linspace(0, len(with_objects) - 1, min(num_images, len(with_objects))).astype(int)
    ]
    shape = "one" if len(runs) == 1 else "two"
    rows: list[str] = []
    alone: list[str] = []
    totals: list[Counter[str]] = [Counter() for _ in runs]
    for image_id in chosen:
        path = image_root / paths[image_id]
        try:
            pixels = read_picture(str(path), "RGB")
        except BROKEN:
            raise UserError(f"Image {path} of {dataset} is missing or unreadable.") from None
        cells = []
        for run, of_run, total in zip(runs, results, totals, strict=True):
            picture, counts = _judged_picture(pixels, truth, image_id, of_run.of_image(image_id), score_threshold, side)
            total.update(counts)
            cells.append(_figure(picture, f"{run.name}, image {image_id}", counts))
        if len(runs) == 1:
            alone += cells
        else:
            rows.append(f'<div class="pair {shape}">{"".join(cells)}</div>')
    heads = "".join(
        f"<p><b>{html.escape(run.name)}</b><br>{_told(total)}</p>" for run, total in zip(runs, totals, strict=True)
    )
    if alone:
        return f'{heads}<div class="pair one">{"".join(alone)}</div>'
    return f'<div class="pair {shape}">{heads}</div>{"".join(rows)}'


def legend() -> str:
    """The colours and marks, as an HTML list."""
    items = (
        f'<li><span class="swatch" style="background:rgb{COLORS[kind]}">{MARKS[kind]}</span> '
        f"<b>{NAMES[kind]}</b>: {EXPLANATIONS[kind]}</li>"
        for kind in COLORS
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def image_paths_by_id(annotation_file: Path, image_root: Path) -> dict[int, str]:
    """Paths below the image folder of an annotation file's images, by their ids."""
    annotations = open_annotations(annotation_file)
    return dict(zip(annotations.image_ids.tolist(), image_paths(annotations, image_root), strict=True))


def judge_image(truth: GroundTruth, image_id: int, detections: list[dict[str, Any]]) -> tuple[Judgement, list[dict]]:
    """Judge an image's detections, best score first; also returns the objects that they were matched to."""
    annotations = truth.annotations(image_id)
    ignored = [is_region(a) for a in annotations]
    objects = [a for a, region in zip(annotations, ignored, strict=True) if not region]
    regions = [a for a, region in zip(annotations, ignored, strict=True) if region]
    image = truth.images[image_id]
    labelled = None
    if "neg_category_ids" in image:
        labelled = {*image["neg_category_ids"], *(a["category_id"] for a in annotations)}
    judgement = judge_detections(
        corners(detections),
        np.array([d["category_id"] for d in detections], dtype=int),
        corners(objects),
        np.array([a["category_id"] for a in objects], dtype=int),
        labelled=labelled,
        not_exhaustive=image.get("not_exhaustive_category_ids", ()),
        regions=corners(regions),
    )
    return judgement, objects


def _judged_picture(
    pixels: np.ndarray,
    truth: GroundTruth,
    image_id: int,
    detections: list[dict[str, Any]],
    score_threshold: float | None,
    side: int,
) -> tuple[np.ndarray, Counter]:
    """The image with its detections, and how many of each kind they are."""
    detections = sorted(detections, key=lambda d: -d["score"])
    if score_threshold is None:
        detections = detections[: len(truth.annotations(image_id))]
    else:
        detections = [d for d in detections if d["score"] >= score_threshold]
    judgement, objects = judge_image(truth, image_id, detections)
    missed = [a for a, is_missed in zip(objects, judgement.missed, strict=True) if is_missed]
    kinds = [*judgement.kinds, *([MISSED] * len(missed))]
    names = {category["id"]: category["name"] for category in truth.categories}
    labels = [
        f"{MARKS[kind]} {names.get(r['category_id'], '?')}"
        for kind, r in zip(kinds, [*detections, *missed], strict=True)
    ]
    labels[: len(detections)] = [f"{label} {d['score']:.2f}" for label, d in zip(labels, detections, strict=False)]
    colors = np.array([COLORS[kind] for kind in kinds], dtype=np.uint8).reshape(-1, 3)
    boxes = corners([*detections, *missed])
    return draw_instances(pixels, boxes, labels, colors, scale=side / max(pixels.shape[:2])), Counter(kinds)


def _figure(picture: np.ndarray, title: str, counts: Counter) -> str:
    height, width = picture.shape[:2]
    text = html.escape(f"{title}: {_told(counts)}")
    image = f'<img src="{picture_url(picture, QUALITY)}" width="{width}" height="{height}" alt="{text}">'
    button = f'<button type="button" class="enlarge" title="full size">{image}</button>'
    return f"<figure>{button}<figcaption>{text}</figcaption></figure>"


def _told(counts: Counter) -> str:
    return ", ".join(f"{counts[kind]} {name}" for kind, name in NAMES.items() if counts[kind]) or "nothing"
