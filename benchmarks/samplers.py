"""How long training samplers take at LVIS's size: to start, and for each image; against Detectron2's repeat factors.

    python benchmarks/samplers.py [--images 99388] [--annotations 1270141] [--repeats 5] [--json FILE]

Each is run in turns, one thread; medians of CPU time. "start" is from the dataset dicts to the first image; an epoch is
what a resumed run goes through for each epoch that it has behind it. The streams of both repeat factor samplers are
compared.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from detectron2.data import samplers as detectron2_samplers
from tabulate import tabulate

from eql_d2.data.training.image_classes import ImageClasses
from eql_d2.data.training.sampler_report import classes_shown
from eql_d2.data.training.samplers import (
    ClassAwareTrainingSampler,
    ClassBalancedTrainingSampler,
    MixtureTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
    category_repeat_factors,
)
from eql_d2.long_tail import CategoryCounts

NUM_CLASSES = 1203
THRESHOLD = 0.001


def make_dicts(num_images: int, num_annotations: int) -> list[dict]:
    """Images with a long tail of classes and of numbers of instances, one at least."""
    rng = np.random.default_rng(0)
    per_image = 1 + rng.multinomial(num_annotations - num_images, rng.dirichlet(np.full(num_images, 0.8)))
    frequencies = np.arange(1, NUM_CLASSES + 1) ** -1.6
    instances = [{"category_id": index} for index in range(NUM_CLASSES)]
    classes = rng.choice(NUM_CLASSES, num_annotations, p=frequencies / frequencies.sum()).tolist()
    ends = per_image.cumsum().tolist()
    return [
        {"annotations": [instances[c] for c in classes[start:end]]}
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def counts_of(dicts: list[dict]) -> CategoryCounts:
    """What the annotation file's columns give at no cost here."""
    images, instances = ImageClasses(dicts).counts(np.ones(len(dicts)), NUM_CLASSES)
    names = tuple(map(str, range(NUM_CLASSES)))
    return CategoryCounts(
        tuple(range(NUM_CLASSES)), names, tuple(images.tolist()), tuple(instances.tolist()), len(dicts)
    )


def detectron2_repeat_factor(dicts: list[dict], counts: CategoryCounts) -> Iterator[int]:
    """Detectron2's own."""
    sampler = detectron2_samplers.RepeatFactorTrainingSampler
    return iter(sampler(sampler.repeat_factors_from_category_frequency(dicts, THRESHOLD), seed=0))


def repeat_factor(dicts: list[dict], counts: CategoryCounts, rounding: str = "stochastic") -> Iterator[int]:
    """Ours."""
    of_class = category_repeat_factors(counts.image_frequencies, THRESHOLD)
    return iter(RepeatFactorTrainingSampler(ImageClasses(dicts).largest(of_class), 0, rounding))


def class_aware(dicts: list[dict], counts: CategoryCounts) -> Iterator[int]:
    """Ours."""
    return iter(ClassAwareTrainingSampler(ImageClasses(dicts).images_of_class(NUM_CLASSES), 0))


def square_root(dicts: list[dict], counts: CategoryCounts) -> Iterator[int]:
    """Class-balanced by the square root."""
    images = ImageClasses(dicts).images_of_class(NUM_CLASSES)
    return iter(ClassBalancedTrainingSampler(images, torch.tensor(counts.image_counts), 0.5, 0))


def mixture(dicts: list[dict], counts: CategoryCounts) -> Iterator[int]:
    """Half repeat factors, half class-aware."""
    classes = ImageClasses(dicts)
    factors = classes.largest(category_repeat_factors(counts.image_frequencies, THRESHOLD))
    aware = ClassAwareTrainingSampler(classes.images_of_class(NUM_CLASSES), 2)
    return iter(MixtureTrainingSampler([RepeatFactorTrainingSampler(factors, 1), aware], [1, 1], 0))


SAMPLERS: dict[str, Callable[[list[dict], CategoryCounts], Iterator[int]]] = {
    "repeat factor, Detectron2": detectron2_repeat_factor,
    "repeat factor": repeat_factor,
    "repeat factor, ceil": lambda dicts, counts: repeat_factor(dicts, counts, "ceil"),
    "class-aware": class_aware,
    "class-balanced, q = 1/2": square_root,
    "mixture of two": mixture,
}


def main() -> None:
    """Measure all samplers and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=99_388)
    parser.add_argument("--annotations", type=int, default=1_270_141)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="also write the numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dicts = make_dicts(arguments.images, arguments.annotations)
    counts = counts_of(dicts)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in SAMPLERS}
    streams = {}
    for _ in range(arguments.repeats):
        for name, build in SAMPLERS.items():
            start = time.process_time()
            stream = build(dicts, counts)
            first = next(stream)
            started = time.process_time()
            streams[name] = [first, *itertools.islice(stream, 3 * len(dicts))]
            times[name].append((started - start, (time.process_time() - started) / 3))
    assert streams["repeat factor"] == streams["repeat factor, Detectron2"]
    rows = []
    for name, pairs in times.items():
        starting, epoch = (statistics.median(values) for values in zip(*pairs, strict=True))
        rows.append([name, 1e3 * starting, 1e3 * epoch, 1e6 * epoch / len(dicts)])
    start = time.process_time()
    classes_shown(TrainingSampler(len(dicts), 0), ImageClasses(dicts), NUM_CLASSES)
    rows.append(["(report of the classes)", 1e3 * (time.process_time() - start), None, None])
    headers = ["sampler", "start (ms)", "epoch (ms)", "image (us)"]
    print(tabulate(rows, headers=headers, floatfmt=".2f"), f"\n{len(dicts)} images, torch {torch.__version__}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump([dict(zip(headers, row, strict=True)) for row in rows], file, indent=1)


if __name__ == "__main__":
    main()
