"""The main job on a small scale: train EQL on EmojiLVIS, evaluate it, show numbers and pictures.

Runs tools/train_net.py with configs/EmojiLVIS/demo_eql.yaml, then sets the result beside the committed result
of the softmax baseline. An interrupted demo is continued; a finished one is shown again.
"""

import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

from eql_d2.analysis.final_metrics import comparison_table, read_final_metrics
from eql_d2.child_processes import end_with_parent
from eql_d2.data.emoji_lvis import PRESETS, generate_emoji_lvis
from eql_d2.data.registration import datasets_root
from eql_d2.drawing.detection_sheet import save_detection_pictures
from eql_d2.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
BASELINE = Path("benchmarks", "results", "emoji_lvis_demo_softmax.json")
SECOND_STAGES = ("bags_decoupled", "crt", "lws")  # train the classifier of the finished softmax detector
METHODS = sorted(path.stem.removeprefix("demo_") for path in (ROOT / "configs" / "EmojiLVIS").glob("demo_*.yaml"))
PROGRESS = [
    (re.compile(r"eta: (\S+)\s+iter: (\d+)\s+total_loss: (\S+)"), "training: iteration {1}, loss {2}, {0} left"),
    (re.compile(r"Inference done (\S+)\. .*ETA=(\S+)"), "evaluating: image {0}, {1} left"),
]


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="eql", choices=METHODS, help="what to train")
    parser.add_argument("--freeze", action="store_true", help=f"write the result to {BASELINE}")
    arguments = parser.parse_args()
    start = time.monotonic()
    os.chdir(ROOT)  # configs and datasets are found from here
    run = Path("output", "demo", arguments.method)
    data = generate_emoji_lvis(PRESETS["demo"], datasets_root() / "emoji_lvis")
    if not has_results(run):
        weights = []
        if arguments.method in SECOND_STAGES:
            first_stage = run.with_name("softmax")
            if not has_results(first_stage):
                train("softmax", first_stage)
            weights = ["MODEL.WEIGHTS", first_stage / "model_final.pth"]
        train(arguments.method, run, *weights)
    results = run / "inference" / "emoji_lvis_demo_val" / "lvis_instances_results.json"
    save_detection_pictures(results, data / "val.json", data, run / "detections.png")
    if arguments.freeze:
        freeze(run)
    show(run, arguments.method)
    print(f"The demo took {time.monotonic() - start:.0f} s.")


def has_results(run: Path) -> bool:
    """Whether a run has finished and was evaluated."""
    try:
        read_final_metrics(run)
    except UserError:
        return False
    return (run / "model_final.pth").exists()


def train(method: str, run: Path, *overrides: str | Path) -> None:
    """Train and evaluate in a process of its own, as a user would, showing progress in one line."""
    config = Path("configs", "EmojiLVIS", f"demo_{method}.yaml")
    command = [sys.executable, "tools/train_net.py", "--config-file", config]
    if (run / "last_checkpoint").exists():
        command.append("--resume")
    command += ["OUTPUT_DIR", run, *overrides]
    print(f"$ python {' '.join(str(part) for part in command[1:])}\nFull log: {run / 'log.txt'}", flush=True)
    run.mkdir(parents=True, exist_ok=True)
    with (
        (run / "stderr.txt").open("w+") as stderr,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, preexec_fn=end_with_parent
        ) as process,
    ):
        for line in process.stdout:
            show_progress(line)
    print()
    if process.returncode:
        sys.exit((run / "stderr.txt").read_text()[-2000:])


def show_progress(line: str) -> None:
    """Turn a line of the log into a short one that replaces the last, on a terminal."""
    for pattern, text in PROGRESS:
        found = pattern.search(line)
        if found:
            rewind, end = ("\r\033[K", "") if sys.stdout.isatty() else ("", "\n")
            print(rewind + text.format(*found.groups()), end=end, flush=True)


def show(run: Path, method: str) -> None:
    """Print the table and where the pictures are."""
    baseline = json.loads(BASELINE.read_text())
    print("\nLVIS metrics in percent on EmojiLVIS's validation set (60 classes):\n")
    print(
        comparison_table({"softmax (committed)": baseline["metrics"], f"{method} (this run)": read_final_metrics(run)})
    )
    print(
        "\nAPr, APc, APf: rare, common and frequent classes. The committed row is one run on", baseline["machine"] + "."
    )
    print(f"Detections beside the ground truth: {run / 'detections.png'}")
    print(f"Model, logs, per-class AP:          {run} (delete it to train again)")


def freeze(run: Path) -> None:
    """Write the run's result as the baseline of later demos."""
    metrics = read_final_metrics(run)
    versions = {name: __import__(name).__version__ for name in ("torch", "torchvision", "detectron2")}
    device = "a GPU" if torch.cuda.is_available() else "the CPU"
    content = {
        "command": "python tools/demo.py --method softmax --freeze",
        "metrics": {task: {k: v for k, v in values.items() if not math.isnan(v)} for task, values in metrics.items()},
        "machine": f"{device} ({platform.machine()}, {os.cpu_count()} cores)",
        "versions": {"python": platform.python_version(), **versions},
    }
    BASELINE.parent.mkdir(parents=True, exist_ok=True)
    BASELINE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # which the training has been told as well
        sys.exit("stopped; the next demo goes on from here")
