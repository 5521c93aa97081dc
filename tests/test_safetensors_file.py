"""Weights in safetensors files: what is written comes back, damage is told, and the shipped ones fit the demo."""

import pytest
import torch
from detectron2.modeling import build_model
from safetensors.torch import save_file
from torch import nn

from eql_d2.engine.checkpoint import AtomicCheckpointer
from eql_d2.engine.config_files import load_config
from eql_d2.engine.description import read_description
from eql_d2.errors import UserError
from eql_d2.package_files import configs_folder
from eql_d2.safetensors_file import load_weights, read_about, save_weights

SHIPPED = configs_folder() / "EmojiLVIS" / "pretrained.safetensors"


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def loaded(path, model):
    return AtomicCheckpointer(model, "").load(str(path), checkpointables=[])


def test_what_is_written_comes_back(tmp_path, model):
    path = tmp_path / "weights.safetensors"
    half = {name: value.half() if value.dim() > 1 else value for name, value in model.state_dict().items()}
    save_weights(half, path, {"licence": "CC0"})
    assert read_about(path)["licence"] == "CC0" and read_description(str(path)) == {}
    assert all(
        torch.equal(value, half[name]) and value.dtype == half[name].dtype for name, value in load_weights(path).items()
    )
    other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    loaded(path, other)
    assert torch.equal(other[0].weight, half["0.weight"].float())


@pytest.mark.parametrize("place", [-3, 40], ids=["a tensor", "a text"])
def test_a_changed_byte_is_told_in_one_sentence(tmp_path, model, place):
    path = tmp_path / "weights.safetensors"
    save_weights(model.state_dict(), path, {"a": "text " * 20})
    content = bytearray(path.read_bytes())
    place = content.index(b"text ") if place > 0 else len(content) + place
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=f"^Weights {path} are damaged: their SHA-256 is not the one .*; take another copy.$"
    ):
        loaded(path, model)


def test_a_truncated_file_and_a_missing_one(tmp_path, model):
    path = tmp_path / "weights.safetensors"
    save_weights(model.state_dict(), path, {})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=f"^Weights {path} are truncated or no checkpoint"):
        loaded(path, model)
    with pytest.raises(UserError, match=r"none\.safetensors cannot be read"):
        loaded(tmp_path / "none.safetensors", model)


def test_files_of_other_programs_need_no_checksum(tmp_path, model):
    save_file(model.state_dict(), str(tmp_path / "plain.safetensors"))
    assert loaded(tmp_path / "plain.safetensors", model) is not None


def test_the_shipped_weights_are_the_demo_s_detector_without_its_classifier():
    assert SHIPPED.stat().st_size < 6e6 and read_about(SHIPPED)["licence"].startswith("CC BY-SA 4.0")
    cfg = load_config(str(configs_folder() / "EmojiLVIS" / "demo_bags.yaml"), ["MODEL.DEVICE", "cpu"])
    checkpointer = AtomicCheckpointer(build_model(cfg), "")
    checkpointer.load(cfg.MODEL.WEIGHTS, checkpointables=[])
    assert set(checkpointer.misfits) == {f"roi_heads.box_predictor.cls_score.{part}" for part in ("weight", "bias")}
