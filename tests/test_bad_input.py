"""A user's mistakes: each ends as one sentence that names it, and a run as one line with a non-zero exit."""

import re
import shutil
import subprocess
import sys
from argparse import Namespace

import orjson
import pytest
import torch

from eql_d2.data.registration import register_custom_datasets, set_class_metadata
from eql_d2.engine import LongTailTrainer, launch, load_config, setup
from eql_d2.errors import UserError
from tests.conftest import ROOT

TINY = str(ROOT / "tests" / "tiny.yaml")
LVIS = str(ROOT / "configs" / "LVISv1" / "official" / "mask_rcnn_R50_FPN" / "eql.yaml")


@pytest.fixture
def options(tiny_set, tmp_path):
    """Overrides that make the tiny config run: its datasets and an output folder."""
    custom = [
        {"name": f"tiny_{split}", "annotations": str(tiny_set / f"{split}.json"), "images": str(tiny_set)}
        for split in ("train", "val")
    ]
    return ["DATASETS.CUSTOM", str(custom), "OUTPUT_DIR", str(tmp_path / "run")]


def run(options, *, config_file=TINY, eval_only=False, resume=False):
    """What tools/train_net.py does in one process, up to the first step; fails with a UserError or not at all."""
    args = Namespace(config_file=config_file, opts=options, eval_only=eval_only, resume=resume)
    cfg = setup(args)
    if eval_only:
        LongTailTrainer.build_trained_model(cfg, resume)
    else:
        LongTailTrainer(cfg).resume_or_load(resume)


def refused(*args, **kwargs):
    """The sentence that a run ends with."""
    with pytest.raises(UserError) as error:
        run(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_options_are_good(options):
    run(options)


# --- config -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("MODEL.LONG_TAIL.EQL.LAMDA", "MODEL.LONG_TAIL.EQL.LAMBDA"),
        ("SOLVER.BASE_LRR", "SOLVER.BASE_LR"),
        ("MODEL.ROI_BOX_HEAD.PREDICTORS", "MODEL.ROI_BOX_HEAD.PREDICTOR"),
    ],
)
@pytest.mark.parametrize("place", ["file", "override"])
def test_misspelt_key(options, tmp_path, key, nearest, place):
    config_file = TINY
    if place == "file":
        parts = key.split(".")
        lines = ["  " * depth + f"{part}:" for depth, part in enumerate(parts)]
        (tmp_path / "my.yaml").write_text("\n".join([f"_BASE_: {TINY}", *lines]) + " 1\n")
        config_file = str(tmp_path / "my.yaml")
    else:
        options = [*options, key, "1"]
    sentence = refused(options, config_file=config_file)
    assert sentence == f"Config key {key} does not exist; did you mean {nearest}?"


def test_a_key_like_no_other(options):
    assert "Config key QQQ does not exist; see docs/config.md" in refused([*options, "QQQ", "1"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "my.yaml does not exist"),
        ("MODEL: [1,\nSOLVER: {", "my.yaml is not valid YAML"),
        ("_BASE_: nowhere.yaml", "nowhere.yaml does not exist"),
        ("just words", "cannot be read"),
        ("", "cannot be read"),
        ("- a\n- b", "cannot be read"),
        ("SOLVER:\n  MAX_ITER: many", "MAX_ITER"),
        ("SOLVER: 3", "SOLVER"),
    ],
)
def test_config_file_that_is_not_one(options, tmp_path, content, expected):
    if content is not None:
        (tmp_path / "my.yaml").write_text(content)
    assert expected in refused(options, config_file=str(tmp_path / "my.yaml"))


