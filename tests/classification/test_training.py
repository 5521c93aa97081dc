"""Training: repeats, resumes to the bit, on two processes as on one; second stages; the tool; bad input."""

import csv
import dataclasses
import math
import re
import subprocess
import sys
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils import comm
from torch import nn

from eql_d2.classification.classifier_trainer import (
    CLASSIFICATION,
    ClassifierTrainer,
    reweighting_start,
)
from eql_d2.classification.datasets import load_image_set
from eql_d2.engine import setup
from eql_d2.engine.batch_norm import AverageBatchNorm
from eql_d2.engine.ledger.reading import read_entry
from eql_d2.errors import UserError
from tests.classification.conftest import DIGITS, ready
from tests.conftest import ROOT
from tests.engine.test_resume import Stopped, train_until

CONFIGS = ROOT / "configs" / "classification" / "digits_lt"


def train(cfg, *, resume=False, stop_before=None):
    """Train; raise Stopped before an iteration if asked."""
    trainer = ClassifierTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    train_until(trainer, stop_before)
    return trainer


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_run_repeats_with_its_seed(digits_cfg, tmp_path):
    digits_cfg.DATALOADER.SAMPLER_TRAIN = "ClassAwareTrainingSampler"
    runs = []
    for number, (seed, workers) in enumerate([(1, 0), (1, 2), (2, 0)]):  # the data does not depend on the workers
        digits_cfg.SEED, digits_cfg.DATALOADER.NUM_WORKERS = seed, workers
        digits_cfg.OUTPUT_DIR = str(tmp_path / str(number))
        trainer = train(digits_cfg)
        runs.append((weights(trainer), trainer._last_eval_results["classification"]))
    assert equal(runs[0][0], runs[1][0])
    assert repr(runs[0][1]) == repr(runs[1][1])
    assert not equal(runs[0][0], runs[2][0])


def test_the_ledger_knows_data_and_accuracy_of_classes(digits_cfg):
    results = train(digits_cfg)._last_eval_results["classification"]
    entry = read_entry(f"{digits_cfg.OUTPUT_DIR}/ledger.json")
    (accuracies,) = (entry["class_ap"][name]["classification"] for name in digits_cfg.DATASETS.TEST)
    assert sum(accuracies) / 10 == pytest.approx(results["mean_class"], abs=0.01)
    (train_name,), (test_name,) = digits_cfg.DATASETS.TRAIN, digits_cfg.DATASETS.TEST
    sets = {name: load_image_set(name) for name in (train_name, test_name)}
    assert entry["datasets"] == {name: {"digest": s.digest, "num_images": len(s)} for name, s in sets.items()}
    images = sets[train_name]
    relabelled = dataclasses.replace(images, labels=images.labels[::-1])
    redrawn = dataclasses.replace(images, images=255 - images.images)
    assert len({images.digest, relabelled.digest, redrawn.digest, sets[test_name].digest}) == 4
    files = dataclasses.replace(images, images=[f"a/b/{index}.png" for index in range(len(images))])
    moved = dataclasses.replace(images, images=[f"elsewhere/b/{index}.png" for index in range(len(images))])
    assert files.digest == moved.digest != images.digest


def test_the_borders_of_the_groups_are_those_of_the_config(digits_cfg):
    """Digits have 124 to 1 training images per class."""
    digits_cfg.SOLVER.MAX_ITER, digits_cfg.TEST.MANY_SHOT_ABOVE, digits_cfg.TEST.FEW_SHOT_BELOW = 1, 124, 1
    results = train(digits_cfg)._last_eval_results["classification"]
    assert math.isnan(results["many"])
    assert math.isnan(results["few"])
    assert results["medium"] == pytest.approx(results["mean_class"])


@pytest.mark.parametrize("loss", ["seql", "seesaw", "ldam"])
def test_stopped_and_resumed_equals_uninterrupted(digits_cfg, tmp_path, loss):
    digits_cfg.MODEL.CLASSIFIER.LOSS, digits_cfg.SOLVER.REWEIGHT_FROM = loss, 0.5
    if loss == "ldam":
        digits_cfg.MODEL.CLASSIFIER.LAYER, digits_cfg.MODEL.CLASSIFIER.TEMPERATURE = "normed", 1.0
    straight = train(digits_cfg)
    digits_cfg.OUTPUT_DIR = str(tmp_path / "stopped")
    with pytest.raises(Stopped):
        train(digits_cfg, stop_before=3)
    resumed = train(digits_cfg, resume=True)
    assert resumed.start_iter == 2
    assert equal(weights(straight), weights(resumed))
    momentum, resumed_momentum = (
        [state["momentum_buffer"] for state in trainer.optimizer.state.values()] for trainer in (straight, resumed)
    )
    assert all(torch.equal(a, b) for a, b in zip(momentum, resumed_momentum, strict=True))


