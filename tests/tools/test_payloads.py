"""Hostile files given to the tools as a user would: nothing runs, and the tool ends with one sentence."""

import os
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.conftest import ROOT, make_tiny_cfg
from tests.payloads import PICKLES, YAMLS, write_torch_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
CLASSIFIER = str(ROOT / "configs/classification/digits_lt/softmax.yaml")
SECONDS = 120


def run_tool(folder, tool, *arguments):
    """Exit status and standard error of a tool, in a fork of this process, which has imported what it takes."""
    process = os.fork()
    if not process:
        status = 1
        try:
            os.chdir(folder)
            with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as err:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            sys.argv = [f"tools/{tool}.py", *map(str, arguments)]
            runpy.run_path(str(ROOT / "tools" / f"{tool}.py"), run_name="__main__")
            status = 0
        except SystemExit as end:  # as the interpreter does
            status = end.code if isinstance(end.code, int) else bool(end.code)
            print(end.code if isinstance(end.code, str) else "", file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(status)
    deadline = time.monotonic() + SECONDS
    while not (ended := os.waitpid(process, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.02)
    return os.waitstatus_to_exitcode(ended[1]), (folder / "stderr").read_text(errors="replace")


@pytest.fixture(scope="module")
def files(tiny_set, tmp_path_factory):
    """A folder with a config of the tiny model, a picture, and a folder of a run whose checkpoint is to be replaced."""
    folder = tmp_path_factory.mktemp("payloads")
    cfg = make_tiny_cfg(tiny_set, folder / "run")
    (folder / "tiny.yaml").write_text(cfg.dump())
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "picture.png")
    (folder / "run").mkdir()
    return folder


def resume_with(folder, weights):
    """Arguments that let a run go on from a checkpoint."""
    target = folder / "run" / "model_final.pth"
    target.write_bytes(weights.read_bytes())
    (folder / "run" / "last_checkpoint").write_text(target.name)
    return ("train_net", "--config-file", folder / "tiny.yaml", "--resume")


def tiny(folder, tool, *arguments):
    return (tool, "--config-file", folder / "tiny.yaml", *arguments)


WEIGHTS = {
    "train_net": lambda folder, file: tiny(
        folder, "train_net", "MODEL.WEIGHTS", file, "OUTPUT_DIR", folder / "new", "SOLVER.MAX_ITER", 1
    ),
    "train_net --eval-only": lambda folder, file: tiny(folder, "train_net", "--eval-only", "MODEL.WEIGHTS", file),
    "train_net --resume": resume_with,
    "train_classifier": lambda folder, file: (
        *("train_classifier", "--config-file", CLASSIFIER, "MODEL.WEIGHTS", file),
        *("MODEL.DEVICE", "cpu", "OUTPUT_DIR", folder / "new", "SOLVER.MAX_ITER", 1),
    ),
    "lazyconfig_train_net": lambda folder, file: (
        *("lazyconfig_train_net", "--config-file", "lazy/LVISv1/mask_rcnn_R50_FPN/eql.py", "--eval-only"),
        *(f"train.init_checkpoint={file}", "train.device=cpu", "dataloader.test.names=tiny_val"),
    ),
    "predict": lambda folder, file: (
        *("predict", folder / "picture.png", "--weights", file, "--output", folder / "found"),
        *("--config-file", folder / "tiny.yaml"),
    ),
    "export_model": lambda folder, file: tiny(
        folder, "export_model", "--weights", file, "--output", folder / "exported.pt"
    ),
    "convert_checkpoint": lambda folder, file: tiny(
        folder, "convert_checkpoint", "--source", "mmdet", "--weights", file, "--output", folder / "converted.pth"
    ),
}
CONFIGS = {
    "train_net": lambda folder, file: ("train_net", "--config-file", file),
    "train_classifier": lambda folder, file: ("train_classifier", "--config-file", file),
    "show_samples": lambda folder, file: ("show_samples", "--config-file", file, "--output", folder / "samples.png"),
    "predict": lambda folder, file: (
        *("predict", folder / "picture.png", "--weights", folder / "none.pth"),
        *("--output", folder / "found", "--config-file", file),
    ),
    "export_model": lambda folder, file: (
        *("export_model", "--weights", folder / "none.pth", "--output", folder / "x.pt", "--config-file", file),
    ),
    "convert_checkpoint": lambda folder, file: (
        *("convert_checkpoint", "--source", "mmdet", "--weights", folder / "none.pth"),
        *("--output", folder / "x.pth", "--config-file", file),
    ),
}


def check(folder, name, command):
    """Nothing ran, and the tool ended with a sentence."""
    status, errors = run_tool(folder, *command)
    ran = folder / "ran"
    was_run = ran.exists()
    ran.unlink(missing_ok=True)
    last = errors.strip().splitlines()[-1:] or [""]
    wrong = was_run or status != 1 or "Traceback" in errors or not last[0].startswith("error: ")
    return [f"{name}: {was_run=} {status=} {errors[-600:]}"] if wrong else []


@pytest.mark.parametrize("tool", WEIGHTS)
def test_weights(files, tool):
    """Each payload in one of three forms, which differs from tool to tool; the readers are tested with all."""
    wrong = []
    for number, (payload, make) in enumerate(PICKLES.items(), list(WEIGHTS).index(tool)):
        data, form = make(files / "ran"), ("pkl", "zip", "old")[number % 3]
        file = files / ("weights.pkl" if form == "pkl" else "weights.pth")
        if form == "pkl":
            file.write_bytes(data)
        else:
            write_torch_file(file, data, old_format=form == "old")
        wrong += check(files, f"{payload}, {form}", WEIGHTS[tool](files, file))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("tool", CONFIGS)
def test_configs(files, tool):
    wrong = []
    (files / "based.yaml").write_text("_BASE_: hostile.yaml\nSEED: 1\n")
    for number, (payload, make) in enumerate(YAMLS.items(), list(CONFIGS).index(tool)):
        (files / "hostile.yaml").write_text(make(files / "ran"))
        name = ("hostile.yaml", "based.yaml")[number % 2]
        wrong += check(files, f"{payload} in {name}", CONFIGS[tool](files, files / name))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("tool", ["predict", "export_model", "train_net --eval-only", "train_net"])
def test_configs_and_imports_inside_a_checkpoint(files, tiny_checkpoint, tool):
    content = torch.load(tiny_checkpoint, weights_only=True)
    kept = yaml.safe_load(content["config"])
    (files / "hostile.py").write_text(f"open({str(files / 'ran')!r}, 'w').close()\n")
    kept["ENGINE"]["IMPORT"] = ["hostile"]
    texts = {"ENGINE.IMPORT": yaml.safe_dump(kept), **{name: make(files / "ran") for name, make in YAMLS.items()}}
    file, wrong = files / "weights.pth", []
    for name, text in texts.items():
        torch.save({**content, "config": text}, file)
        command = [part for part in WEIGHTS[tool](files, file) if part not in ("--config-file", files / "tiny.yaml")]
        if tool.startswith("train_net"):  # which has a config of its own, and may take the weights
            command = WEIGHTS[tool](files, file)
            status, errors = run_tool(files, *command)
            wrong += [f"{name}: {status=} {errors[-600:]}"] if "Traceback" in errors or (files / "ran").exists() else []
            for path in Path(files / "new").glob("*"):
                path.unlink() if path.is_file() else None
        else:
            wrong += check(files, name, command)
        (files / "ran").unlink(missing_ok=True)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("payload", YAMLS)
def test_the_config_beside_a_run_that_goes_on(files, tiny_checkpoint, payload):
    """It is asked for the seed."""
    command = resume_with(files, tiny_checkpoint)
    (files / "run" / "config.yaml").write_text(YAMLS[payload](files / "ran"))
    assert not check(files, payload, (*command, "SEED", -1))
