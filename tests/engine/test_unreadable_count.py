"""Training over broken images: it ends, tells how many there were, and resumes exactly."""

import json
import shutil

import pytest
import torch
from detectron2.utils import comm

from eql_d2.data.registration import register_custom_datasets, set_class_metadata
from eql_d2.errors import UserError
from tests.conftest import narrow
from tests.engine.test_resume import Stopped, train


@pytest.fixture
def damaged_cfg(tiny_set, tiny_cfg, tmp_path):
    """Every fourth image of the training set is no picture, or missing."""
    folder = shutil.copytree(tiny_set, tmp_path / "damaged")
    for index, path in enumerate(sorted((folder / "train").iterdir())[::4]):
        if index % 2:
            path.write_bytes(path.read_bytes()[:500])
        else:
            path.unlink()
    tiny_cfg.DATASETS.CUSTOM = [{"name": "damaged", "annotations": str(folder / "train.json"), "images": str(folder)}]
    tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TEST = ("damaged",), ()
    narrow(tiny_cfg)
    prepare(tiny_cfg)
    return tiny_cfg


def prepare(cfg):
    register_custom_datasets(cfg)
    set_class_metadata("damaged")


def last_metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    return {key: value for line in lines for key, value in line.items()}


def test_stopped_and_resumed_over_broken_images(damaged_cfg, tmp_path):
    damaged_cfg.SOLVER.MAX_ITER, damaged_cfg.SOLVER.CHECKPOINT_PERIOD = 16, 8
    straight = train(damaged_cfg)
    count = len(straight.data_loader.unreadable)
    assert count > 3
    assert last_metrics(tmp_path / "run")["data/unreadable_images"] == count
    damaged_cfg.OUTPUT_DIR = str(tmp_path / "stopped")
    with pytest.raises(Stopped):
        train(damaged_cfg, stop_before=11)
    damaged_cfg.DATALOADER.NUM_WORKERS = 2
    resumed = train(damaged_cfg, resume=True)
    assert resumed.start_iter == 8
    assert set(resumed.data_loader.unreadable.sentences) == set(straight.data_loader.unreadable.sentences)
    for (name, value), other in zip(
        straight.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name


def test_what_was_met_before_the_stop_counts(damaged_cfg, tmp_path):
    damaged_cfg.SOLVER.MAX_ITER = damaged_cfg.SOLVER.CHECKPOINT_PERIOD = 8
    met = len(train(damaged_cfg).data_loader.unreadable)
    assert met > 1
    damaged_cfg.SOLVER.MAX_ITER, damaged_cfg.DATALOADER.MAX_UNREADABLE_IMAGES = 60, met
    # A sample may meet two of them: the image, and what was to replace it.
    with pytest.raises(UserError, match=rf"^({met + 1}|{met + 2}) training images cannot be read"):
        train(damaged_cfg, resume=True)


def train_and_report(cfg, folder):
    """What one of several processes does."""
    torch.set_num_threads(1)
    prepare(cfg)
    trainer = train(cfg)
    (folder / f"{comm.get_rank()}.json").write_text(json.dumps(sorted(trainer.data_loader.unreadable.sentences)))


def test_two_processes_count_together(damaged_cfg, tmp_path, two_processes):
    damaged_cfg.SOLVER.MAX_ITER, damaged_cfg.SOLVER.CHECKPOINT_PERIOD = 10, 100
    two_processes(train_and_report, damaged_cfg, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert last_metrics(tmp_path / "run")["data/unreadable_images"] == len(first)
    # Both met some: one process alone, on half of each batch, meets fewer.
    damaged_cfg.OUTPUT_DIR = str(tmp_path / "alone")
    damaged_cfg.SOLVER.IMS_PER_BATCH = 1
    assert 0 < len(train(damaged_cfg).data_loader.unreadable) < len(first)