def test_a_folder_is_no_config_file(options, tmp_path):
    assert f"Config file {tmp_path} does not exist" in refused(options, config_file=str(tmp_path))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER"),
        (["SOLVER.MAX_ITER"], "odd length"),
        (["SOLVER.BASE_LR.X", "1"], "The config cannot be read"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "7"], "NUM_CLASSES is 7, but dataset tiny_train has 6 classes; set it to 6"),
        (["MODEL.ROI_BOX_HEAD.PREDICTOR", "EQL"], "PREDICTOR is 'EQL'; it must be one of "),
        (["MODEL.ROI_HEADS.NAME", "Heads"], "The model cannot be built: No object named 'Heads' found in 'ROI_HEADS'"),
        (["ENGINE.IMPORT", "('no_module',)"], "ENGINE.IMPORT names no_module, but No module named 'no_module'"),
        (["MODEL.LONG_TAIL.EQL.LAMBDA", "1.5"], "MODEL.LONG_TAIL.EQL: lambda_ is 1.5; it must lie"),
        (["MODEL.LONG_TAIL.EQL.THRESHOLD", "steep"], "threshold is 'steep'; it must be one of step"),
        (["MODEL.LONG_TAIL.CATEGORY_COUNTS", "none.json"], "none.json cannot be read"),
        (["SOLVER.AMP.ENABLED", "True"], "SOLVER.AMP.ENABLED is True, but mixed precision in float16 needs a GPU"),
        (["MODEL.WEIGHTS", "none.pth"], "Weights none.pth cannot be read"),
        (["MODEL.WEIGHTS", TINY], "are truncated or no checkpoint"),
        (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN is empty"),
        (
            ["DATASETS.TRAIN", "('tiny_trian',)"],
            "Dataset 'tiny_trian' is not registered; did you mean tiny_train",
        ),
        (["OUTPUT_DIR", f"{TINY}/run"], "tiny.yaml/run cannot be written (Not a directory); set another"),
    ],
)
def test_a_value_that_does_not_fit(options, overrides, expected):
    assert expected in refused(options + overrides)


def test_cuda_without_a_gpu(options):
    if torch.cuda.is_available():
        pytest.skip("needs a machine without GPU")
    assert "MODEL.DEVICE is cuda, but PyTorch finds no GPU" in refused([*options, "MODEL.DEVICE", "cuda"])


# --- data -------------------------------------------------------------------------------------------------


def test_lvis_that_is_not_there(tmp_path):
    options = ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "run")]
    sentence = refused(options, config_file=LVIS)
    assert "lvis/lvis_v1_train.json does not exist; put the dataset there or set DETECTRON2_DATASETS" in sentence
    assert not (tmp_path / "run").exists()


@pytest.fixture
def own_set(tiny_set, tmp_path, options):
    """A copy of the tiny set to damage; the options name it."""
    folder = shutil.copytree(tiny_set, tmp_path / "own")
    options[1] = options[1].replace(str(tiny_set), str(folder))
    return folder


def test_truncated_annotations(own_set, options):
    path = own_set / "val.json"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"Annotation file {path} is truncated" in refused(options)


def test_missing_test_images_are_noticed_before_training(own_set, options):
    options[1] = options[1].replace(f"'images': '{own_set}'}}]", "'images': 'nowhere'}]")
    told = refused(options)
    assert "Image folder nowhere does not exist; it is the images of dataset" in told and "in DATASETS.CUSTOM" in told


def test_a_defect_stops_a_run_before_it_begins_unless_ignored(own_set, options):
    path = own_set / "train.json"
    content = orjson.loads(path.read_bytes())
    content["annotations"][7]["bbox"] = [500, 500, 5, 5]
    path.write_bytes(orjson.dumps(content))
    (own_set / content["images"][3]["file_name"]).unlink()
    number, image = content["annotations"][7]["id"], content["annotations"][7]["image_id"]
    assert f"{path}: annotation {number} of image {image} has a box outside its image; " in refused(options)
    args = Namespace(config_file=TINY, opts=options, eval_only=False, resume=False, ignore=True)
    loader = LongTailTrainer(setup(args)).data_loader
    assert len(loader.dataset) < len({annotation["image_id"] for annotation in content["annotations"]})
    content["annotations"].pop(7)
    path.write_bytes(orjson.dumps(content))
    assert f"image {content['images'][3]['file_name']} is not in the image folder" in refused(options)


def test_datasets_of_different_classes(own_set, options):
    path = own_set / "val.json"
    path.write_text(path.read_text().replace('"name":"', '"name":"other_'))
    assert "Datasets tiny_train and tiny_val have different classes" in refused(options)


def test_a_train_set_without_annotations(own_set, options):
    path = own_set / "train.json"
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "annotations": []}))
    sentence = refused([*options, "MODEL.ROI_BOX_HEAD.PREDICTOR", "SoftmaxPredictor"])
    assert sentence == "DATASETS.TRAIN (tiny_train) has no annotated image."


# --- runs -------------------------------------------------------------------------------------------------


def test_resume_without_a_checkpoint(options, tmp_path):
    for eval_only in (False, True):
        assert f"--resume: {tmp_path / 'run'} has no checkpoint" in refused(options, resume=True, eval_only=eval_only)


