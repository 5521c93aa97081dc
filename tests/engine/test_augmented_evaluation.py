"""TEST.AUG.ENABLED in the two jobs of tools/train_net.py: what is evaluated, on what, and where it is written."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import orjson
import pytest
import torch

from eql_d2.engine import LongTailTrainer, setup
from eql_d2.errors import UserError
from tests.conftest import ROOT

RESULTS = "tiny_val/lvis_instances_results.json"


@pytest.fixture
def aug_cfg(tiny_cfg):
    tiny_cfg.TEST.AUG.ENABLED = True
    tiny_cfg.TEST.AUG.MIN_SIZES = (48, 64)
    return tiny_cfg


def test_training_ends_with_both_evaluations(aug_cfg):
    aug_cfg.SOLVER.MAX_ITER = 1
    trainer = LongTailTrainer(aug_cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    last = json.loads(Path(aug_cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()[-1])
    for task in ("bbox", "segm", "bbox_TTA", "segm_TTA"):
        assert last[f"{task}/AP"] >= 0
    plain, augmented = (Path(aug_cfg.OUTPUT_DIR, name, RESULTS) for name in ("inference", "inference_TTA"))
    assert plain.read_bytes() != augmented.read_bytes()
    assert trainer.model.training


def test_every_size_is_made_from_the_image_on_disk(aug_cfg):
    """INPUT.MIN_SIZE_TEST, which the evaluation without augmentation goes by, has no part in it."""
    torch.manual_seed(0)
    model = LongTailTrainer.build_model(aug_cfg).eval()
    saved = []
    for size in (64, 32):
        aug_cfg.INPUT.MIN_SIZE_TEST = size
        metrics = LongTailTrainer.test_with_TTA(aug_cfg, model)
        assert list(metrics) == ["bbox_TTA", "segm_TTA"]
        saved.append(orjson.loads(Path(aug_cfg.OUTPUT_DIR, "inference_TTA", RESULTS).read_bytes()))
    assert saved[0] == saved[1]
    assert len(saved[0]) > 100
    assert aug_cfg.INPUT.MIN_SIZE_TEST == 32
    assert not aug_cfg.is_frozen()


def test_a_config_that_cannot_be_augmented_is_refused_before_training(tiny_set):
    custom = [{"name": "tiny_train", "annotations": str(tiny_set / "train.json"), "images": str(tiny_set)}]
    options = ["DATASETS.CUSTOM", str(custom), "TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "()"]
    args = Namespace(config_file=str(ROOT / "tests" / "tiny.yaml"), opts=options, eval_only=False, resume=False)
    with pytest.raises(UserError, match=r"^TEST\.AUG\.MIN_SIZES is"):
        setup(args)


@pytest.mark.slow
def test_the_tool_in_two_processes(aug_cfg):
    """Trains and evaluates; evaluated again, the results are those of one process."""
    aug_cfg.SOLVER.MAX_ITER = 1
    folder = Path(aug_cfg.OUTPUT_DIR)
    config = folder.parent / "config.yaml"
    config.write_text(aug_cfg.dump())
    command = [sys.executable, ROOT / "tools" / "train_net.py", "--config-file", config, "--num-gpus", "2"]
    subprocess.run([*command, "OUTPUT_DIR", folder], cwd=ROOT, check=True, capture_output=True)
    assert "bbox_TTA/AP" in (folder / "metrics.json").read_text()
    aug_cfg.MODEL.WEIGHTS = str(folder / "model_final.pth")
    aug_cfg.OUTPUT_DIR = str(folder.with_name("two"))
    evaluation = [*command, "--eval-only", "OUTPUT_DIR", aug_cfg.OUTPUT_DIR, "MODEL.WEIGHTS", aug_cfg.MODEL.WEIGHTS]
    finished = subprocess.run(evaluation, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "Evaluating with test-time augmentation" in finished.stdout
    assert Path(aug_cfg.OUTPUT_DIR, "inference", RESULTS).exists()
    two = orjson.loads(Path(aug_cfg.OUTPUT_DIR, "inference_TTA", RESULTS).read_bytes())
    aug_cfg.OUTPUT_DIR = str(folder.with_name("one"))
    LongTailTrainer.test_with_TTA(aug_cfg, LongTailTrainer.build_trained_model(aug_cfg))
    one = orjson.loads(Path(aug_cfg.OUTPUT_DIR, "inference_TTA", RESULTS).read_bytes())
    assert sorted(two, key=str) == sorted(one, key=str)
    assert len(one) > 100
