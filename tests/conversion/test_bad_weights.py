"""Weights that cannot be converted: one sentence says which tensor, file or key, and the way out."""

import os
import pickle
import runpy

import pytest
import torch

from eql_d2.conversion import convert
from eql_d2.conversion.recorded_config import find_dict, read_recorded_config
from eql_d2.conversion.source_file import read_source_file
from eql_d2.engine.description import class_records
from eql_d2.errors import UserError
from tests.conftest import ROOT
from tests.conversion.synthetic import K, mmdet, write

CLASSIFIER = "roi_head.bbox_head.fc_cls.weight"


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def with_nan(tensors):
    tensors["rpn_head.rpn_cls.bias"][1] = torch.nan
    return tensors


SPOILED = {
    "lacks a tensor": (
        without("neck.fpn_convs.2.conv.bias"),
        r"source\.pth has no tensor for backbone\.fpn_output4\.bias, shape \(32,\)",
    ),
    "has one more of a strange layer": (
        lambda t: t | {"semantic_head.conv.weight": torch.zeros(3, 4)},
        r"semantic_head\.conv\.weight of .*source\.pth, shape \(3, 4\), is of no layer that --source mmdet can convert",
    ),
    "has one more of a known layer": (
        lambda t: t | {"roi_head.mask_head.convs.1.conv.weight": torch.zeros(8, 8, 3, 3)},
        r"convs\.1\.conv\.weight .* would be roi_heads\.mask_head\.mask_fcn2\.weight, which the config's model",
    ),
    "is of another number of classes": (
        lambda t: t | {CLASSIFIER: torch.zeros(81, 32)},
        r"fc_cls\.weight of .* has shape \(81, 32\), but the config's model has \(7, 32\) in roi_heads\.box_predictor",
    ),
    "is broken": (with_nan, r"rpn_cls\.bias of .* has values that are not finite"),
    "is of another source": (
        lambda t: {key.removeprefix("roi_head."): value for key, value in t.items()},
        r"no tensor named roi_head\.bbox_head\.…, as --source mmdet has; they look like those of --source bags",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_file_that(case, config, tmp_path):
    spoil, message = SPOILED[case]
    with pytest.raises(UserError, match=message):
        convert("mmdet", write(tmp_path, spoil(mmdet(K + 1))), config("Softmax"))


def recorded(loss="CrossEntropyLoss", **head):
    return {"config": f"model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(type={loss!r}), **{head!r})))"}


METAS = {
    "of another method with the same shapes": (
        "Softmax",
        recorded("EQLv2"),
        r"are of EQLv2, but .*PREDICTOR is SoftmaxPredictor; take a config of EQLv2Predictor",
    ),
    "of a normalized classifier": (
        "Softmax",
        recorded(cls_predictor_cfg={"type": "NormedLinear", "tempearture": 20}),
        r"are of a model with NormedLinear, but the config's is not; see its MODEL\.ROI_BOX_HEAD\.NORMED_CLASSIFIER",
    ),
    "of another order of classes": (
        "Softmax",
        {"CLASSES": lambda names: (names[1], names[0], *names[2:])},
        r"have class '.*' in place 0, but in the config's dataset it is in place 1",
    ),
    "of a method that the source does not have": ("DropLoss", {}, r"DropLossPredictor, which --source eqlv2 does not"),
}


@pytest.mark.parametrize("case", METAS)
def test_weights(case, config, tmp_path):
    predictor, meta, message = METAS[case]
    cfg = config(predictor)
    if "CLASSES" in meta:
        meta = {"CLASSES": meta["CLASSES"]([record["name"] for record in class_records(cfg)["categories"]])}
    with pytest.raises(UserError, match=message):
        convert("eqlv2", write(tmp_path, mmdet(K + 1), **meta), cfg)


def test_truncated_absent_and_empty_files(tmp_path):
    whole = write(tmp_path, mmdet(K + 1))
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(UserError, match=r"cut\.pth are truncated or no checkpoint"):
        read_source_file(cut)
    with pytest.raises(UserError, match=r"nowhere\.pth cannot be read \(No such file"):
        read_source_file(tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match="hold no tensors by name"):
        read_source_file(write(tmp_path, {}))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class History(list):
    """Something of a library that is not installed where the weights are converted."""


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_code_in_a_file_does_not_run(suffix, tmp_path):
    trap = tmp_path / "trap"
    content = {
        "meta": {"hook": Malicious(trap), "history": History([1, 2]), "CLASSES": ("a", "b")},
        "state_dict": {"module.layer1.weight": torch.ones(2, 3) if suffix == "pth" else torch.ones(2, 3).numpy()},
    }
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    file = read_source_file(path)
    assert not trap.exists()
    assert torch.equal(file.tensors["layer1.weight"], torch.ones(2, 3))
    assert file.classes == ("a", "b")


def test_weights_in_the_old_format_of_pytorch(tmp_path):
    path = tmp_path / "old.pth"
    content = {"state_dict": {"a": torch.arange(3.0)}, "meta": {"history": History()}}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert read_source_file(path).tensors["a"].tolist() == [0, 1, 2]


def test_recorded_config_is_read_and_not_run():
    text = (
        "/a/config.py\nnorm = dict(mean=[1, 2.5], to_rgb=True)\nx = f('y')\nz = [dict(type='N', **norm), {'k': norm}]"
    )
    values = read_recorded_config(text)
    assert values["x"] is None
    assert values["z"] == [{"type": "N", "mean": [1, 2.5], "to_rgb": True}, {"k": {"mean": [1, 2.5], "to_rgb": True}}]
    assert find_dict(values["z"], "to_rgb")["type"] == "N"
    assert find_dict(values, "absent") is None
    assert read_recorded_config("not ( python\nnor = this (") == {}


def run_tool(config, tmp_path, tensors, output, *opts):
    cfg = config("Softmax")
    yaml = tmp_path / "ours.yaml"
    yaml.write_text(cfg.dump())
    runpy.run_path(str(ROOT / "tools" / "convert_checkpoint.py"))["main"]([
        *("--source", "mmdet", "--weights", str(write(tmp_path, tensors)), "--config-file", str(yaml)),
        *("--output", str(output), *opts),
    ])  # fmt: skip


def test_the_tool_writes_and_reports(config, tmp_path, capsys):
    output = tmp_path / "new" / "converted.pth"
    run_tool(config, tmp_path, mmdet(K + 1), output)
    printed = capsys.readouterr().out
    assert output.is_file() and output.with_suffix(".yaml").is_file()
    # ResNet-18 has 20 convolutions and as many norms of 4 tensors; FPN, RPN and heads have 18 layers.
    assert "136 tensors converted." in printed
    assert "20 tensors of the file are not used (backbone.bn1.num_batches_tracked, …)" in printed
    assert "The weights need INPUT.FORMAT: RGB (the config had BGR)." in printed
    assert "Outputs equal those of the source's layout" in printed


def test_the_tool_leaves_nothing_after_a_mistake(config, tmp_path, capsys):
    output = tmp_path / "converted.pth"
    with pytest.raises(SystemExit, match=r"NUM_CLASSES|has shape|classes"):
        run_tool(config, tmp_path, mmdet(K + 2), output)
    assert not output.exists()
    with pytest.raises(SystemExit, match=r"converted\.bin must end with \.pth or \.pkl"):
        run_tool(config, tmp_path, mmdet(K + 1), tmp_path / "converted.bin")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="cannot be written"):
        run_tool(config, tmp_path, mmdet(K + 1), tmp_path / "file" / "converted.pth")
    assert capsys.readouterr().out == ""
