"""Fixtures that many tests share: a tiny EmojiLVIS set, a tiny model, the shared data where it is there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

import eql_d2.modeling  # noqa: F401  (registers the ROI heads)
from eql_d2.data.emoji_lvis import EmojiLVISSpec, generate_emoji_lvis
from eql_d2.data.registration import register_custom_datasets, set_class_metadata
from eql_d2.engine import LongTailTrainer, load_config
from tests.two_processes import TwoProcesses

settings.register_profile("no_deadline", deadline=None)  # on a busy machine any example can take long
settings.load_profile("no_deadline")

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of long tests first, so that no process of several ends long after the others."""
    long = (ROOT / "tests" / "engine", ROOT / "tests" / "test_bad_input.py", ROOT / "tests" / "classification")
    items.sort(key=lambda item: not any(item.path.is_relative_to(path) for path in long))


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors gain nothing from threads, and a busy machine loses much."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache_folder(tmp_path_factory) -> Iterator[Path]:
    """Folder of the annotation caches of all tests and the processes that they start."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQL_D2_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def two_processes() -> Iterator[TwoProcesses]:
    """Runs a function in two processes of one run: ``two_processes(function, *arguments)``."""
    processes = TwoProcesses()
    yield processes
    processes.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real photographs and annotations; they are not part of the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs ../shared/data (real photographs and LVIS annotations), which is not here")
    return SHARED_DATA


def make_tiny_set(folder: Path) -> Path:
    """An EmojiLVIS set of six classes below a folder; returns its own."""
    spec = EmojiLVISSpec(num_classes=6, num_train_images=300, num_val_images=12, image_size=64, name="tiny")
    return generate_emoji_lvis(spec, folder, workers=1, progress=False)


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory) -> Path:
    """The tiny set."""
    return make_tiny_set(tmp_path_factory.mktemp("emoji_lvis"))


def make_tiny_cfg(tiny_set: Path, output: Path):
    """Config of a small Mask R-CNN on the tiny set, registered as tiny_train and tiny_val; not frozen."""
    cfg = load_config(str(ROOT / "tests" / "tiny.yaml"), ["OUTPUT_DIR", str(output)])
    cfg.DATASETS.CUSTOM = [
        {"name": f"tiny_{split}", "annotations": str(tiny_set / f"{split}.json"), "images": str(tiny_set)}
        for split in ("train", "val")
    ]
    register_custom_datasets(cfg)
    for name in ("tiny_train", "tiny_val"):
        set_class_metadata(name)
    return cfg


def narrow(cfg) -> None:
    """Give a tiny config a backbone of few weights, for tests that only compare runs: writing weights takes longest."""
    cfg.MODEL.RESNETS.DEPTH = 50  # those below have fixed widths
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4


@pytest.fixture
def tiny_cfg(tiny_set, tmp_path):
    """The tiny config, with an output folder of this test."""
    return make_tiny_cfg(tiny_set, tmp_path / "run")


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_set, tmp_path_factory) -> Path:
    """A checkpoint of the tiny model before training."""
    torch.manual_seed(0)
    trainer = LongTailTrainer(make_tiny_cfg(tiny_set, tmp_path_factory.mktemp("tiny_run")))
    trainer.checkpointer.save("model_final", iteration=0)
    return Path(trainer.checkpointer.get_checkpoint_file())
