"""Two real processes share one stream, from its start and resumed, and one of them reports it."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm

from eql_d2.data.category_counts import dataset_counts
from eql_d2.data.registration import register_custom_datasets
from eql_d2.data.training.loader import build_train_loader
from tests.conftest import make_tiny_cfg

SETTINGS = {
    "uniform": {"SAMPLER_TRAIN": "TrainingSampler"},
    "stochastic": {"SAMPLER_TRAIN": "RepeatFactorTrainingSampler"},
    "ceil": {"SAMPLER_TRAIN": "RepeatFactorTrainingSampler", "REPEAT_ROUNDING": "ceil"},
    "class-aware": {"SAMPLER_TRAIN": "ClassAwareTrainingSampler"},
    "square-root": {"SAMPLER_TRAIN": "ClassBalancedTrainingSampler", "CLASS_BALANCED_POWER": 0.5},
    "mixture": {"SAMPLER_TRAIN": "MixtureTrainingSampler"},
}
MIXTURE = [["RepeatFactorTrainingSampler", 1], ["ClassAwareTrainingSampler", 1], ["ClassBalancedTrainingSampler", 0.5]]
LENGTH, LATE = 300, 217  # iterations of two images; an epoch is 135


def batches(cfg, setting, start, folder):
    """Image ids of each batch from an iteration on, up to LENGTH, of this process."""
    cfg = cfg.clone()
    for key, value in {"REPEAT_THRESHOLD": 0.3, "SAMPLER_MIXTURE": MIXTURE, **SETTINGS[setting]}.items():
        cfg.DATALOADER[key] = value
    cfg.OUTPUT_DIR = str(folder / setting)
    loader = build_train_loader(cfg, seed=4, mapper=lambda record: record)
    loader.start_iteration = start
    return [[record["image_id"] for record in batch] for batch in itertools.islice(loader, LENGTH - start)]


def serve(cfg, folder):
    """Write what this process is served, from the start and from iteration LATE on."""
    torch.set_num_threads(1)
    register_custom_datasets(cfg)
    served = {setting: [batches(cfg, setting, start, folder) for start in (0, LATE)] for setting in SETTINGS}
    Path(folder / f"{comm.get_rank()}.json").write_text(json.dumps(served))


@pytest.fixture(scope="module")
def cfg(tiny_set, tmp_path_factory):
    return make_tiny_cfg(tiny_set, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def folder(cfg, tmp_path_factory, two_processes):
    """Of two processes and, in one/, of a single one."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "one").mkdir()
    two_processes(serve, cfg, folder)
    serve(cfg, folder / "one")
    return folder


@pytest.mark.parametrize("setting", SETTINGS)
def test_two_processes_share_the_stream_of_one(folder, setting):
    first, second = (json.loads((folder / f"{rank}.json").read_text())[setting][0] for rank in (0, 1))
    one = json.loads((folder / "one" / "0.json").read_text())[setting][0]
    assert [a + b for a, b in zip(first, second, strict=True)] == one
    assert first != second
    assert len({image for batch in one for image in batch}) > 100


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("process", ["0.json", "1.json", "one/0.json"])
def test_a_resumed_loader_goes_on_with_the_exact_next_image(folder, setting, process):
    straight, resumed = json.loads((folder / process).read_text())[setting]
    assert len(straight) == LENGTH
    assert resumed == straight[LATE:]


def test_every_image_is_served_once_an_epoch_whatever_the_processes(folder):
    served = [json.loads((folder / f"{rank}.json").read_text())["uniform"][0][:135] for rank in (0, 1)]
    images = [image for batch in itertools.chain(*served) for image in batch]
    assert len(images) == len(set(images)) == dataset_counts(("tiny_train",)).num_images


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_report_is_of_the_whole_stream(folder, setting):
    reports = [(folder / part / setting / "sampler_classes.csv").read_text() for part in ("", "one")]
    assert reports[0] == reports[1]
