"""Images that cannot be read: skipped in training, up to a limit and the same way each time; named in evaluation."""

import itertools
import logging
import shutil
from functools import partial

import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from PIL import Image, ImageFile

from eql_d2.data.annotations.lvis_format import load_lvis_format
from eql_d2.data.training.loader import build_test_loader, build_train_loader
from eql_d2.data.training.training_samples import MappedImages, SeededDataset
from eql_d2.data.training.unreadable_images import NamingMapper, UnreadableImageError, UnreadableImages
from eql_d2.errors import UserError


def truncate(path):
    path.write_bytes(path.read_bytes()[:600])


def cut_the_end(path):
    path.write_bytes(path.read_bytes()[:-200])


def to_broken_png(path):
    """A PNG, whatever the name says, with nonsense where its pixels begin."""
    Image.new("RGB", (64, 64), "red").save(path, "PNG")
    content = path.read_bytes()
    place = content.index(b"IDAT")
    path.write_bytes(content[: place - 4] + b"\xff" * 40)


DAMAGES = {
    "missing": (lambda path: path.unlink(), "does not exist"),
    "text": (lambda path: path.write_bytes(b"not a picture"), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "truncated": (truncate, "cannot be read"),
    "without its end": (cut_the_end, "cannot be read"),
    "broken png": (to_broken_png, "cannot be read"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
    "other size": (lambda path: Image.new("RGB", (32, 48)).save(path), "is not 64x64 as annotated"),
}
by_damage = pytest.mark.parametrize("kind", DAMAGES)


@pytest.fixture(scope="module")
def records(tiny_set):
    """{split: dataset dicts} of the tiny set."""
    return {split: list(load_lvis_format(tiny_set / f"{split}.json", tiny_set)) for split in ("train", "val")}


@pytest.fixture
def folder(tiny_set, tiny_cfg, records, tmp_path):
    """A copy of the tiny set's images to damage; the config names it."""
    classes = MetadataCatalog.get("tiny_train").thing_classes
    folder = shutil.copytree(tiny_set, tmp_path / "broken")
    for split in records:
        moved = [{**r, "file_name": r["file_name"].replace(str(tiny_set), str(folder))} for r in records[split]]
        DatasetCatalog.register(f"broken_{split}", partial(list, moved))
        MetadataCatalog.get(f"broken_{split}").thing_classes = classes
    tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TEST = ("broken_train",), ("broken_val",)
    yield folder
    for split in records:
        DatasetCatalog.remove(f"broken_{split}")
        MetadataCatalog.remove(f"broken_{split}")


def train_images(folder):
    return sorted((folder / "train").iterdir())


def samples_of(cfg, count, start=0, seed=0):
    """Samples of the first batches, and the names of the unreadable images that were met."""
    loader = build_train_loader(cfg, seed)
    loader.start_iteration = start
    batches = list(itertools.islice(loader, count))
    return list(itertools.chain(*batches)), set(loader.unreadable.sentences)


@pytest.mark.parametrize("workers", [0, 2])
@by_damage
def test_without_a_limit_the_first_one_is_named(folder, tiny_cfg, kind, workers):
    damage, message = DAMAGES[kind]
    for path in train_images(folder):
        damage(path)
    tiny_cfg.DATALOADER.MAX_UNREADABLE_IMAGES = 0
    tiny_cfg.DATALOADER.NUM_WORKERS = workers
    with pytest.raises(UserError, match=rf"^Image .*broken/train/\w+\.jpg {message}[^\n]*$"):
        next(iter(build_train_loader(tiny_cfg, seed=0)))


@by_damage
def test_evaluation_stops(folder, tiny_cfg, kind):
    damage, message = DAMAGES[kind]
    for path in (folder / "val").iterdir():
        damage(path)
    tiny_cfg.DATALOADER.NUM_WORKERS = 1 if kind == "truncated" else 0
    with pytest.raises(UserError, match=rf"^Image .*broken/val/\w+\.jpg {message}[^\n]*$"):
        next(iter(build_test_loader(tiny_cfg, "broken_val")))


@pytest.fixture
def logged():
    """Messages of the log of unreadable images, whatever other tests have set up."""
    messages, handler = [], logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("eql_d2.data.training.unreadable_images")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@by_damage
def test_skipped_counted_and_logged_once(folder, tiny_cfg, kind, logged):
    images = train_images(folder)
    broken = {str(path) for path in images[::3]}
    for path in images[::3]:
        DAMAGES[kind][0](path)
    samples, met = samples_of(tiny_cfg, 70)
    assert met <= broken
    assert len(met) > 25
    assert not {sample["file_name"] for sample in samples} & broken
    assert not any("unreadable_images" in sample for sample in samples)
    assert len(logged) == len(met)
    assert logged[0].startswith("Skipped unreadable image 1: Image ")
    assert all(sum(name in message for message in logged) == 1 for name in met)


def test_all_but_the_broken_samples_are_as_without_them(folder, tiny_cfg):
    """Skipping one image changes nothing else, whatever the number of workers or where a run begins."""
    whole, _ = samples_of(tiny_cfg, 60)
    for path in train_images(folder)[::10]:
        truncate(path)
    straight, met = samples_of(tiny_cfg, 60)
    assert len(met) > 5
    replaced = [i for i, sample in enumerate(whole) if sample["file_name"] in met]
    assert [i for i in range(120) if whole[i]["image_id"] != straight[i]["image_id"]] == replaced
    for index in set(range(120)) - set(replaced):
        assert torch.equal(whole[index]["image"], straight[index]["image"])
    assert len({straight[i]["image_id"] for i in replaced}) > len(replaced) / 2  # not all by the same
    tiny_cfg.DATALOADER.NUM_WORKERS = 2
    late, late_met = samples_of(tiny_cfg, 30, start=30)
    assert late_met < met
    for expected, got in zip(straight[60:], late, strict=True):
        assert expected["image_id"] == got["image_id"]
        assert torch.equal(expected["image"], got["image"])
        assert torch.equal(expected["instances"].gt_boxes.tensor, got["instances"].gt_boxes.tensor)


@pytest.mark.parametrize("workers", [0, 2])
def test_more_than_the_limit(folder, tiny_cfg, workers):
    for path in train_images(folder)[::4]:
        path.write_bytes(b"")
    tiny_cfg.DATALOADER.MAX_UNREADABLE_IMAGES, tiny_cfg.DATALOADER.NUM_WORKERS = 7, workers
    loader, batches = build_train_loader(tiny_cfg, seed=0), 0
    sentence = (
        r"^8 training images cannot be read, and DATALOADER.MAX_UNREADABLE_IMAGES is 7; "
        r"the last: Image .*broken/train/\w+\.jpg cannot be read \(it is no picture\); fetch it again\.$"
    )
    with pytest.raises(UserError, match=sentence):
        for _ in loader:
            batches += 1
    assert batches > 3
    assert len(loader.unreadable) == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_a_set_of_nothing_else(folder, tiny_cfg, workers):
    """A wrong folder ends at once, also where the set is smaller than the limit."""
    shutil.rmtree(folder / "train")
    tiny_cfg.DATALOADER.NUM_WORKERS = workers
    with pytest.raises(UserError, match=r"^101 training images cannot be read.*does not exist; complete"):
        next(iter(build_train_loader(tiny_cfg, seed=0)))
    tiny_cfg.DATALOADER.MAX_UNREADABLE_IMAGES = 1000
    with pytest.raises(UserError, match=r"^No training image was found in place of \d{3} unreadable ones; the last: "):
        next(iter(build_train_loader(tiny_cfg, seed=0)))


def test_replacements_are_of_the_same_group(folder, tiny_cfg):
    """A batch of wide images gets a wide one."""
    mapper = DatasetMapper(tiny_cfg, augmentations=[])
    records = DatasetCatalog.get("broken_train")
    for path in train_images(folder)[:10]:
        truncate(path)
    images = MappedImages(records, mapper)
    groups = [i % 2 for i in range(len(records))]
    dataset = SeededDataset(images, images, groups=groups, seed=0, max_unreadable=100)
    ids = {record["image_id"]: index for index, record in enumerate(records)}
    broken = [i for i, r in enumerate(records) if r["file_name"] in set(map(str, train_images(folder)[:10]))]
    assert len(broken) == 10
    for ordinal, index in enumerate(broken * 3):
        replacement = ids[dataset[index, ordinal]["image_id"]]
        assert replacement not in broken
        assert groups[replacement] == groups[index]


def test_a_broken_image_to_paste_from_leaves_the_target(folder, tiny_cfg):
    tiny_cfg.INPUT.COPY_PASTE.ENABLED = True
    whole, _ = samples_of(tiny_cfg, 60)
    for path in train_images(folder)[::10]:
        truncate(path)
    samples, met = samples_of(tiny_cfg, 60)
    pairs = list(zip(whole, samples, strict=True))
    assert all(a["image_id"] == b["image_id"] for a, b in pairs if a["file_name"] not in met)
    repainted = [not torch.equal(a["image"], b["image"]) for a, b in pairs if a["file_name"] not in met]
    assert 3 < sum(repainted) < 40  # those onto which a broken image's instances were to be pasted


def test_errors_that_are_none_of_the_image_are_not_skipped(folder, tiny_cfg):
    """A mistake in a mapper must not pass for a broken image."""

    def faulty(record):
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        next(iter(build_train_loader(tiny_cfg, seed=0, mapper=faulty)))

    def out_of_memory(record):
        raise MemoryError

    for path in train_images(folder):
        truncate(path)
    with pytest.raises(MemoryError):
        next(iter(build_train_loader(tiny_cfg, seed=0, mapper=out_of_memory)))


def test_any_error_of_the_decoder_names_the_image(folder):
    """Pillow raises not only OSError, e.g. for a picture of absurd size."""
    path = train_images(folder)[0]
    Image.new("1", (20000, 20000)).save(path, "PNG")

    def mapper(record):
        return Image.open(record["file_name"])

    with pytest.raises(UnreadableImageError, match=r"has over \d+ pixels, .*; scale it down"):
        NamingMapper(mapper)({"file_name": str(path), "width": 64, "height": 64})


def test_pillow_reads_no_truncated_images():
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_the_count_goes_on_after_a_restart():
    unreadable = UnreadableImages(limit=2)
    unreadable.add({"a": "Image a", "b": "Image b"})
    later = UnreadableImages(limit=2)
    later.restore(unreadable.sentences)
    later.add({"b": "Image b"})
    with pytest.raises(UserError, match=r"^3 training images cannot be read.* the last: Image c$"):
        later.add({"c": "Image c"})
