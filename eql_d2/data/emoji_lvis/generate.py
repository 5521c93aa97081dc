"""Generation of a set on disk: images in parallel, annotation files, all or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import orjson
from tqdm import tqdm

from eql_d2.child_processes import end_pool_worker_with_parent
from eql_d2.data.emoji_lvis.glyphs import Glyph, render_glyph, select_glyphs
from eql_d2.data.emoji_lvis.masks import encode_mask
from eql_d2.data.emoji_lvis.plan import SPLITS, ImagePlan, SplitPlan, plan_split
from eql_d2.data.emoji_lvis.records import (
    ATTRIBUTION,
    category_records,
    dataset_header,
    image_file_name,
    image_ids,
    image_record,
)
from eql_d2.data.emoji_lvis.render import render_image
from eql_d2.data.emoji_lvis.spec import PRESETS, EmojiLVISSpec
from eql_d2.errors import UserError

# Rises whenever the same spec would give other bytes, so that an old folder is not taken for a current one.
GENERATOR_VERSION = 1
JPEG_QUALITY = 90


def generate_emoji_lvis(
    spec: EmojiLVISSpec, root: str | os.PathLike, workers: int | None = None, progress: bool = True
) -> Path:
    """Generate a set, or find it where it was generated before.

    The set is built in a hidden sibling folder and renamed when it is whole, so an interrupted run leaves
    nothing that looks like a set. Of several processes asking for the same set, one generates it and the
    others wait.

    Args:
        spec: the set.
        root: folder of all sets; the set goes to `root/<spec.name>`.
        workers: processes that draw; default: one per CPU. The result does not depend on it.
        progress: show a progress bar with the time left on stderr.

    Returns:
        `root/<spec.name>`, with train.json and train/ (val, test alike), spec.json and ATTRIBUTION.txt.

    Raises:
        UserError: the folder holds something else than this set.
    """
    root = Path(root)
    folder = root / spec.name
    if is_complete(spec, folder):
        return folder
    _refuse_foreign_folder(spec, folder)
    root.mkdir(parents=True, exist_ok=True)
    with _only_one_process(root / f".{spec.name}.lock"):
        if is_complete(spec, folder):  # another process was faster
            return folder
        _refuse_foreign_folder(spec, folder)
        for leftover in root.glob(f".{spec.name}.*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{spec.name}.", suffix=".partial", dir=root))
        try:
            _write_set(spec, partial, workers or os.cpu_count() or 1, progress)
            partial.chmod(0o755)  # mkdtemp makes private folders
            _move_into_place(spec, partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def is_complete(spec: EmojiLVISSpec, folder: str | os.PathLike) -> bool:
    """Whether a folder holds all files of the set `spec` describes."""
    folder = Path(folder)
    if _stored_spec(folder) != _spec_record(spec):
        return False
    expected = {f"{split}.json" for split in spec.num_images}
    for split in spec.num_images:
        expected.update(image_file_name(split, image_id) for image_id in image_ids(spec, split))
    return expected <= _non_empty_files(folder)


def _non_empty_files(folder: Path) -> set[str]:
    """Files of a set and of its image folders, relative to it."""
    found = set()
    for place, prefix in [(folder, ""), *((folder / split, f"{split}/") for split in SPLITS)]:
        if place.is_dir():
            found |= {prefix + entry.name for entry in os.scandir(place) if entry.stat().st_size > 0}
    return found


def glyphs_of(spec: EmojiLVISSpec) -> tuple[Glyph, ...]:
    """The classes of a set, sorted by name."""
    left_out = tuple(glyph for name in spec.left_out for glyph in glyphs_of(PRESETS[name]))
    return select_glyphs(spec.num_classes, spec.seed, left_out)


def _spec_record(spec: EmojiLVISSpec) -> dict:
    # Through JSON and back, so that it compares equal to what is read from spec.json (tuples become lists).
    record = {**dataclasses.asdict(spec), "generator_version": GENERATOR_VERSION}
    # Sets from before there were such fields are as they were.
    for field in ("other_than", "negatives_per_image", "num_test_images"):
        if not record[field]:
            del record[field]
    return orjson.loads(orjson.dumps(record))


def _stored_spec(folder: Path) -> dict | None:
    with contextlib.suppress(OSError, orjson.JSONDecodeError):
        return orjson.loads((folder / "spec.json").read_bytes())
    return None


def _refuse_foreign_folder(spec: EmojiLVISSpec, folder: Path) -> None:
    if (
        folder.exists()
        and (not folder.is_dir() or any(folder.iterdir()))
        and _stored_spec(folder) != _spec_record(spec)
    ):
        raise UserError(
            f"{folder} holds something else than the EmojiLVIS set asked for (other values or version); "
            "choose another name or root, or remove it."
        )


@contextlib.contextmanager
def _only_one_process(lock_file: Path) -> Iterator[None]:
    """Hold a file lock; the system frees it when the process ends, however it ends."""
    with lock_file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _move_into_place(spec: EmojiLVISSpec, partial: Path, folder: Path) -> None:
    """Rename the finished set; where the folder is there already, only put back what it lacks."""
    if not folder.exists():
        with contextlib.suppress(FileExistsError):
            partial.rename(folder)
            return
    for source in sorted(path for path in partial.rglob("*") if path.is_file()):
        target = folder / source.relative_to(partial)
        if not target.is_file() or target.stat().st_size == 0:
            target.parent.mkdir(exist_ok=True)
            source.replace(target)


def _write_set(spec: EmojiLVISSpec, folder: Path, workers: int, progress: bool) -> None:
    """Write all files of a set; spec.json, which makes it count as one, comes last."""
    glyphs = glyphs_of(spec)
    plans = [plan_split(spec, split) for split in spec.num_images]
    for split in spec.num_images:
        (folder / split).mkdir()
    jobs = [(plan.split, image) for plan in plans for image in plan.images]
    annotations: dict[str, list[dict]] = {split: [] for split in spec.num_images}
    with tqdm(
        total=len(jobs), desc=f"EmojiLVIS {spec.name}", unit="image", file=sys.stderr, disable=not progress
    ) as bar:
        for (split, _), found in zip(jobs, _draw_all(spec, glyphs, folder, jobs, workers), strict=True):
            annotations[split] += found
            bar.update()

    categories = category_records(glyphs, annotations["train"])
    for plan in plans:
        _check_counts(plan, annotations[plan.split])
        images = [image_record(spec, plan.split, image) for image in plan.images]
        numbered = [{"id": i + 1, **annotation} for i, annotation in enumerate(annotations[plan.split])]
        content = {**dataset_header(spec, plan.split), "images": images, "annotations": numbered}
        (folder / f"{plan.split}.json").write_bytes(orjson.dumps({**content, "categories": categories}))
    (folder / "ATTRIBUTION.txt").write_text(ATTRIBUTION, encoding="utf-8")
    (folder / "spec.json").write_bytes(orjson.dumps(_spec_record(spec), option=orjson.OPT_INDENT_2))


def _check_counts(plan: SplitPlan, annotations: Sequence[dict]) -> None:
    """Make sure that every class is annotated in as many images as planned."""
    presences = {(annotation["category_id"], annotation["image_id"]) for annotation in annotations}
    realised = np.bincount([category - 1 for category, _ in presences], minlength=len(plan.image_counts))
    if not np.array_equal(realised, plan.image_counts):
        raise RuntimeError(f"{plan.split}: realised image counts differ from the planned ones.")


def _draw_all(
    spec: EmojiLVISSpec,
    glyphs: Sequence[Glyph],
    folder: Path,
    jobs: Sequence[tuple[str, ImagePlan]],
    workers: int,
) -> Iterator[list[dict]]:
    """Draw and save all images; yields each image's annotations in the order of `jobs`."""
    if workers == 1:
        painter = _Painter(spec, glyphs, folder)
        yield from map(painter.draw, jobs)
        return
    # Forking starts at once; elsewhere than on Linux system libraries do not survive it.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with context.Pool(workers, initializer=_start_worker, initargs=(spec, glyphs, folder)) as pool:
        yield from pool.imap(_draw_in_worker, jobs, chunksize=8)


