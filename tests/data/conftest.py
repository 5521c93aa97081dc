"""The EmojiLVIS set that the tests of its generator share, and who has registered LVIS."""

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import builtin

from eql_d2.data.emoji_lvis import EmojiLVISSpec, generate_emoji_lvis
from eql_d2.data.registration import datasets_root, register_lvis_datasets

SPEC = EmojiLVISSpec(12, 300, 40, 96, seed=3, name="small")


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Folder of the set that SPEC describes."""
    return generate_emoji_lvis(SPEC, tmp_path_factory.mktemp("emoji_lvis"), workers=1, progress=False)


def read_json(path: Path) -> dict:
    """Parsed JSON file."""
    return orjson.loads(path.read_bytes())


@pytest.fixture
def lvis_of_detectron2() -> Iterator[None]:
    """LVIS as Detectron2 registers it, before and after the test, whatever other tests have done."""
    _register_lvis_of_detectron2()
    yield
    _register_lvis_of_detectron2()


def _register_lvis_of_detectron2() -> None:
    for splits in builtin._PREDEFINED_SPLITS_LVIS.values():
        for name in splits:
            DatasetCatalog.pop(name, None)
            MetadataCatalog.pop(name, None)
    builtin.register_all_lvis(str(datasets_root()))


@pytest.fixture
def lvis_of_this_project(lvis_of_detectron2) -> None:
    """LVIS registered by this project, for one test."""
    register_lvis_datasets()
