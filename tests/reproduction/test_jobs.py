"""Job scripts: valid shell, one index a run, and the command that index stands for."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from eql_d2.errors import UserError
from tests.conftest import ROOT

TRAIN_NET = str(ROOT / "tools" / "train_net.py")
SETUP = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH PYTHONPATH={shlex.quote(str(ROOT))}"


def write(reproduce, *more):
    reproduce(["jobs", "mini", "--gpus-per-node", "2", "--folder", "jobs", "--setup", SETUP, "--output", "out", *more])


def shell(script, *arguments, **environment):
    command = ["bash", script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_slurm_arrays(mini_root, reproduce, capsys):
    write(reproduce, "--scheduler", "slurm", "--sbatch=--partition=gpu", "--time", "3:00:00")
    assert set(os.listdir("jobs")) == {"stage_1.sbatch", "stage_2.sbatch", "submit.sh"}
    for name in os.listdir("jobs"):
        subprocess.run(["bash", "-n", f"jobs/{name}"], check=True)
    first, second = Path("jobs/stage_1.sbatch").read_text(), Path("jobs/stage_2.sbatch").read_text()
    assert "#SBATCH --array=0-5\n" in first and "#SBATCH --array=0-3\n" in second
    for line in ("--nodes=1", "--ntasks-per-node=2", "--partition=gpu", "--time=3:00:00"):
        assert f"#SBATCH {line}\n" in first
    # What is not known to sbatch must stand after its options.
    assert not any(line.startswith("#SBATCH") for line in first.split("\nset -euo")[1].splitlines())
    command = shlex.split(shell("jobs/stage_2.sbatch", "--dry-run", SLURM_ARRAY_TASK_ID="1"))
    assert command[:4] == ["python", TRAIN_NET, "--config-file", "configs/tiny.yaml"]
    assert command[command.index("OUTPUT_DIR") + 1 :] == ["out/mini/bags/seed_1", "SEED", "1"]
    assert command[command.index("MODEL.WEIGHTS") + 1] == "out/mini/softmax/seed_1/model_final.pth"


def test_submitting_passes_the_first_array_on_to_the_second(mini_root, reproduce):
    write(reproduce, "--scheduler", "slurm")
    (mini_root / "bin").mkdir()
    sbatch = mini_root / "bin" / "sbatch"
    sbatch.write_text('#!/bin/bash\necho "$@" >> sbatch.log\necho 4711\n')
    sbatch.chmod(0o755)
    shell("jobs/submit.sh", PATH=f"{mini_root / 'bin'}:{os.environ['PATH']}")
    assert Path("sbatch.log").read_text().splitlines() == [
        "--parsable jobs/stage_1.sbatch",
        "--parsable --dependency=afterok:4711 jobs/stage_2.sbatch",
    ]


def test_torchrun_script(mini_root, reproduce):
    rows = ["jobs", "mini/eql", "--seeds", "3", "--gpus-per-node", "2", "--folder", "jobs", "--output", "out"]
    (mini_root / "bin").mkdir()
    for name, line in (("torchrun", 'echo "$@" >> torchrun.log'), ("python", f'exec {sys.executable} "$@"')):
        (mini_root / "bin" / name).write_text(f"#!/bin/bash\n{line}\n")
        (mini_root / "bin" / name).chmod(0o755)
    reproduce([*rows, "--scheduler", "torchrun", "--setup", f"export PATH={mini_root / 'bin'}:$PATH"])
    subprocess.run(["bash", "-n", "jobs/torchrun.sh"], check=True)
    shell("jobs/torchrun.sh", NODE_RANK="1", MASTER_ADDR="host7")
    (line,) = Path("torchrun.log").read_text().splitlines()
    place = "--nnodes=1 --nproc-per-node=2 --node-rank=1 --master-addr=host7 --master-port=29500"
    assert line.startswith(f"{place} {TRAIN_NET} --config-file configs/tiny.yaml ")
    assert line.endswith("OUTPUT_DIR out/mini/eql/seed_3 SEED 3")


def test_a_batch_that_cannot_be_shared_is_refused(mini_root, reproduce):
    with pytest.raises(UserError, match="mini/eql/seed_0 has 2 images a step, which 2 x 2 processes cannot share"):
        write(reproduce, "--scheduler", "slurm", "--nodes", "2")
    assert not Path("jobs").exists()
