"""Kills trainings at random moments and breaks their files; what is resumed must equal what was left alone, to the bit.

    python -m tests.faults --kills 100 --seed 0        # or make test-faults
    python -m tests.faults --seed 0 --run 7            # the same faults as in run 7 of that, and no others

Both stateful methods (EQLv2, Seesaw Loss), one process and two on the CPU. Kills come in training, while a checkpoint
is written and in evaluation, by SIGKILL and by SIGTERM, of one process of two or of all; between two attempts the last
checkpoint may be cut or have a byte flipped, last_checkpoint be emptied, and metrics.json end in half a line. Compared
are weights, loss state, optimizer, and the lines of metrics.json without times.
"""

import argparse
import itertools
import json
import logging
import multiprocessing
import os
import random
import signal
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from eql_d2.engine import LongTailTrainer
from eql_d2.engine.checksum import damage_of
from eql_d2.engine.launch import ProcessPlace, _run_in_process_group
from eql_d2.engine.resuming import decide_resume
from eql_d2.engine.stopping import STOPPED_STATUS, RunStopped, stop_request
from eql_d2.errors import UserError
from tests.conftest import make_tiny_cfg, make_tiny_set

PHASES = ("training", "checkpoint", "evaluation")
METHODS = ("EQLv2Predictor", "SeesawPredictor")
BROKEN = 3  # exit status: the last checkpoint is broken
MOST_ATTEMPTS = 12  # that are killed, in a run
TIMES = ("time", "data_time", "eta_seconds")
# That of the run that is there, seen by all; without a lock, which a killed process could hold for ever.
phase = multiprocessing.get_context("fork").RawValue("i", -1)


def config(folder: Path, method: str, output: Path) -> Any:
    """The tiny training."""
    cfg = make_tiny_cfg(folder, output)
    cfg.SEED, cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = 1, method
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 24, 4, 12
    cfg.ENGINE.WATCH_PERIOD = 5
    return cfg


def train(cfg: Any, mode: str) -> None:
    """One attempt, which says where it is."""

    def marked(function: Any, number: int) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            phase.value = number
            try:
                return function(*args, **kwargs)
            finally:
                phase.value = 0

        return call

    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=mode)
    trainer.checkpointer.save = marked(trainer.checkpointer.save, 1)
    trainer.test = marked(trainer.test, 2)
    phase.value = 0
    trainer.train()


def child(cfg: Any, mode: str, place: ProcessPlace | None) -> int:
    """Fork a process of an attempt."""
    process = os.fork()
    if process:
        return process
    status = 0
    try:
        logging.disable(logging.CRITICAL)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        if place is None:
            with stop_request.listen(30):
                train(cfg, mode)
        else:
            _run_in_process_group(place, "cpu", train, (cfg, mode), 30, 30)
    except RunStopped as stop:
        status = stop.code
    except UserError as error:
        status = BROKEN if "is broken" in str(error) else 1
    except BaseException:
        Path(cfg.OUTPUT_DIR, f"traceback_{os.getpid()}.txt").write_text(traceback.format_exc())
        status = 1
    os._exit(status)


def attempt(
    cfg: Any, mode: str, num_processes: int, kill: tuple[int, int, bool, float] | None
) -> tuple[list[int], bool]:
    """Run until the end, or until a kill: (phase, signal, whether only one process, delay)."""
    phase.value = -1
    meeting = Path(tempfile.mkdtemp()) / "meet"
    places = [ProcessPlace(i, num_processes, i, num_processes, f"file://{meeting}") for i in range(num_processes)]
    children = [child(cfg, mode, place if num_processes > 1 else None) for place in places]
    statuses: dict[int, int] = {}
    killed, armed = False, None
    while len(statuses) < len(children):
        for process in children:
            if process not in statuses:
                done, status = os.waitpid(process, os.WNOHANG)
                if done:
                    statuses[process] = os.waitstatus_to_exitcode(status)
        if kill and not killed:
            wanted, number, only_one, delay = kill
            if armed is None and phase.value == wanted:
                armed = time.monotonic() + delay
            if armed is not None and time.monotonic() >= armed and not statuses:
                for process in children[-1:] if only_one else children:
                    os.kill(process, number)
                killed = True
        if killed and statuses and len(statuses) < len(children) and number == signal.SIGKILL:
            for process in children:  # the rest of a run that lost a process, as its parent ends it
                if process not in statuses:
                    os.kill(process, signal.SIGKILL)
        time.sleep(0.002)
    return [statuses[process] for process in children], killed


def break_files(folder: Path, rng: random.Random) -> str:
    """Break one file of a stopped run; gives its kind."""
    kind = rng.choice(("none", "none", "half a line", "cut", "flipped", "no pointer"))
    pointer, metrics = folder / "last_checkpoint", folder / "metrics.json"
    checkpoints = sorted(folder.glob("model_[0-9]*.pth"))
    if kind == "half a line" and metrics.exists():
        with open(metrics, "a") as file:
            file.write('{"iteration": 19, "total_lo')
    elif kind in ("cut", "flipped", "no pointer") and pointer.exists():
        last = folder / pointer.read_text()
        if not any(damage_of(path) is None for path in checkpoints if path != last):
            return "none"  # there is to be something to go on from; an earlier break may have cost the others
        content = bytearray(last.read_bytes())
        content[rng.randrange(len(content))] ^= 255
        if kind == "no pointer":
            pointer.write_text("")
        else:
            last.write_bytes(content[: rng.randrange(len(content))] if kind == "cut" else content)
    else:
        return "none"
    return kind


