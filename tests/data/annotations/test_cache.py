"""The cache of annotation files: the same records as the file, made once, whole or not at all, never stale."""

import itertools
import json
import logging
import os
import pickle
import random
import stat
import subprocess
import sys
import time

import orjson
import pytest

from eql_d2.data.annotations import cache as annotation_cache
from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.packing import PREAMBLE
from eql_d2.errors import UserError
from tests.conftest import ROOT

NUM_IMAGES = 9


def make_content(seed=0):
    """Records in no order, with keys of their own, texts that need escapes, and images without annotations."""
    rng = random.Random(seed)
    image_ids = rng.sample(range(1000), NUM_IMAGES)
    annotations = [
        {
            "note": 'a ", [{é\u2028',
            "id": number,
            "image_id": rng.choice(image_ids[2:]),
            "category_id": rng.choice([4, 9, 2]),
            "area": rng.random(),
            "bbox": [rng.random(), 1, 2.5e1, 3],
            "segmentation": [[rng.choice([rng.random(), 7]) for _ in range(2 * rng.randint(3, 9))]],
        }
        for number in rng.sample(range(1, 500), 40)
    ]
    images = [
        {
            "id": image_id,
            "file_name": f"ü {image_id}.jpg",
            "width": rng.randint(1, 99),
            "height": rng.randint(1, 99),
            "neg_category_ids": [9],
            "not_exhaustive_category_ids": [],
            "license": None,
        }
        for image_id in image_ids
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": i, "name": f"c{i}"} for i in (9, 2, 4)]}


def records_by_image(content):
    """(image, annotations) in ascending order of image ids."""
    return [
        (image, [a for a in content["annotations"] if a["image_id"] == image["id"]])
        for image in sorted(content["images"], key=lambda image: image["id"])
    ]


def all_records(annotations):
    return [annotations.records(index) for index in range(len(annotations))]


def write_json(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture
def path(tmp_path, monkeypatch):
    """An annotation file in a folder of its own, whose cache lies beside it."""
    monkeypatch.delenv("EQL_D2_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    (tmp_path / "set").mkdir()
    return write_json(tmp_path / "set" / "train.json", make_content())


@pytest.fixture
def cache(path):
    return path.with_name("train.json.cache")


@pytest.fixture
def fresh(monkeypatch):
    """Forgets what this process opened, as another process would open a file."""

    def open_anew(path):
        monkeypatch.setattr(annotation_cache, "_opened", {})
        return open_annotations(path)

    return open_anew


def test_records_are_those_of_the_file(path, cache, fresh):
    content = make_content()
    by_image = records_by_image(content)
    first, cached = fresh(path), fresh(path)
    for annotations in (first, cached):
        assert all_records(annotations) == by_image
        assert annotations.image_ids.tolist() == [image["id"] for image, _ in by_image]
        assert annotations.sizes.tolist() == [[image["width"], image["height"]] for image, _ in by_image]
        starts = itertools.accumulate((len(anns) for _, anns in by_image), initial=0)
        assert annotations.annotation_starts.tolist() == list(starts)
        classes = [{2: 0, 4: 1, 9: 2}[a["category_id"]] for _, anns in by_image for a in anns]
        assert annotations.categories.tolist() == classes
        assert [record["id"] for record in annotations.category_records] == [2, 4, 9]
        for image, anns in by_image:
            assert annotations.ground_truth(image["id"]) == (image, anns)
        for unknown in (-1, 10**6):
            with pytest.raises(KeyError):
                annotations.ground_truth(unknown)


def test_a_real_file(shared_data, fresh):
    path = shared_data / "lvis_v0.5_val_100.json"
    assert all_records(fresh(path)) == records_by_image(orjson.loads(path.read_bytes()))


def test_the_cache_is_made_once_and_is_as_private_as_the_file(path, cache, fresh):
    path.chmod(0o640)
    fresh(path)
    before = cache.stat()
    assert stat.S_IMODE(before.st_mode) == 0o640
    fresh(path)
    assert (cache.stat().st_ino, cache.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert sorted(p.name for p in path.parent.iterdir()) == ["train.json", "train.json.cache"]


def test_a_set_without_images(path, cache, fresh):
    write_json(path, {"images": [], "categories": []})
    assert len(fresh(path)) == 0
    made = cache.stat().st_ino
    assert fresh(path).category_records == []
    assert cache.stat().st_ino == made


def test_content_counts_not_its_date(path, fresh):
    """A change that leaves size and date as they were."""
    fresh(path)
    status, content = path.stat(), make_content()
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"name": "c9"', '"name": "d9"'), encoding="utf-8")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert [record["name"] for record in fresh(path).category_records] == ["c2", "c4", "d9"]
    path.write_text(text, encoding="utf-8")  # and back
    assert all_records(fresh(path)) == records_by_image(content)


def test_a_new_date_alone_changes_nothing(path, cache, fresh):
    fresh(path)
    made = cache.stat().st_mtime_ns
    os.utime(path, (5, 5))
    fresh(path)
    assert cache.stat().st_mtime_ns == made


def test_who_reads_keeps_the_old_annotations(path, caplog):
    old, new = make_content(), make_content(seed=1)
    running = open_annotations(path)
    assert open_annotations(path) is running
    write_json(path, new)
    with caplog.at_level(logging.WARNING):
        started_later = open_annotations(path)
    assert f"Annotation file {path} changed; what was read before goes on with the old" in caplog.text
    assert all_records(running) == records_by_image(old)
    assert all_records(started_later) == records_by_image(new)
    caplog.clear()
    open_annotations(path)
    assert not caplog.records
    write_json(path, old)
    open_annotations(path)
    assert "changed; what was read before" in caplog.text


@pytest.mark.parametrize("size", [0, 5, PREAMBLE.size, 0.2, 0.9, -1])
def test_a_truncated_cache_is_made_again(path, cache, fresh, size):
    fresh(path)
    whole = cache.read_bytes()
    cut = int(size * len(whole)) if isinstance(size, float) else size
    cache.write_bytes(whole[:cut])
    assert all_records(fresh(path)) == records_by_image(make_content())
    assert cache.read_bytes() == whole


def test_any_damaged_byte_is_noticed(path, cache, fresh):
    """A byte flipped in each part of the file, before it is opened: preamble, text, index."""
    fresh(path)
    whole = cache.read_bytes()
    expected = records_by_image(make_content())
    for place in [*range(PREAMBLE.size), *range(PREAMBLE.size, len(whole), 97), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 0x41
        cache.write_bytes(damaged)
        assert all_records(fresh(path)) == expected, place
        assert cache.read_bytes() == whole, place


@pytest.mark.parametrize("damage", [lambda data: data[:200], lambda data: data[:100] + b"\0" * (len(data) - 100)])
def test_a_cache_damaged_under_a_running_job_is_mended(path, cache, damage, caplog):
    running = open_annotations(path)
    whole = cache.read_bytes()
    cache.write_bytes(damage(whole))  # the same file that the job has open
    assert all_records(running) == records_by_image(make_content())
    assert f"Cache {cache} of annotation file {path} is damaged; making it again." in caplog.text
    assert cache.read_bytes() == whole


def test_what_cannot_be_mended_is_said(path, cache):
    running = open_annotations(path)
    cache.write_bytes(cache.read_bytes()[:200])
    write_json(path, make_content(seed=1))
    with pytest.raises(UserError, match=f"^Annotation file {path} changed while a job was using it; start the job"):
        all_records(running)
    cache.write_bytes(cache.read_bytes()[:200])
    path.unlink()
    with pytest.raises(UserError, match=f"^Annotation file {path} does not exist"):
        all_records(running)


def test_a_cache_that_is_damaged_again_is_not_blamed_on_the_annotation_file(path, cache, monkeypatch):
    running = open_annotations(path)
    monkeypatch.setattr(annotation_cache.PackedAnnotations, "_text", lambda self, index: None)
    with pytest.raises(UserError, match=f"^Cache {cache} of annotation file {path} is damaged again"):
        all_records(running)


def test_text_that_is_not_unicode_is_named(path, fresh):
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    annotations = fresh(path)
    image, _ = next(record for record in records_by_image(make_content()) if record[1])
    with pytest.raises(UserError, match=rf"Annotation file {path} is not in .*records of image {image['id']};"):
        annotations.ground_truth(image["id"])


# --- folders ----------------------------------------------------------------------------------------------


def test_a_folder_for_reading_only(path, cache, fresh, tmp_path):
    path.parent.chmod(0o555)
    try:
        for _ in range(2):
            assert all_records(fresh(path)) == records_by_image(make_content())
    finally:
        path.parent.chmod(0o755)
    assert not cache.exists()
    assert len(list((tmp_path / "user_cache" / "eql_d2").glob("train.json.*.cache"))) == 1


def test_files_of_one_name_share_the_users_folder(path, fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("EQL_D2_CACHE", str(tmp_path / "caches"))
    (tmp_path / "other").mkdir()
    other = write_json(tmp_path / "other" / "train.json", make_content(seed=1))
    for _ in range(2):
        assert all_records(fresh(path)) == records_by_image(make_content())
        assert all_records(fresh(other)) == records_by_image(make_content(seed=1))
    assert len(list((tmp_path / "caches").iterdir())) == 2
    assert [p.name for p in path.parent.iterdir()] == ["train.json"]


def test_no_folder_at_all(path, fresh, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EQL_D2_CACHE", str(tmp_path / "file"))
    annotations = fresh(path)
    assert all_records(annotations) == records_by_image(make_content())
    assert f"No cache of {path} ({tmp_path / 'file'}: " in caplog.text
    assert "set EQL_D2_CACHE" in caplog.text
    assert all_records(pickle.loads(pickle.dumps(annotations))) == records_by_image(make_content())


def test_a_full_disk(path):
    """A limit on the size of files stands for it; nothing unfinished stays."""
    program = (
        "import resource, sys\nfrom eql_d2.data.annotations.cache import open_annotations\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try:\n    open_annotations(sys.argv[1])\nexcept Exception as error:\n    print(type(error).__name__, error)"
    )
    said = run_program(program, path)
    assert said.startswith(f"UserError The cache of annotation file {path} is as large as the file, and ")
    assert "set EQL_D2_CACHE to a folder that does." in said
    assert [p.name for p in path.parent.iterdir()] == ["train.json"]


def test_what_killed_processes_left_is_removed(path, cache, fresh):
    abandoned, recent = (path.with_name(f".train.json.cache.{name}.partial") for name in ("old", "new"))
    for partial in (abandoned, recent):
        partial.write_bytes(b"half")
    os.utime(abandoned, (time.time() - 90_000,) * 2)
    fresh(path)
    assert not abandoned.exists()
    assert recent.exists()  # another machine may be writing it


# --- processes --------------------------------------------------------------------------------------------

RACE = """
import hashlib, logging, pathlib, sys, time
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
import fcntl
if sys.argv[2] == "no locks":
    def refuse(*_):
        raise OSError("no locks here")
    fcntl.flock = refuse
from eql_d2.data.annotations.cache import open_annotations
print("ready", flush=True)
sys.stdin.readline()
for _ in range(5):
    annotations = open_annotations(sys.argv[1])
    print([len(annotations.records(i)[1]) for i in range(len(annotations))], flush=True)
"""


def run_program(program, *arguments):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment(), check=True, capture_output=True, text=True).stdout


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("locks", ["locks", pytest.param("no locks", marks=pytest.mark.slow)])
def test_processes_that_start_at_once(path, cache, fresh, locks):
    content = make_content()
    content["annotations"] *= 500  # takes long enough for the others to come
    for number, annotation in enumerate(content["annotations"]):
        content["annotations"][number] = {**annotation, "id": 1 + number}
    write_json(path, content)
    command = [sys.executable, "-c", RACE, str(path), locks]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=ROOT, env=environment(), **pipes) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    expected = str([len(annotations) for _, annotations in records_by_image(content)])
    for output in outputs:
        assert output.count(expected) == 5
    if locks == "locks":
        assert sum(output.count("its cache is") for output in outputs) == 1
    assert sorted(p.name for p in path.parent.iterdir()) == ["train.json", "train.json.cache"]
    assert all_records(fresh(path)) == records_by_image(content)


def test_another_process_gets_the_place_not_the_annotations(path, cache, fresh):
    annotations = fresh(path)
    pickled = pickle.dumps(annotations)
    assert len(pickled) < 500
    (path.parent / "pickled").write_bytes(pickled)
    program = (
        "import pathlib, pickle, sys\nannotations = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "print([annotations.records(i) for i in range(len(annotations))] , annotations.source)"
    )
    assert run_program(program, path.parent / "pickled") == f"{all_records(annotations)} {path}\n"


def test_another_process_gets_the_same_annotations_or_none(path, cache, fresh, monkeypatch):
    pickled = pickle.dumps(fresh(path))
    cache.unlink()
    monkeypatch.setattr(annotation_cache, "_opened", {})
    assert all_records(pickle.loads(pickled)) == records_by_image(make_content())
    write_json(path, make_content(seed=1))
    assert all_records(pickle.loads(pickled)) == records_by_image(make_content())  # the cache is still the old one
    fresh(path)
    with pytest.raises(UserError, match=f"^Annotation file {path} changed while a job was using it; start the job"):
        pickle.loads(pickled)


def test_another_process_is_not_led_astray_by_a_cache_of_other_content(path, fresh):
    """The file has the pickled content again, and its cache another one."""
    pickled = pickle.dumps(fresh(path))
    other = path.with_name("other.json")
    write_json(other, make_content(seed=1)).replace(path)
    fresh(path)
    write_json(other, make_content()).replace(path)
    assert all_records(pickle.loads(pickled)) == records_by_image(make_content())
