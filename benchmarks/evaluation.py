"""Time and memory of LVIS evaluation, against the official package, on a made-up set like LVIS val.

    python benchmarks/evaluation.py [--images 1000] [--repeats 3] [--threads 1] [--json FILE]
    python benchmarks/evaluation.py --engine-alone --images 19809   # the compiled engine at LVIS val's size

Both engines go through the same path, image by image, as in a run; they take turns, the ratio is that of the medians,
and all metrics are compared. Time is that of taking in results and computing metrics, not of making them up. Each
memory is the peak of a fresh process beyond what it held after its imports, with the annotation file read by it.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

NUM_CLASSES = 1203
HEIGHT, WIDTH = 480, 640
RESULTS_PER_IMAGE = 300
TASKS = ("bbox", "segm")


def made_up_annotations(num_images: int) -> dict[str, Any]:
    """An LVIS-format file: a long tail of classes, 12 objects an image as polygons, federated labels."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, NUM_CLASSES + 1)
    share /= share.sum()
    categories = [
        {"id": k + 1, "name": f"class {k}", "frequency": "f" if k < 405 else "c" if k < 866 else "r"}
        for k in range(NUM_CLASSES)
    ]
    images, annotations = [], []
    for image_id in range(1, num_images + 1):
        classes = rng.choice(NUM_CLASSES, size=12, p=share) + 1
        others = np.setdiff1d(rng.choice(NUM_CLASSES, size=25) + 1, classes)
        images.append(
            {
                "id": image_id,
                "file_name": f"{image_id}.jpg",
                "height": HEIGHT,
                "width": WIDTH,
                "neg_category_ids": others[:-3].tolist(),
                "not_exhaustive_category_ids": classes[:1].tolist(),
            }
        )
        centers = rng.uniform(0, (WIDTH, HEIGHT), (12, 2))
        polygons = outlines(rng, centers, rng.lognormal(3, 0.8, (12, 2)))
        boxes = boxes_of(polygons)
        for class_id, polygon, box in zip(classes.tolist(), polygons.tolist(), boxes.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": class_id,
                    "bbox": box,
                    "area": 0.78 * box[2] * box[3],
                    "segmentation": [polygon],
                }
            )
    return {"images": images, "annotations": annotations, "categories": categories}


def outlines(rng: np.random.Generator, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N, 48), uneven ellipses of 24 points inside the image, about as many as LVIS's objects have."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radius = 0.5 + 0.05 * rng.standard_normal((len(centers), 24, 1))
    points = centers[:, None] + sizes[:, None] * radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.clip(points, 0, (WIDTH, HEIGHT)).round(2).reshape(len(centers), -1)


def boxes_of(polygons: np.ndarray) -> np.ndarray:
    """(N, 4) XYWH."""
    points = polygons.reshape(len(polygons), -1, 2)
    low, high = points.min(axis=1), points.max(axis=1)
    return np.concatenate([low, np.maximum(high - low, 1)], axis=1)


def made_up_results(image: dict[str, Any], annotations: list[dict[str, Any]], masks: bool) -> list[dict[str, Any]]:
    """300 results: three near each object, the rest anywhere, a third of them of classes labelled in the image."""
    from pycocotools import mask as mask_utils

    rng = np.random.default_rng(image["id"])
    objects = np.repeat([annotation["bbox"] for annotation in annotations], 3, axis=0)
    right_classes = np.repeat([annotation["category_id"] for annotation in annotations], 3)
    anywhere = RESULTS_PER_IMAGE - len(objects)
    near = np.concatenate(
        [objects, np.concatenate([rng.uniform(0, 400, (anywhere, 2)), rng.lognormal(3, 0.8, (anywhere, 2))], axis=1)]
    )
    labelled = np.concatenate([image["neg_category_ids"], right_classes])
    classes = np.where(
        rng.random(RESULTS_PER_IMAGE) < 1 / 3,
        rng.choice(labelled, RESULTS_PER_IMAGE),
        rng.integers(1, NUM_CLASSES + 1, RESULTS_PER_IMAGE),
    )
    is_right = rng.random(len(objects)) < 0.7
    classes[: len(objects)][is_right] = right_classes[is_right]
    scores = rng.random(RESULTS_PER_IMAGE).round(3)  # equal scores occur
    polygons = outlines(rng, near[:, :2] + near[:, 2:] / 2, near[:, 2:] * rng.uniform(0.9, 1.1, (len(near), 2)))
    results = [
        {"image_id": image["id"], "category_id": class_id, "score": score, "bbox": box}
        for class_id, score, box in zip(classes.tolist(), scores.tolist(), boxes_of(polygons).tolist(), strict=True)
    ]
    if masks:
        for result, run_lengths in zip(results, mask_utils.frPyObjects(polygons.tolist(), HEIGHT, WIDTH), strict=True):
            result["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": run_lengths["counts"].decode()}
    return results


