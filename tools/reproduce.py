"""The papers' tables: list them, train their rows, compare with what was reported.

    python tools/reproduce.py list
    python tools/reproduce.py show eql_t2
    python tools/reproduce.py run eql_t2/r014 --seeds 0 1 2   # or --dry-run
    python tools/reproduce.py run emoji_benchmark     # minutes a run on a CPU
    python tools/reproduce.py run eql_t2 --scale emoji         # on EmojiLVIS
    python tools/reproduce.py run my_table.yaml       # a table of one's own
    python tools/reproduce.py run eql_t2/r014 \\
        --opts MODEL.LONG_TAIL.EQL.LAMBDA 0.001       # in a folder of its own
    python tools/reproduce.py jobs seesaw_t1 --scheduler slurm \\
        --nodes 2 --gpus-per-node 8 --folder jobs
    python tools/reproduce.py collect output/tables --table eql_t2
    python tools/reproduce.py collect output/tables \\
        --copy-to benchmarks/ledger                       # entries to be kept
    python tools/reproduce.py collect --ledger benchmarks/ledger

A run that is done is not repeated, also if it was that of an equal row; a
broken one goes on from its last checkpoint.
"""

import argparse
import json
import signal
import sys
from pathlib import Path

from tabulate import tabulate

import eql_d2.modeling  # noqa: F401  (registers the ROI heads)
from eql_d2.child_processes import STOP_SIGNALS
from eql_d2.engine.ledger.reading import read_ledger
from eql_d2.engine.stopping import STOPPED_STATUS
from eql_d2.errors import UserError
from eql_d2.reproduction.collect import collect, copy_entries, records, text_table
from eql_d2.reproduction.jobs import Cluster, write_jobs
from eql_d2.reproduction.local import carry_out, dry_run, shown, weights_of
from eql_d2.reproduction.planned_runs import DEFAULT_OUTPUT, SCALES, command_of, finished_runs, plan, state_of
from eql_d2.reproduction.recipes import FINAL_WEIGHTS, split_changes
from eql_d2.reproduction.tables import find_rows, find_table, table_names


def list_tables(args: argparse.Namespace) -> None:
    """Print the tables."""
    lines = []
    for name in table_names():
        table = find_table(name)
        trainable = sum(row.training is not None for row in table.rows)
        lines.append([name, f"{trainable} of {len(table.rows)}", table.title])
    print(tabulate(lines, headers=["table", "rows to train", "title"]))


def show(args: argparse.Namespace) -> None:
    """Print the rows of a table."""
    table, rows = find_rows(args.name)
    print(table.title)
    for row in rows:
        reported = ", ".join(f"{name} {value:g}" for name, value in row.reported.items()) or "nothing"
        print(f"\n{row.name}  {row.method}\n  {row.model}, {row.dataset}; {row.source}\n  reported: {reported}")
        if row.training is None:
            print(f"  not trained: {row.not_trained}")
        else:
            print("  config:", "configs/" + row.training.config, *row.training.overrides)
        before = row.training and row.training.first_stage
        while before:
            print("  after:", "configs/" + before.config, *before.overrides)
            before = before.first_stage
        if row.note:
            print(f"  note: {row.note}")
    for note in table.notes:
        print(f"\nNote: {note}" if note == table.notes[0] else f"Note: {note}")


def run(args: argparse.Namespace) -> None:
    """Train rows on this machine."""
    table, rows = find_rows(args.name)
    changes, of_machine = split_changes(args.opts)
    runs, left_out = plan(table, rows, args.seeds or table.seeds, args.output, args.scale, changes)
    for sentence in left_out:
        print(sentence, file=sys.stderr)
    if args.dry_run:
        print("\n".join(dry_run(runs, args.output, args.num_gpus, of_machine)))
        return
    failures = carry_out(runs, args.output, args.num_gpus, of_machine)
    if failures:
        raise UserError(f"{len(failures)} of {len(runs)} runs failed: {' '.join(failures)}")
    if not runs:
        raise UserError(f"{args.name} has no row to run.")


def jobs(args: argparse.Namespace) -> None:
    """Write job scripts."""
    if args.name.partition("/")[0] not in table_names():
        find_rows(args.name)  # says what is wrong with a name
        raise UserError(f"{args.name} is no table of configs/tables; job scripts need it there.")
    table, rows = find_rows(args.name)
    runs, left_out = plan(table, rows, args.seeds or table.seeds, args.output, args.scale)
    for sentence in left_out:
        print(sentence)
    cluster = Cluster(args.nodes, args.gpus_per_node, args.cpus_per_gpu, args.time, tuple(args.sbatch), args.setup)
    folder = args.folder or Path("jobs") / args.name.replace("/", "_")
    for path in write_jobs(runs, folder, args.scheduler, cluster, args.output, args.scale, Path.cwd()):
        print(path)


def command(args: argparse.Namespace) -> None:
    """Print the command that a run needs now; nothing if it is done. Job scripts ask this."""
    name, _, seed = args.name.rpartition("/seed_")
    table, rows = find_rows(name) if "/first_stage_" not in name else find_rows(name.partition("/")[0])
    if not seed.isdigit():
        raise UserError(f"{args.name} is not of the form TABLE/ROW/seed_N.")
    runs, left_out = plan(table, rows, [int(seed)], args.output, args.scale)
    wanted = [run for run in runs if run.name == args.name]
    if not wanted:
        raise UserError(" ".join(left_out) or f"There is no run {args.name} any more; write the job scripts again.")
    state, _ = state_of(wanted[0], finished_runs(args.output))
    if state == "done":
        return
    weights = None
    if wanted[0].before:
        try:
            weights = weights_of(wanted[0], args.output)
        except UserError as error:
            if not args.dry_run:
                raise
            weights = wanted[0].before.folder / FINAL_WEIGHTS
            print(error, file=sys.stderr)
    # Under srun and torchrun, processes and their number are there already.
    python = ("python",) if args.launcher == "srun" else ()
    print(shown(command_of(wanted[0], state, num_gpus=1, weights=weights, python=python)))