@pytest.mark.parametrize(("share", "start"), [(0.0, 0), (0.5, 3), (0.8, 5), (1.0, 6)])
def test_deferred_reweighting_starts_in_time(digits_cfg, share, start):
    digits_cfg.MODEL.CLASSIFIER.LOSS, digits_cfg.SOLVER.REWEIGHT_FROM = "ldam", share
    digits_cfg.MODEL.CLASSIFIER.LAYER, digits_cfg.MODEL.CLASSIFIER.TEMPERATURE = "normed", 1.0
    trainer = ClassifierTrainer(digits_cfg)
    switched, run_step = [], trainer.run_step

    def watched_step():
        switched.append(bool(trainer.model.loss.reweighting))
        run_step()

    trainer.run_step = watched_step
    trainer.train()
    assert switched == [iteration >= start for iteration in range(6)]
    digits_cfg.SOLVER.REWEIGHT_FROM = 160
    with pytest.raises(UserError, match=r"SOLVER.REWEIGHT_FROM is 160; it must be a share"):
        reweighting_start(digits_cfg)


@pytest.fixture
def first_stage(digits_cfg):
    """Overrides for a second stage after a short first one, and the weights of that."""
    digits_cfg.DATASETS.TEST = ()
    trained = weights(train(digits_cfg))
    options = ["SOLVER.MAX_ITER", 4, "SOLVER.STEPS", (3,), "SOLVER.IMS_PER_BATCH", 8, "SEED", 1]
    return [*options, "MODEL.WEIGHTS", f"{digits_cfg.OUTPUT_DIR}/model_final.pth"], trained


@pytest.mark.parametrize(
    ("name", "changed"), [("crt", {"cls_score.weight", "cls_score.bias"}), ("lws", {"cls_score.scale"})]
)
def test_second_stages_change_the_classifier_alone(first_stage, tmp_path, name, changed):
    options, first = first_stage
    cfg = ready(str(CONFIGS / f"{name}.yaml"), [*options, "OUTPUT_DIR", str(tmp_path / name)])
    second = weights(train(cfg))
    assert {key for key, value in second.items() if key not in first or not torch.equal(value, first[key])} == changed


def train_here(config_file, options, path):
    """Train a second stage in one process of some, and all layers; each process saves the weights of both."""
    torch.set_num_threads(1)
    stages = []
    for config, folder in ((config_file, path), (DIGITS, f"{path}_all")):
        trained = weights(train(ready(config, [*options, "OUTPUT_DIR", str(folder)])))
        stages.append({name.removeprefix("module."): value for name, value in trained.items()})
    torch.save(stages, f"{path}_{comm.get_rank()}.pth")


