"""How much faster and lighter an annotation file of LVIS's size loads than with Detectron2's `load_lvis_json`.

    python benchmarks/loading.py [--images 100170] [--annotations 1270141] [--repeats 3] [--folder DIR] [--json FILE]

Makes a file of random polygons, as large as LVIS v1 train by default (1.1 GB; needs 3 GB of disk and 10 GB of memory,
nearly all for Detectron2). Each load runs in a process of its own, in turns; ratios are those of the medians. Times
leave out imports. Afterwards all dataset dicts are compared. Needs the `lvis` package.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tabulate import tabulate

NUM_CLASSES = 1203
KINDS = ("detectron2", "first", "cached")
TARGETS = {"first": 4, "cached": 20}


def make_annotation_file(path: Path, num_images: int, num_annotations: int) -> None:
    """Write a file of LVIS v1's form and proportions: about 40 points and 870 bytes an annotation, long tails."""
    rng = np.random.default_rng(0)
    shapes = [_shape(rng) for _ in range(5000)]
    per_image = rng.multinomial(num_annotations, rng.dirichlet(np.full(num_images, 0.8)))
    frequencies = 1 / np.arange(1, NUM_CLASSES + 1)
    classes = 1 + rng.choice(NUM_CLASSES, num_annotations, p=frequencies / frequencies.sum())
    shape_of = rng.integers(len(shapes), size=num_annotations)
    ids = 1 + rng.permutation(6 * num_images)[:num_images]  # not in order, as in LVIS val
    with open(path, "w") as file:
        file.write('{"info": {"version": "v1.0"}, "annotations": [')
        for number, image_id in enumerate(np.repeat(ids, per_image).tolist()):
            segmentation, bbox, area = shapes[shape_of[number]]
            file.write(", " if number else "")
            file.write(
                f'{{"area": {area}, "id": {number + 1}, "segmentation": {segmentation}, "image_id": {image_id}, '
                f'"bbox": {bbox}, "category_id": {classes[number]}}}'
            )
        file.write('], "images": ')
        json.dump([_image(rng, image_id) for image_id in ids.tolist()], file)
        categories = [{"id": i, "name": f"class_{i}", "frequency": "c"} for i in range(1, NUM_CLASSES + 1)]
        file.write(f', "licenses": [], "categories": {json.dumps(categories)}}}')


def _shape(rng: np.random.Generator) -> tuple[str, str, float]:
    """JSON of a segmentation (one polygon, now and then two) and its box, and its area."""
    polygons = []
    for _ in range(1 if rng.random() < 0.9 else 2):
        points = int(np.clip(rng.lognormal(3.4, 0.8), 3, 400))
        angles = np.sort(rng.random(points)) * 2 * np.pi
        radius = 5 + 60 * rng.random()
        xy = 70 + 300 * rng.random(2) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        polygons.append(np.round(xy, 2).ravel().tolist())
    corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
    low, high = corners.min(axis=0), corners.max(axis=0)
    box = [round(float(value), 2) for value in (*low, *(high - low))]
    return json.dumps(polygons), json.dumps(box), round(box[2] * box[3] / 2, 2)


def _image(rng: np.random.Generator, image_id: int) -> dict:
    return {
        "id": image_id,
        "license": 3,
        "coco_url": f"http://images.cocodataset.org/train2017/{image_id:012d}.jpg",
        "flickr_url": f"http://farm5.staticflickr.com/{image_id}/{image_id:010d}_z.jpg",
        "date_captured": "2013-11-14 17:02:52",
        "height": 480,
        "width": 640,
        "neg_category_ids": rng.integers(1, NUM_CLASSES + 1, rng.integers(30)).tolist(),
        "not_exhaustive_category_ids": rng.integers(1, NUM_CLASSES + 1, rng.integers(4)).tolist(),
    }


def load(kind: str, path: str):
    """A function that loads the file; imports are done."""
    if kind == "detectron2":
        import lvis  # noqa: F401
        from detectron2.data.datasets.lvis import load_lvis_json

        return lambda: load_lvis_json(path, os.path.join(os.path.dirname(path), ""))
    from eql_d2.data.annotations.lvis_format import load_lvis_format

    return lambda: load_lvis_format(path, os.path.dirname(path))


def measure(kind: str, path: str) -> None:
    """Print the seconds of one load, and the peak memory of this process and what it had before, in MB."""
    function, before = load(kind, path), _memory("VmRSS")
    start = time.perf_counter()
    dataset = function()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak": _memory("VmHWM"), "before": before, "images": len(dataset)}))


def _memory(key: str) -> float:
    """A value of this process's status in MB; unlike getrusage's, it knows nothing of the parent process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def compare(path: str) -> None:
    """Compare the datasets item by item; both ways of naming categories give the same numbers for ids 1 … K."""
    ours, theirs = load("cached", path)(), load("detectron2", path)()
    assert len(ours) == len(theirs)
    start, count = time.perf_counter(), 0
    for item, expected in zip(ours, theirs, strict=True):
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):  # theirs are those of the file
            expected[key] = [category_id - 1 for category_id in expected[key]]
        assert item == expected, f"image {expected['image_id']} differs"
        count += len(item["annotations"])
    microseconds = 1e6 * (time.perf_counter() - start) / len(ours)
    print(f"{len(ours)} images and {count} annotations are equal; {microseconds:.0f} microseconds to unpack an image")


def run(*arguments: str) -> str:
    """Output of this script in a fresh process."""
    command = [sys.executable, "-W", "ignore", __file__, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def benchmark(path: Path, repeats: int) -> tuple[list[str], list[list]]:
    """Measure all kinds in turns; gives the table's headers and rows."""
    results = {kind: [] for kind in KINDS}
    for _ in range(repeats):
        for kind in KINDS:
            if kind == "first":
                path.with_name(f"{path.name}.cache").unlink(missing_ok=True)
            results[kind].append(json.loads(run("--measure", kind, str(path))))
            print(kind, results[kind][-1], flush=True)
    median = {
        kind: {key: statistics.median(result[key] for result in runs) for key in runs[0]}
        for kind, runs in results.items()
    }
    reference, rows = median["detectron2"], []
    for kind, values in median.items():
        ratio = reference["seconds"] / values["seconds"]
        memory = values["peak"] / reference["peak"]
        rows.append([kind, values["seconds"], ratio, TARGETS.get(kind), values["peak"], values["before"], memory])
    return ["load", "seconds", "times faster", "target", "peak MB", "of it imports", "share of Detectron2's"], rows


def main() -> None:
    """Make the file, measure, compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_170)
    parser.add_argument("--annotations", type=int, default=1_270_141)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument("--json", help="also write the numbers here")
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        kind, file = arguments.measure
        compare(file) if kind == "compare" else measure(kind, file)
        return
    os.environ.pop("EQL_D2_CACHE", None)  # the cache lies beside the file, and goes with it
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "annotations.json"
        make_annotation_file(path, arguments.images, arguments.annotations)
        megabytes = path.stat().st_size / 1e6
        print(f"{megabytes:.0f} MB, {arguments.images} images, {arguments.annotations} annotations", flush=True)
        headers, rows = benchmark(path, arguments.repeats)
        print(tabulate(rows, headers=headers, floatfmt=".2f"))
        print(run("--measure", "compare", str(path)).strip())
    if arguments.json:
        cases = [dict(zip(headers, row, strict=True)) for row in rows]
        Path(arguments.json).write_text(json.dumps({"file_MB": megabytes, "cases": cases}, indent=1))


if __name__ == "__main__":
    main()
