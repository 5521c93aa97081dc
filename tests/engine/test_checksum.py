"""A checkpoint's checksum: PyTorch reads the file as before, and no damage goes unnoticed."""

import random

import pytest
import torch

from eql_d2.engine.checkpoint import AtomicCheckpointer
from eql_d2.engine.checksum import damage_of, is_sealed, seal
from eql_d2.errors import UserError


@pytest.fixture
def sealed(tmp_path):
    path = tmp_path / "model_0000001.pth"
    torch.save({"model": {"weight": torch.arange(1000.0)}, "iteration": 1}, path)
    seal(path)
    return path


def test_pytorch_reads_a_sealed_file(sealed):
    assert is_sealed(sealed) and damage_of(sealed) is None
    for options in ({}, {"mmap": True}):
        assert torch.load(sealed, weights_only=True, **options)["model"]["weight"][-1] == 999


def test_sealing_changes_nothing_but_the_end(tmp_path):
    path = tmp_path / "plain.pth"
    torch.save({"model": {"weight": torch.arange(1000.0)}, "iteration": 1}, path)
    plain = path.read_bytes()
    seal(path)
    assert path.read_bytes()[: len(plain) - 2] == plain[:-2] and path.stat().st_size == len(plain) + 71


def test_every_flipped_byte_is_found(sealed):
    good = sealed.read_bytes()
    rng = random.Random(0)
    for place in [0, 1, len(good) - 1, len(good) - 72, *(rng.randrange(len(good)) for _ in range(60))]:
        if 0 <= place - (len(good) - 71) < len(b"sha256:"):  # then the archive's own sums say that all is well
            continue
        broken = bytearray(good)
        broken[place] ^= 1 << rng.randrange(8)
        sealed.write_bytes(broken)
        assert damage_of(sealed), place


@pytest.mark.parametrize("length", [0, 1, 30, 2000, -72, -100])
def test_every_truncation_that_loses_content_is_found(sealed, length):
    good = sealed.read_bytes()
    sealed.write_bytes(good[:length])
    assert damage_of(sealed)


def test_a_file_without_checksum_is_judged_by_its_archive(tmp_path):
    path = tmp_path / "plain.pth"
    torch.save({"weight": torch.arange(1000.0)}, path)
    assert not is_sealed(path) and damage_of(path) is None
    content = bytearray(path.read_bytes())
    content[content.find(torch.arange(1000.0).numpy().tobytes()) + 77] ^= 4
    path.write_bytes(content)
    assert "is damaged" in damage_of(path)


def test_damage_is_told_when_weights_are_loaded(tmp_path):
    checkpointer = AtomicCheckpointer(torch.nn.Linear(20, 20), str(tmp_path))
    checkpointer.save("model_final", iteration=1)
    path = tmp_path / "model_final.pth"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model_final.pth are damaged: its bytes are not those that were written"):
        AtomicCheckpointer(torch.nn.Linear(20, 20), str(tmp_path / "new")).load(str(path))