class _Painter:
    """Draws images of one set and writes them to their folder."""

    def __init__(self, spec: EmojiLVISSpec, glyphs: Sequence[Glyph], folder: Path) -> None:
        self.spec = spec
        self.folder = folder
        self.sprites = {index: render_glyph(glyph.codepoint) for index, glyph in enumerate(glyphs)}

    def draw(self, job: tuple[str, ImagePlan]) -> list[dict]:
        """Write one image and return its annotations, still without ids."""
        split, plan = job
        rng = np.random.default_rng([self.spec.seed, 3, SPLITS.index(split), plan.index])
        image, objects = render_image(plan, self.sprites, self.spec, rng)
        record = image_record(self.spec, split, plan)
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        (self.folder / record["file_name"]).write_bytes(encoded.tobytes())
        annotations = []
        for category, bitmap in objects:
            segmentation, area, bbox = encode_mask(bitmap)
            shape = {"segmentation": segmentation, "area": area, "bbox": bbox}
            annotations.append({"image_id": record["id"], "category_id": category + 1, **shape})
        return annotations


_worker_painter: _Painter | None = None


def _start_worker(spec: EmojiLVISSpec, glyphs: Sequence[Glyph], folder: Path) -> None:
    global _worker_painter
    end_pool_worker_with_parent()
    cv2.setNumThreads(0)  # the processes already use all cores
    _worker_painter = _Painter(spec, glyphs, folder)


def _draw_in_worker(job: tuple[str, ImagePlan]) -> list[dict]:
    assert _worker_painter is not None  # _start_worker ran
    return _worker_painter.draw(job)