def result(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Final checkpoint and metrics without times."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    kept = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
    return torch.load(folder / "model_final.pth", weights_only=True), kept


def differences(first: Any, second: Any, name: str = "") -> list[str]:
    """Where two nests of containers and tensors differ."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [name]
    if isinstance(first, dict):
        if set(first) != set(second):
            return [f"{name}: {sorted(map(str, set(first) ^ set(second)))}"]
        return [text for key in first for text in differences(first[key], second[key], f"{name}.{key}")]
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [f"{name}: {len(first)} and {len(second)}"]
        pairs = enumerate(zip(first, second, strict=True))
        return [text for i, (a, b) in pairs for text in differences(a, b, f"{name}[{i}]")]
    same = first == second or (first != first and second != second)
    return [] if same else [f"{name}: {first} and {second}"]


def compare(first: Path, second: Path) -> list[str]:
    """How two finished runs differ."""
    (one, lines), (two, other_lines) = result(first), result(second)
    for content in (one, two):
        (
            content.pop("config"),
            content["trainer"]["hooks"].pop("RunClock"),
            content["trainer"]["hooks"].pop("KeepScalars"),
        )
        content["trainer"]["hooks"].pop("StopWhenAsked", None)
    return differences(one, two) + differences(lines, other_lines, "metrics")


def faulty_run(run: Path, cell: tuple[str, int], data: Path, rng: random.Random, counts: Counter) -> list[str]:
    """Train with kills and broken files until it ends; gives what went wrong, with each attempt where something did."""
    method, number = cell
    cfg, story, failures = config(data, method, run), [], []
    for last_attempt in [False] * MOST_ATTEMPTS + [True]:
        mode = decide_resume(str(run), "auto", {})
        signal_number = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        wanted = rng.choices(range(3), (5, 3, 2))[0]
        only_one = number > 1 and rng.random() < 0.5
        kill = (wanted, signal_number, only_one, rng.uniform(0, (0.5, 0.05, 0.3)[wanted]))
        statuses, killed = attempt(cfg, mode, number, None if last_attempt else kill)
        if BROKEN in statuses:
            counts["resumed from the last good checkpoint"] += 1
            mode = "last-good"
            statuses, killed = attempt(cfg, mode, number, None if last_attempt else kill)
        pointer = run / "last_checkpoint"
        last = pointer.read_text() if pointer.exists() else "none"
        story.append(f"{mode or 'new'}: {kill} in {PHASES[wanted]} {killed=} {statuses=} last={last}")
        bad = [s for s in statuses if s not in (0, STOPPED_STATUS, -signal.SIGKILL, -signal.SIGTERM, 143)]
        if bad and not (killed and number > 1):
            failures.append(f"status {bad}")
        if not killed:
            break
        counts["kills"] += 1
        counts[f"kills in {PHASES[wanted]}"] += 1
        if signal_number == signal.SIGTERM and STOPPED_STATUS in statuses:
            counts["stopped with a checkpoint"] += 1
        kind = break_files(run, rng)
        counts[f"files: {kind}"] += 1
        story.append(f"  {kind}")
    if (run / "model_final.pth").exists():
        failures += compare(run.parent / f"{method}_{number}", run)
    else:
        failures.append("not finished")
    tracebacks = [path.read_text()[-600:] for path in sorted(run.glob("traceback_*"))] if failures else []
    return [*failures[:5], *story, *tracebacks[-1:]] if failures else []


def main() -> int:
    """Kill, break, resume and compare; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="at least this many (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=int, help="only the run of this number")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    counts, failures = Counter(), []
    cells = [(method, number) for method in METHODS for number in (1, 2)]
    with tempfile.TemporaryDirectory() as temporary, tqdm(total=arguments.kills, unit="kill") as progress:
        root = Path(temporary)
        os.environ["EQL_D2_CACHE"] = str(root / "cache")
        data = make_tiny_set(root)
        one = arguments.run
        for method, number in cells if one is None else [cells[one % len(cells)]]:
            straight = root / f"{method}_{number}"
            statuses, _ = attempt(config(data, method, straight), "", number, None)
            assert statuses == [0] * number, statuses
        for index in itertools.count() if one is None else [one]:
            # Each run has faults of its own; their moments depend on the machine all the same.
            rng, cell = random.Random(f"{arguments.seed} {index}"), cells[index % len(cells)]
            failed = faulty_run(root / f"run_{index}", cell, data, rng, counts)
            counts["runs"] += 1
            counts["runs equal to the bit"] += not failed
            failures += [f"run {index} ({cell[0]}, {cell[1]} processes):", *failed] if failed else []
            progress.update(counts["kills"] - progress.n)
            if counts["kills"] >= arguments.kills and index % len(cells) == len(cells) - 1:
                break
    for name, count in sorted(counts.items()):
        print(f"{count:5d} {name}")
    print("\n".join(failures) if failures else "Nothing was lost.")
    return bool(failures)


if __name__ == "__main__":
    raise SystemExit(main())
