"""What a kill may leave undone after the last iteration, and around evaluations, is done by the resumed run."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from eql_d2.engine import LongTailTrainer
from eql_d2.engine.kept_checkpoints import _Paths

TIMES = ("time", "data_time", "eta_seconds")


def train(cfg, resume=""):
    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def lines_of(folder):
    """metrics.json without times."""
    lines = [json.loads(line) for line in Path(folder, "metrics.json").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def weights_of(path):
    return torch.load(path, weights_only=True)["model"]


@pytest.fixture(scope="module")
def whole(tiny_set, tmp_path_factory):
    """Config of a finished run of four iterations, evaluated after the second, which is the best, and the last."""
    from tests.conftest import make_tiny_cfg

    torch.set_num_threads(1)
    cfg = make_tiny_cfg(tiny_set, tmp_path_factory.mktemp("finishing") / "whole")
    cfg.merge_from_list(["TEST.EVAL_PERIOD", 2, "SOLVER.BEST_METRIC", "bbox/APr", "SOLVER.EMA.ENABLED", True])
    cfg.MODEL.MASK_ON = False
    cfg.ENGINE.WATCH_PERIOD = 3
    train(cfg)
    return cfg


def killed(whole, tmp_path, last, gone):
    """The folder of the run as a kill leaves it: without the files that came later."""
    cfg = whole.clone()
    cfg.OUTPUT_DIR = str(tmp_path / "killed")
    shutil.copytree(whole.OUTPUT_DIR, cfg.OUTPUT_DIR)
    for name in (*gone, "ledger.json"):
        Path(cfg.OUTPUT_DIR, name).unlink()
    Path(cfg.OUTPUT_DIR, "last_checkpoint").write_text(last)
    return cfg


def assert_equal_to(whole, cfg):
    folder = Path(cfg.OUTPUT_DIR)
    assert lines_of(folder) == lines_of(whole.OUTPUT_DIR)
    names = {path.name for path in Path(whole.OUTPUT_DIR).glob("*.pth")}
    assert {path.name for path in folder.glob("*.pth")} == names
    for name in names:
        expected, other = weights_of(Path(whole.OUTPUT_DIR, name)), weights_of(folder / name)
        assert all(torch.equal(value, other[key]) for key, value in expected.items()), name
    entries = [json.loads(Path(path, "ledger.json").read_text()) for path in (whole.OUTPUT_DIR, folder)]
    assert entries[0]["metrics"] == entries[1]["metrics"] and entries[1]["iterations"] == 4


def test_a_run_killed_after_its_last_numbered_checkpoint_ends_as_one_that_was_not(whole, tmp_path):
    cfg = killed(whole, tmp_path, "model_0000003.pth", ("model_final.pth", "model_final_ema.pth"))
    assert train(cfg, "last").start_iter == 4
    assert_equal_to(whole, cfg)


def test_a_broken_final_checkpoint_of_a_resumed_run_is_written_anew(whole, tmp_path):
    cfg = killed(whole, tmp_path, "model_final.pth", ("model_final_ema.pth",))
    path = Path(cfg.OUTPUT_DIR, "model_final.pth")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    train(cfg, "last-good")
    assert_equal_to(whole, cfg)


def test_the_best_is_found_by_a_run_killed_in_its_evaluation(whole, tmp_path):
    gone = ("model_0000003.pth", "model_final.pth", "model_final_ema.pth", "model_best.pth")
    cfg = killed(whole, tmp_path, "model_0000001.pth", gone)
    lines = Path(cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines(keepends=True)
    assert '"iteration": 1}' in lines[0] and "bbox_EMA/AP" in lines[0]
    assert torch.load(Path(whole.OUTPUT_DIR, "model_best.pth"), weights_only=True)["iteration"] == 1
    Path(cfg.OUTPUT_DIR, "metrics.json").unlink()
    train(cfg, "last")
    assert_equal_to(whole, cfg)


def test_a_run_goes_on_from_the_best_without_forgetting_it(whole, tmp_path):
    later = ("model_0000003.pth", "model_final.pth", "model_final_ema.pth")
    cfg = killed(whole, tmp_path, "model_best.pth", later)
    train(cfg, "last")
    assert_equal_to(whole, cfg)


def test_a_run_goes_on_from_the_best_of_its_end(whole, tmp_path):
    cfg = killed(whole, tmp_path, "model_final.pth", ("model_best.pth",))
    cfg.SOLVER.BEST_METRIC = "bbox/AP"
    for _ in range(2):
        train(cfg, "last")
        assert Path(cfg.OUTPUT_DIR, "last_checkpoint").read_text() == "model_best.pth"
        assert lines_of(cfg.OUTPUT_DIR) == lines_of(whole.OUTPUT_DIR)


def test_a_checkpoint_that_is_written_again_counts_once():
    paths = _Paths(["a", "b"])
    paths.append("a")
    assert paths == ["b", "a"]