@pytest.mark.slow
def test_two_processes(first_stage, tmp_path, two_processes):
    """Without augmentation, and with fixed statistics of batch normalization, a step is the same as on one."""
    options, first = first_stage
    config = str(CONFIGS / "crt.yaml")
    options = [*options, "INPUT.TRAIN_TRANSFORMS", [], "DATASETS.TEST", ()]
    train_here(config, options, tmp_path / "one")
    two_processes(train_here, config, options, tmp_path / "two")
    (one, _), (two, first_all), (_, second_all) = (
        torch.load(tmp_path / f"{name}.pth") for name in ("one_0", "two_0", "two_1")
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert (one["cls_score.weight"] - first["cls_score.weight"]).abs().max() > 0.01
    assert equal(first_all, second_all)  # statistics of batch normalization included
    assert not torch.equal(first_all["backbone.layers.1.running_mean"], first["backbone.layers.1.running_mean"])


def run_tool(*arguments):
    """Run the real tool on the short digits."""
    options = ["MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "60", "SOLVER.STEPS", "(40,)", "SEED", "1"]
    command = [sys.executable, "tools/train_classifier.py", "--config-file", DIGITS, *arguments, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_the_tool_on_two_processes_and_an_evaluation_on_one(tmp_path):
    assert run_tool("--num-gpus", "2", "OUTPUT_DIR", tmp_path / "run").returncode == 0
    evaluation = ["--eval-only", "MODEL.WEIGHTS", tmp_path / "run" / "model_final.pth", "OUTPUT_DIR", tmp_path / "eval"]
    assert run_tool(*evaluation).returncode == 0
    tables = []
    for folder in ("run", "eval"):
        with open(tmp_path / folder / "inference" / "digits_test" / "per_class_accuracy.csv", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert tables[0] == tables[1]
    assert [row["test_images"] for row in tables[0]] == ["50"] * 10
    assert [row["train_images"] for row in tables[0]] == ["124", "74", "44", "26", "16", "9", "5", "3", "2", "1"]
    accuracy = sum(int(row["correct"]) for row in tables[0]) / 500
    assert accuracy > 0.2  # chance is 0.1


@pytest.mark.slow
def test_the_tool_tells_a_mistake_in_one_line(tmp_path):
    result = run_tool("OUTPUT_DIR", tmp_path, "DATASETS.TRAIN", "('digits_lt500_train',)")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith("error: Dataset digits_lt500_train: an imbalance of 500 leaves")


# --- bad input --------------------------------------------------------------------------------------------


def refused(options, config_file=DIGITS):
    """The sentence that a run ends with before its first step."""
    with pytest.raises(UserError) as error:
        setup(Namespace(config_file=config_file, opts=options, eval_only=False, resume=False), CLASSIFICATION)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["DATASETS.TRAIN", ("digits_lt500_train",)], "Dataset digits_lt500_train: an imbalance of 500 leaves 3 of 10"),
        (
            ["MODEL.CLASSIFIER.NUM_CLASSES", 12],
            "MODEL.CLASSIFIER.NUM_CLASSES is 12, but dataset digits_lt100_train has",
        ),
        (["DATASETS.TEST", ("digit_test",)], "Dataset 'digit_test' is not known"),
        (["DATASETS.TRAIN", ()], "DATASETS.TRAIN is empty"),
        (["INPUT.TRAIN_TRANSFORMS", ["Mixup"]], "INPUT.TRAIN_TRANSFORMS has the unknown 'Mixup'"),
        (["TEST.AUG.ENABLED", True], "TEST.AUG.ENABLED is True, but test-time augmentation is for detectors"),
        (["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"], "train detectors with tools/train_net.py"),
        (["DATASETS.CUSTOM", [{"name": "own"}]], "DATASETS.CUSTOM has the entry .* it needs the keys images, name"),
        (["DATASETS.CUSTOM", [{"name": "own", "images": "x", "format": "lvis"}]], "it must be one of image_folder, im"),
        (["DATASETS.CUSTOM", [{"name": "own", "images": "x", "imbalance": "high"}]], "has imbalance 'high' and seed 0"),
    ],
)
def test_mistaken_configs(options, sentence, tmp_path):
    if options[0] == "DATASETS.TRAIN" and not options[1]:
        options = [*options, "MODEL.CLASSIFIER.NUM_CLASSES", 10, "MODEL.LONG_TAIL.PRIOR_PROB", 0.1]
    message = refused([*options, "OUTPUT_DIR", str(tmp_path / "run")])
    assert re.search(sentence, message), message


def test_a_detector_s_tool_sends_classifiers_elsewhere():
    with pytest.raises(UserError, match=r"ImageClassifier; train it with tools/train_classifier.py"):
        setup(Namespace(config_file=DIGITS, opts=[], eval_only=False, resume=False))


def test_an_image_folder_trains_and_is_evaluated(folder_options):
    trainer = train(ready(DIGITS, folder_options))
    assert trainer._last_eval_results["classification"]["top5"] == 100


def test_folders_with_other_classes(image_folder, folder_options):
    (image_folder / "val" / "bee").rename(image_folder / "val" / "wasp")
    message = refused(folder_options)
    assert message.startswith("Datasets own_train and own_val have different classes ('bee' and 'wasp' first)")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["truncated", "no picture"])
def test_a_corrupt_image_is_named(image_folder, folder_options, damage, workers):
    for path in (image_folder / "train").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:200] if damage == "truncated" else b"no picture")
    cfg = ready(DIGITS, [*folder_options, "DATALOADER.NUM_WORKERS", workers, "DATALOADER.MAX_UNREADABLE_IMAGES", 0])
    with pytest.raises(UserError, match=r"^Image .*images/train/(ant|bee)/\d.png cannot be read \(.*fetch it again\.$"):
        train(cfg)


def test_a_corrupt_image_is_skipped_in_training_and_stops_a_test(image_folder, folder_options):
    broken = image_folder / "train" / "bee" / "1.png"
    broken.write_bytes(b"no picture")
    trainer = train(ready(DIGITS, [*folder_options, "SOLVER.MAX_ITER", 6]))  # 24 turns of 9 images
    assert list(trainer.data_loader.unreadable.sentences) == [str(broken)]
    cfg = ready(DIGITS, [*folder_options, "DATASETS.TEST", ("own_train",)])
    with pytest.raises(UserError, match=r"^Image .*bee/1.png cannot be read"):
        ClassifierTrainer.test(cfg, trainer.model)


def test_images_too_small_for_a_crop(folder_options):
    cfg = ready(DIGITS, [*folder_options, "INPUT.TRAIN_TRANSFORMS", [{"RandomCrop": {"size": 64}}]])
    with pytest.raises(UserError, match=r"^INPUT.TRAIN_TRANSFORMS cannot be applied to image .* of 24x2\d pixels: Req"):
        train(cfg)


def test_statistics_are_averaged_where_layers_keep_them(digits_cfg, monkeypatch):
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False))
    model[0].running_mean.fill_(4.0)
    hook = AverageBatchNorm(digits_cfg)
    hook.trainer = SimpleNamespace(model=model, iter=9, max_iter=10)
    # A second process whose statistics are all 0: the sum stays as it is.
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    hook.after_step()
    assert model[0].running_mean.tolist() == [2.0, 2.0]
