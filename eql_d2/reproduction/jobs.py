"""Job scripts: the runs of a plan as Slurm arrays, or as one torchrun script that every node executes."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eql_d2.engine.stopping import STOPPED_STATUS
from eql_d2.errors import UserError
from eql_d2.package_files import TOOLS, shown_path
from eql_d2.reproduction.planned_runs import PlannedRun

# Which command is to run is asked when the job starts: it may be done, or to be resumed, by then.
ASK = 'python {tool} command "${runs[$index]}" --output {output} --scale {scale} --launcher {launcher} "$@"'

SLURM = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={gpus}
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={cpus}
#SBATCH --time={time}
#SBATCH --output={logs}/%x_%a_%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
{extra}# {title}
# Two minutes before the time limit, and when another job takes its place, a run saves a checkpoint and ends with status
# 75; the job then waits in the queue again and goes on from there. With --dry-run it prints the command of
# SLURM_ARRAY_TASK_ID.
set -euo pipefail
cd {root}
{setup}
runs=(
{runs}
)
index=$SLURM_ARRAY_TASK_ID
command=$({ask})
if [ "${{1:-}}" = --dry-run ]; then
  echo "${{command:-${{runs[$index]}} is done}}"
elif [ -n "$command" ]; then
  status=0
  eval "srun $command" || status=$?
  if [ $status -eq {stopped} ]; then
    scontrol requeue "$SLURM_JOB_ID"
    sleep 60  # until Slurm ends this
  fi
  exit $status
fi
"""

TORCHRUN = """#!/bin/bash
# {title}
# Start this on each of the {nodes} machines, with NODE_RANK 0, 1, … and MASTER_ADDR, the name of the first:
#   NODE_RANK=0 MASTER_ADDR=HOST bash {script}
# The machines share the folder. With --dry-run it prints the commands.
set -euo pipefail
cd {root}
{setup}
runs=(
{runs}
)
for index in "${{!runs[@]}}"; do
  command=$({ask})
  if [ "${{1:-}}" = --dry-run ]; then
    echo "${{command:-${{runs[$index]}} is done}}"
  elif [ -n "$command" ]; then
    eval "torchrun --nnodes={nodes} --nproc-per-node={gpus} --node-rank=${{NODE_RANK:-0}}" \\
      "--master-addr=${{MASTER_ADDR:-127.0.0.1}} --master-port=${{MASTER_PORT:-29500}} $command"
  fi
done
"""


@dataclass(frozen=True)
class Cluster:
    """What the jobs may use.

    Attributes:
        nodes: machines of a run.
        gpus: of each machine.
        cpus: of each process.
        time: limit of a job, in Slurm's form.
        sbatch: more lines of options, such as "--partition=gpu".
        setup: shell line that makes ``python`` that of the project.
    """

    nodes: int = 1
    gpus: int = 8
    cpus: int = 5
    time: str = "24:00:00"
    sbatch: tuple[str, ...] = ()
    setup: str = "source .venv/bin/activate"


def write_jobs(
    runs: Sequence[PlannedRun], folder: Path, scheduler: str, cluster: Cluster, output: Path, scale: str, root: Path
) -> list[Path]:
    """Write the scripts of some runs.

    Args:
        runs: of a plan.
        folder: to write to; made if need be.
        scheduler: "slurm" or "torchrun".
        cluster: what the jobs may use.
        output: folder of all runs.
        scale: of the plan.
        root: folder of the repository on the cluster.

    Returns:
        The files: with Slurm an array of the runs that start from no other, one of those that start from them, and
        so on, and ``submit.sh``, which submits them in order; with torchrun one script.

    Raises:
        UserError: there is nothing to run, the batch cannot be shared out, or the folder cannot be written.
    """
    if not runs:
        raise UserError("There is nothing to run, so no job script was written.")
    for run in runs:
        batch = run.recipe.cfg.SOLVER.IMS_PER_BATCH
        if batch % (cluster.nodes * cluster.gpus):
            raise UserError(
                f"{run.name} has {batch} images a step, which {cluster.nodes} x {cluster.gpus} processes cannot share "
                "evenly; set --nodes and --gpus-per-node to a divisor."
            )
    files: dict[Path, str] = {}
    if scheduler == "torchrun":
        path = folder / "torchrun.sh"
        files[path] = _script(TORCHRUN, runs, "torchrun", cluster, output, scale, root, script=path, title=_title(runs))
    else:
        stages = [(f"stage_{n}", [run for run in runs if run.stage == n]) for n in sorted({run.stage for run in runs})]
        for stage, of_stage in stages:
            files[folder / f"{stage}.sbatch"] = _slurm(of_stage, stage, folder, cluster, output, scale, root)
        files[folder / "submit.sh"] = _submit([folder / f"{stage}.sbatch" for stage, _ in stages])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.write_text(text)
            path.chmod(0o755)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); set another folder.") from None
    return list(files)


def _title(runs: Sequence[PlannedRun]) -> str:
    return f"{len(runs)} runs of table {runs[0].name.split('/')[0]}"


def _script(
    form: str,
    runs: Sequence[PlannedRun],
    launcher: str,
    cluster: Cluster,
    output: Path,
    scale: str,
    root: Path,
    **more: Any,
) -> str:
    ask = ASK.replace("{tool}", shlex.quote(shown_path(TOOLS / "reproduce.py")))
    ask = ask.replace("{output}", shlex.quote(str(output))).replace("{scale}", scale).replace("{launcher}", launcher)
    return form.format(
        ask=ask,
        runs="\n".join(f"  {shlex.quote(run.name)}" for run in runs),
        nodes=cluster.nodes,
        gpus=cluster.gpus,
        setup=cluster.setup,
        stopped=STOPPED_STATUS,
        root=shlex.quote(str(root)),
        **more,
    )


def _slurm(
    runs: Sequence[PlannedRun], stage: str, folder: Path, cluster: Cluster, output: Path, scale: str, root: Path
) -> str:
    return _script(
        SLURM,
        runs,
        "srun",
        cluster,
        output,
        scale,
        root,
        name=f"{runs[0].name.split('/')[0]}_{stage}",
        last=len(runs) - 1,
        cpus=cluster.cpus,
        time=cluster.time,
        logs=folder,
        extra="".join(f"#SBATCH {line}\n" for line in cluster.sbatch),
        title=_title(runs),
    )


def _submit(scripts: Sequence[Path]) -> str:
    lines = ["#!/bin/bash", "# Submit all runs; those that start from others wait for them.", "set -euo pipefail"]
    for place, script in enumerate(scripts):
        after = '--dependency="afterok:$job" ' if place else ""
        lines += [f"job=$(sbatch --parsable {after}{shlex.quote(str(script))})", 'echo "Submitted job $job"']
    return "\n".join(lines) + "\n"
