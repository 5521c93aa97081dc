"""The main job on a small scale: train EQL on EmojiLVIS, evaluate it, show numbers and pictures.

Runs tools/train_net.py with configs/EmojiLVIS/demo_eql.yaml, then sets the result beside the committed result
of the softmax baseline. An interrupted demo is continued; a finished one is shown again.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from eql_d2.analysis.pictures import save_detection_pictures
from eql_d2.analysis.tables import comparison_table, read_final_metrics
from eql_d2.data.datasets import datasets_root
from eql_d2.data.emoji_lvis import PRESETS, generate_emoji_lvis

ROOT = Path(__file__).resolve().parents[1]
CONFIG = Path("configs", "EmojiLVIS", "demo_eql.yaml")
RUN = Path("output", "demo")
BASELINE = Path("benchmarks", "results", "emoji_lvis_demo_softmax.json")
PROGRESS = [
    (re.compile(r"eta: (\S+)\s+iter: (\d+)\s+total_loss: (\S+)"), "training: iteration {1}, loss {2}, {0} left"),
    (re.compile(r"Inference done (\S+)\. .*ETA=(\S+)"), "evaluating: image {0}, {1} left"),
]


def main() -> None:
    """Run the demo."""
    start = time.monotonic()
    os.chdir(ROOT)  # configs and datasets are found from here
    data = generate_emoji_lvis(PRESETS["demo"], datasets_root() / "emoji_lvis")
    if not (RUN / "model_final.pth").exists() or not has_results():
        train()
    picture = RUN / "detections.png"
    results = RUN / "inference" / "emoji_lvis_demo_val" / "lvis_instances_results.json"
    save_detection_pictures(results, data / "val.json", data, picture)
    baseline = json.loads(BASELINE.read_text())
    print("\nLVIS metrics in percent on EmojiLVIS's validation set (60 classes):\n")
    print(comparison_table({"softmax (committed)": baseline["metrics"], "EQL (this run)": read_final_metrics(RUN)}))
    print(f"\nAPr, APc, APf: rare, common and frequent classes. The softmax row was measured on {baseline['machine']}.")
    print(f"Detections beside the ground truth: {picture}")
    print(f"Model, logs, per-class AP:          {RUN} (delete it to train again)")
    print(f"The demo took {time.monotonic() - start:.0f} s.")


def has_results() -> bool:
    """Whether the finished run was evaluated."""
    path = RUN / "metrics.json"
    return path.exists() and '"bbox/AP"' in path.read_text()


def train() -> None:
    """Train and evaluate in a process of its own, as a user would, showing progress in one line."""
    command = [sys.executable, Path("tools", "train_net.py"), "--config-file", CONFIG]
    if (RUN / "last_checkpoint").exists():
        command.append("--resume")
    command += ["OUTPUT_DIR", RUN]
    print(f"$ {' '.join(str(part) for part in command[1:])}\nFull log: {RUN / 'log.txt'}", flush=True)
    RUN.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=(RUN / "stderr.txt").open("w"), text=True
    ) as process:
        for line in process.stdout:
            show_progress(line)
    print()
    if process.returncode:
        sys.exit((RUN / "stderr.txt").read_text()[-2000:])


def show_progress(line: str) -> None:
    """Turn a line of the log into a short one that replaces the last, on a terminal."""
    for pattern, text in PROGRESS:
        found = pattern.search(line)
        if found:
            end = "" if sys.stdout.isatty() else "\n"
            print(("\r\033[K" if end == "" else "") + text.format(*found.groups()), end=end, flush=True)


if __name__ == "__main__":
    main()