def evaluate(path: str, engine: str, tasks: tuple[str, ...]) -> dict[str, Any]:
    """Seconds of taking in and computing, by the clock and of the processor, and all metrics in percent."""
    from eql_d2.data.annotations.cache import open_annotations
    from eql_d2.data.annotations.lvis_format import annotation_content
    from eql_d2.evaluation.metrics.evaluation import Evaluation
    from eql_d2.evaluation.metrics.ground_truth import GroundTruth

    ground_truth = GroundTruth(annotation_content(open_annotations(path)), path)
    evaluation = Evaluation(ground_truth, tasks, engine)
    seconds = np.zeros(2)
    for image_id, image in ground_truth.images.items():
        results = made_up_results(image, ground_truth.annotations(image_id), "segm" in tasks)
        start = clocks()
        evaluation.add_image(image_id, results)
        seconds += clocks() - start
    start = clocks()
    with np.errstate(all="ignore"):
        metrics = evaluation.compute()
    seconds += clocks() - start
    values = {task: of_task.values for task, of_task in metrics.items()}
    return {"seconds": seconds[0], "processor seconds": seconds[1], "metrics": values}


def clocks() -> np.ndarray:
    """Seconds by the clock and of the processor; others on the machine change the first only."""
    return np.array([time.perf_counter(), time.process_time()])


def one_process(path: str, engine: str, tasks: tuple[str, ...]) -> None:
    """What a fresh process does: evaluate, and print seconds, metrics and its peak memory as JSON."""
    import logging

    import eql_d2.evaluation
    import eql_d2.evaluation.metrics.references  # noqa: F401

    logging.disable(logging.WARNING)
    before = current_megabytes()
    outcome = evaluate(path, engine, tasks)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**outcome, "megabytes": peak - before}))


def current_megabytes() -> float:
    """Resident memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def fresh_process(path: str, engine: str, tasks: tuple[str, ...], threads: int) -> dict[str, Any]:
    """The outcome of :func:`one_process` in a process of its own."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
    command = [sys.executable, __file__, "--one-process", path, engine, *tasks]
    done = subprocess.run(command, env={**os.environ, **limits}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compare(path: str, repeats: int, threads: int) -> list[dict[str, Any]]:
    """Both engines in turns, boxes and masks."""
    rows = []
    for task in TASKS:
        runs = {"hotcoco": [], "lvis": []}
        for _ in range(repeats):
            for engine, outcomes in runs.items():
                outcomes.append(fresh_process(path, engine, (task,), threads))
        seconds, processor = (
            {engine: statistics.median(o[key] for o in outcomes) for engine, outcomes in runs.items()}
            for key in ("seconds", "processor seconds")
        )
        memory = {engine: max(o["megabytes"] for o in outcomes) for engine, outcomes in runs.items()}
        ours, official = (runs[engine][0]["metrics"][task] for engine in ("hotcoco", "lvis"))
        difference = max(abs(ours[name] - official[name]) for name in official)
        assert difference < 1e-9, (task, ours, official)
        rows.append(
            {
                "task": task,
                "official (s)": seconds["lvis"],
                "ours (s)": seconds["hotcoco"],
                "times faster": seconds["lvis"] / seconds["hotcoco"],
                "official (CPU s)": processor["lvis"],
                "ours (CPU s)": processor["hotcoco"],
                "times less CPU": processor["lvis"] / processor["hotcoco"],
                "official (MB)": memory["lvis"],
                "ours (MB)": memory["hotcoco"],
                "largest difference": difference,
                "metrics": len(official),
            }
        )
    return rows


def main() -> None:
    """Make the set, run, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of the compiled engine; the official package has one")
    parser.add_argument("--engine-alone", action="store_true", help="the compiled engine only, boxes and masks at once")
    parser.add_argument("--json", help="also write the numbers here; what the file says of other sizes stays")
    parser.add_argument("--one-process", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one_process:
        path, engine, *tasks = args.one_process
        return one_process(path, engine, tuple(tasks))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "annotations.json")
        Path(path).write_text(json.dumps(made_up_annotations(args.images)))
        print(
            f"{args.images} images × {RESULTS_PER_IMAGE} results, {Path(path).stat().st_size / 1e6:.0f} MB annotations"
        )
        if args.engine_alone:
            outcome = fresh_process(path, "hotcoco", TASKS, args.threads)
            rows = [
                {
                    "task": "both",
                    "ours (s)": outcome["seconds"],
                    "ours (CPU s)": outcome["processor seconds"],
                    "ours (MB)": outcome["megabytes"],
                }
            ]
        else:
            rows = compare(path, args.repeats, args.threads)
    report(rows, args)


def report(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Print the numbers, and keep them in the file of results."""
    from tabulate import tabulate

    threads = "one thread" if args.threads == 1 else f"{args.threads} threads"
    device = f"CPU {platform.machine()}, {threads}"
    print(tabulate(rows, headers="keys", floatfmt=".4g"), f"\n{device}")
    if args.json:
        path = Path(args.json)
        content = json.loads(path.read_text()) if path.exists() else {}
        key = f"{args.images} images × {RESULTS_PER_IMAGE}{', engine alone' if args.engine_alone else ''}"
        content[key] = {"device": device, "repeats": 1 if args.engine_alone else args.repeats, "cases": rows}
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