def test_a_run_is_not_touched_by_a_second_start(options, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    (folder / "config.yaml").write_text("SEED: 5\n")
    assert f"{folder} holds a run already; continue it with --resume" in refused(options)
    assert (folder / "config.yaml").read_text() == "SEED: 5\n"


def test_evaluation_needs_weights(options):
    assert "--eval-only has nothing to evaluate: set MODEL.WEIGHTS" in refused(options, eval_only=True)
    assert "Weights none.pth cannot be read" in refused([*options, "MODEL.WEIGHTS", "none.pth"], eval_only=True)


def test_evaluation_keeps_the_seed_of_the_run(options, tiny_cfg, tmp_path):
    """--resume goes on with the seed of config.yaml, which an evaluation in the same folder writes anew."""
    weights = tmp_path / "weights.pth"
    torch.save({"model": LongTailTrainer.build_model(tiny_cfg).state_dict()}, weights)
    for seed in (None, "kept"):
        run([*options, "SEED", "-1", "MODEL.WEIGHTS", str(weights)], eval_only=True)
        text = (tmp_path / "run" / "config.yaml").read_text()
        if seed is None:
            first = text
    assert text == first
    assert load_config(str(tmp_path / "run" / "config.yaml")).SEED >= 0


def test_no_processes():
    with pytest.raises(UserError, match="--num-gpus is 0; it is the number of processes, at least 1"):
        launch(print, device="cpu", num_processes_per_machine=0)


# --- the tool itself --------------------------------------------------------------------------------------


def tool_refuses(*arguments):
    """The one line of the real tool's stderr; nothing shows a traceback, and the exit status says failure."""
    command = [sys.executable, "tools/train_net.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode in (1, 2), done
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_tool_with_a_misspelt_key():
    line = tool_refuses("--config-file", TINY, "SOLVER.BASE_LRR", "1")
    assert line == "error: Config key SOLVER.BASE_LRR does not exist; did you mean SOLVER.BASE_LR?\n"


def test_tool_meets_a_damaged_image(own_set, options):
    """In the middle of training, in a loader process; the other one of two processes waits for gradients."""
    for path in sorted((own_set / "train").iterdir())[::25]:
        path.write_bytes(b"not a picture")
    arguments = ["MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "200", "DATALOADER.NUM_WORKERS", "1"]
    arguments += ["DATALOADER.MAX_UNREADABLE_IMAGES", "0"]
    line = tool_refuses("--config-file", TINY, "--num-gpus", "2", *options, *arguments)
    assert f"error: Image {own_set}/train/" in line
    assert "cannot be read" in line


@pytest.mark.slow
def test_tool_meets_too_many_damaged_images(own_set, options, tmp_path):
    """Each of two processes meets fewer than the limit; they learn of each other's, and both stop."""
    for path in sorted((own_set / "train").iterdir())[::3]:
        path.write_bytes(b"not a picture")
    arguments = ["MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "200", "DATALOADER.MAX_UNREADABLE_IMAGES", "10"]
    line = tool_refuses("--config-file", TINY, "--num-gpus", "2", *options, *arguments)
    assert re.match(r"error: 1\d training images cannot be read, and DATALOADER.MAX_UNREADABLE_IMAGES is 10; the", line)


def refused_on_each(options, sentence):
    """What each of two processes does: the run ends with the sentence in both."""
    cfg = load_config(TINY, options)
    register_custom_datasets(cfg)
    for name in ("tiny_train", "tiny_val"):
        set_class_metadata(name)
    with pytest.raises(UserError, match=sentence):
        LongTailTrainer(cfg)


def test_two_processes_with_a_batch_that_cannot_be_shared(options, two_processes):
    sentence = r"^SOLVER.IMS_PER_BATCH is 3; it must be a multiple of the 2 processes.$"
    two_processes(refused_on_each, [*options, "SOLVER.IMS_PER_BATCH", "3"], sentence)


def test_a_gpu_without_enough_memory(options, monkeypatch):
    def step(self, *_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    trainer = LongTailTrainer(setup(Namespace(config_file=TINY, opts=options, eval_only=False, resume=False)))
    monkeypatch.setattr(type(trainer._trainer), "run_step", step)
    trainer.iter = 3
    with pytest.raises(UserError, match=r"not enough memory for iteration 3; lower SOLVER\.IMS_PER_BATCH"):
        trainer.run_step()
    monkeypatch.setattr(type(trainer.model), "inference", step)
    with pytest.raises(UserError, match=r"not enough memory for evaluation; set INPUT\.MIN_SIZE_TEST"):
        trainer.test(trainer.cfg, trainer.model)
