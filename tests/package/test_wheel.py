"""The wheel, built as `python -m build` does, in an environment of its own and away from the clone."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import install_detectron2

TINY = [
    *("MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", "6", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16"),
    *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "50", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "20", "MODEL.ROI_BOX_HEAD.FC_DIM", "32"),
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", "50", "MODEL.RPN.POST_NMS_TOPK_TEST", "20", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1"),
    *("MODEL.LONG_TAIL.EQL.LAMBDA", "0.333", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"),
    *("DATASETS.TRAIN", "('away_train',)", "DATASETS.TEST", "('away_val',)", "DATASETS.CUSTOM_FILE", "sets.yaml"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "DATALOADER.NUM_WORKERS", "0"),
    *("OUTPUT_DIR", "run", "SEED", "0"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the source distribution of this clone."""
    folder = tmp_path_factory.mktemp("build")
    files = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True)
    if files.returncode:
        pytest.skip("needs the clone's git")
    new = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--others", "--exclude-standard"], capture_output=True, text=True
    )
    clone = folder / "clone"
    for name in filter(None, (files.stdout + new.stdout).split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, clone / name)
    build("sdist", clone, folder)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    build("wheel", next(folder.glob("eql_d2-*/")), folder)
    return next(folder.glob("*.whl"))


def build(what, source, folder):
    program = f"import setuptools.build_meta as b; b.build_{what}({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_the_wheel_holds_what_the_clone_has(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for pattern in ("configs/**/*.yaml", "configs/**/*.py"):
        for path in ROOT.glob(pattern):
            assert f"eql_d2/{path.relative_to(ROOT)}" in names
    assert "eql_d2/tools/train_net.py" in names and "eql_d2/tools/set_up.py" not in names
    assert "eql_d2/long_tail/lvis_v1_train_category_counts.json" in names
    packages = {str(path.relative_to(ROOT)) for path in (ROOT / "eql_d2").rglob("*.py")}
    assert packages <= names
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)


@pytest.fixture(scope="module")
def away(wheel, tmp_path_factory, tiny_set):
    """A folder with an environment in which the wheel is installed, and two data sets described in a file."""
    folder = tmp_path_factory.mktemp("away")
    try:
        uv = install_detectron2.find_uv()
    except install_detectron2.UserError as error:
        pytest.skip(str(error))
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, folder / "venv"],
        [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", folder / "venv/bin/python", wheel],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    # Detectron2's wheel and the locked packages, as they are installed here; not this clone, which is an editable
    # install: its own .pth file is not read from there.
    (site,) = folder.glob("venv/lib/python3*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    records = [
        f"- {{name: away_{split}, annotations: {tiny_set}/{split}.json, images: {tiny_set}}}"
        for split in ("train", "val")
    ]
    (folder / "sets.yaml").write_text("\n".join(records))
    return folder


def eql_d2(away, *arguments):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "EQL_D2_CONFIGS")}
    command = [away / "venv" / "bin" / "eql-d2", *arguments]
    done = subprocess.run(command, cwd=away, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_it_trains_evaluates_and_predicts_away_from_the_clone(away, tiny_set):
    # In two processes, which load the tool anew.
    eql_d2(away, "train", "--num-gpus", "2", "--config-file", "EmojiLVIS/demo_eql.yaml", *TINY)
    run = away / "run"
    entry = json.loads((run / "ledger.json").read_text())
    assert entry["config_file"] == "EmojiLVIS/demo_eql.yaml"
    results = run / "inference" / "away_val" / "lvis_instances_results.json"
    printed = eql_d2(away, "evaluate", "--annotations", tiny_set / "val.json", "--results", results)
    assert "APr" in printed
    picture = next(path for path in Path(tiny_set).rglob("*") if path.suffix in (".png", ".jpg"))
    eql_d2(away, "predict", picture, "--weights", run / "model_final.pth", "--output", "pictures")
    assert (away / "pictures" / "results.json").exists()
    assert "eql_t2" in eql_d2(away, "reproduce", "list")
    assert "site-packages/eql_d2/tools/train_net.py" in eql_d2(away, "reproduce", "run", "eql_t2/r014", "--dry-run")