def collect_runs(args: argparse.Namespace) -> None:
    """Print reported and reproduced side by side."""
    folders = [*args.folders, *args.ledger]
    if not folders:
        raise UserError("collect needs the output folder of runs, or --ledger benchmarks/ledger.")
    ledger = read_ledger(folders)
    names = args.table or sorted({entry["name"].split("/")[0] for entry in ledger.entries.values()} & {*table_names()})
    told, left_out = {}, list(ledger.skipped)
    for name in names:
        table = find_table(name)
        results, of_table = collect(table, ledger, args.scale)
        if args.copy_to:
            copy_entries([entry for result in results for entry in result.entries], args.copy_to)
        left_out += of_table if args.table else [s for s in of_table if "cannot be trained" not in s]
        if args.format == "json":
            told[name] = records(results, args.scale == "paper")
            continue
        form = "github" if args.format == "markdown" else "simple"
        print(f"{table.title}\n\n{text_table(results, form, compare=args.scale == 'paper')}\n")
    if args.format == "json":
        print(json.dumps({"tables": told, "left_out": left_out}, indent=1))
    else:
        for sentence in dict.fromkeys(left_out):
            print(f"Left out: {sentence}")
    if not names:
        raise UserError(f"There is no finished run of a table in {', '.join(map(str, folders))}.")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("list", help="print the tables").set_defaults(do=list_tables)
    named = {}
    for name, do, text in (
        ("show", show, "print the rows of a table"),
        ("run", run, "train rows on this machine"),
        ("jobs", jobs, "write job scripts for a cluster"),
        ("command", command, "print the command that a run of a job script needs now"),
    ):
        named[name] = commands.add_parser(name, help=text)
        named[name].set_defaults(do=do)
        form = "TABLE or TABLE/ROW; TABLE may be a YAML file of one's own"
        named[name].add_argument("name", help=form if name != "command" else "TABLE/ROW/seed_N")
    for name in ("run", "jobs", "command"):
        named[name].add_argument("--scale", choices=SCALES, default="paper", help="emoji: the methods on EmojiLVIS")
        named[name].add_argument("--output", type=Path, help="folder of all runs (default: output/tables)")
    for name in ("run", "jobs"):
        named[name].add_argument("--seeds", type=int, nargs="+", help="default: those of the table, else 0")
    named["run"].add_argument("--dry-run", action="store_true", help="print what would be done")
    named["run"].add_argument("--num-gpus", type=int, help="processes of a run (default: the machine's GPUs, else 1)")
    named["run"].add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="change the rows, not what they start from; in folders of their own",
    )
    named["jobs"].add_argument("--scheduler", choices=("slurm", "torchrun"), required=True)
    named["jobs"].add_argument("--folder", type=Path, help="of the scripts (default: jobs/TABLE)")
    named["jobs"].add_argument("--nodes", type=int, default=1)
    named["jobs"].add_argument("--gpus-per-node", type=int, default=8)
    named["jobs"].add_argument("--cpus-per-gpu", type=int, default=5)
    named["jobs"].add_argument("--time", default="24:00:00", help="limit of a job (default: 24:00:00)")
    named["jobs"].add_argument("--sbatch", action="append", default=[], help="option of Slurm, as --partition=gpu")
    named["jobs"].add_argument("--setup", default="source .venv/bin/activate", help="shell line that provides python")
    named["command"].add_argument("--launcher", choices=("srun", "torchrun"), default="srun")
    named["command"].add_argument("--dry-run", action="store_true", help="also if the run before has not finished")
    collecting = commands.add_parser("collect", help="reported and reproduced side by side")
    collecting.set_defaults(do=collect_runs)
    collecting.add_argument("folders", nargs="*", type=Path, help="output folders of runs")
    collecting.add_argument("--ledger", nargs="+", type=Path, default=[], help="folders of committed entries")
    collecting.add_argument("--copy-to", type=Path, metavar="FOLDER", help="keep the entries as TABLE/ROW/seed_N.json")
    collecting.add_argument(
        "--table", nargs="+", help="also a YAML file (default: the tables that runs are named after)"
    )
    collecting.add_argument("--scale", choices=SCALES, default="paper")
    collecting.add_argument("--format", choices=("text", "markdown", "json"), default="text")
    args = parser.parse_args(arguments)
    if getattr(args, "output", "") is None:
        args.output = DEFAULT_OUTPUT[args.scale]
    return args


def main(arguments: list[str] | None = None) -> None:
    """Do what the command line says."""
    args = parse(arguments)
    args.do(args)


def stop(*_: object) -> None:
    """What Ctrl-C does, for each signal that stops: stop the run that trains too, instead of leaving it behind."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN or number != STOP_SIGNALS[-1]:  # SIGHUP under nohup
            signal.signal(number, stop)
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(STOPPED_STATUS)
    except BrokenPipeError:  # of head and the like
        sys.exit(0)
