"""What a run shows on the terminal, and what stays in its log file."""

import argparse
import json
import logging
from pathlib import Path

import pytest

from eql_d2.engine.command_line import start_options_of_config
from eql_d2.engine.config_files import load_config_and_names
from eql_d2.engine.method_in_use import unused_keys
from eql_d2.engine.start_summary import start_summary
from eql_d2.engine.terminal import TerminalHandler, without_colour
from eql_d2.errors import UserError
from eql_d2.evaluation.results_table import FOR_TERMINAL
from eql_d2.reproduction.config_list import list_configs
from tests.conftest import ROOT

TINY = str(ROOT / "tests" / "tiny.yaml")


@pytest.mark.parametrize(
    ("name", "level", "text", "extra", "shown"),
    [
        ("detectron2.engine.defaults", logging.INFO, "Model:\nconv", {}, False),
        ("detectron2.evaluation.testing", logging.INFO, "copypaste: 0.0000,nan", {}, False),
        ("detectron2.utils.events", logging.INFO, " eta: 0:00:10  iter: 3", {}, True),
        ("detectron2.evaluation.evaluator", logging.INFO, "Inference done 11/12.", {}, True),
        ("fvcore.common.checkpoint", logging.INFO, "Saving checkpoint", {}, False),
        ("fvcore.common.checkpoint", logging.WARNING, "\x1b[34mhead.weight\x1b[0m is lacking", {}, True),
        ("eql_d2.engine.setup", logging.INFO, "one line", {}, True),
        ("eql_d2.engine.setup", logging.INFO, "two\nlines", {}, False),
        ("eql_d2.engine.setup", logging.INFO, "two\nlines", FOR_TERMINAL, True),
        ("eql_d2.engine.setup", logging.DEBUG, "one line", {}, False),
    ],
)
def test_what_the_terminal_shows(capsys, name, level, text, extra, shown):
    logger = logging.Logger(name)
    logger.addHandler(TerminalHandler())
    logger.log(level, "%s", text, extra=extra)
    printed = capsys.readouterr().out
    assert (without_colour(text) in printed) == shown
    assert "\x1b" not in printed  # what is captured is no terminal
    assert ("WARNING: " in printed) == (shown and level == logging.WARNING)


@pytest.mark.parametrize("architecture", ["LongTailRetinaNet", "LongTailFCOS"])
def test_a_one_stage_detector_classifies_by_its_own_key(tiny_cfg, architecture):
    tiny_cfg.MODEL.META_ARCHITECTURE, tiny_cfg.MODEL.RETINANET.LOSS = architecture, "efl"
    tiny_cfg.MODEL.RETINANET.NUM_CLASSES = 6
    assert unused_keys(tiny_cfg, ["MODEL.RETINANET.LOSS", "MODEL.LONG_TAIL.EFL.SCALE"]) == []
    assert unused_keys(tiny_cfg, ["MODEL.ROI_BOX_HEAD.PREDICTOR"]) == [
        "MODEL.ROI_BOX_HEAD.PREDICTOR is set, but not used by MODEL.RETINANET.LOSS efl."
    ]
    first, second, *_ = start_summary(tiny_cfg, 1).splitlines()
    assert first.split() == ["model", f"{architecture},", "build_resnet_fpn_backbone,", "6", "classes"]
    assert "Equalized Focal Loss (MODEL.RETINANET.LOSS efl)" in second


def test_the_run_in_ten_lines(tiny_cfg):
    tiny_cfg.SEED = 3
    lines = start_summary(tiny_cfg, 2).splitlines()
    assert len(lines) <= 11
    found = {line.split()[0]: line for line in lines}
    assert "Equalization Loss (MODEL.ROI_BOX_HEAD.PREDICTOR EQLPredictor)" in found["method"]
    assert "LAMBDA 0.333" in start_summary(tiny_cfg, 2)
    records = json.loads(Path(tiny_cfg.DATASETS.CUSTOM[0]["annotations"]).read_text())
    assert f"{len(records['annotations']):,} instances" in found["train"]
    letters = [category["frequency"] for category in records["categories"]]
    assert f"6 classes: {letters.count('r')} rare, {letters.count('c')} common" in found["tail"]
    assert "4 iterations of 2 images" in found["schedule"]
    assert "cpu, 2 processes, seed 3" in found["machine"]
    assert "log.txt" in found["log"]


def test_keys_of_another_method_are_told():
    overrides = ["MODEL.LONG_TAIL.EQLV2.ALPHA", "2.0", "MODEL.LONG_TAIL.EQL.LAMBDA", "0.1", "SOLVER.MAX_ITER", "3"]
    cfg, named = load_config_and_names(TINY, [*overrides, "MODEL.RETINANET.LOSS", "efl"])
    assert unused_keys(cfg, named) == [
        "MODEL.LONG_TAIL.EQLV2.ALPHA is set, but not used by MODEL.ROI_BOX_HEAD.PREDICTOR EQLPredictor.",
        "MODEL.RETINANET.LOSS is set, but not used by MODEL.ROI_BOX_HEAD.PREDICTOR EQLPredictor.",
    ]
    cfg, named = load_config_and_names(TINY)
    cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = "SoftmaxPredictor"
    assert [sentence.split()[0] for sentence in unused_keys(cfg, named)] == ["MODEL.LONG_TAIL.EQL.LAMBDA"]


def test_no_config_of_this_project_names_a_key_in_vain():
    names = [entry.name for entry in list_configs(ROOT / "configs", ("EmojiLVIS/", "classification/", "eqlv2_1x/"))]
    assert len(names) > 30
    for name in names[::3]:
        assert unused_keys(*load_config_and_names(str(ROOT / "configs" / name))) == [], name


def test_processes_without_a_gpu_are_confirmed(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = "EmojiLVIS/demo_eql.yaml"

    def options(*overrides, number=8):
        return start_options_of_config(
            argparse.Namespace(config_file=config, num_gpus=number, num_machines=1, opts=list(overrides))
        )

    with pytest.raises(UserError, match=r"--num-gpus is 8, but PyTorch finds no GPU.*add MODEL.DEVICE cpu"):
        options()
    assert options("MODEL.DEVICE", "cpu")["device"] == "cpu"
    assert options(number=1)["device"] in ("cpu", "cuda")
    config = TINY  # which says MODEL.DEVICE cpu itself
    assert options()["device"] == "cpu"
