"""The EmojiLVIS set that the tests of its generator share."""

from pathlib import Path

import orjson
import pytest

from eql_d2.data.emoji_lvis import EmojiLVISSpec, generate_emoji_lvis

SPEC = EmojiLVISSpec(12, 300, 40, 96, seed=3, name="small")


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Folder of the set that SPEC describes."""
    return generate_emoji_lvis(SPEC, tmp_path_factory.mktemp("emoji_lvis"), workers=1, progress=False)


def read_json(path: Path) -> dict:
    """Parsed JSON file."""
    return orjson.loads(path.read_bytes())
