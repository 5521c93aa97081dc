"""What a user's whole job costs: Mask R-CNN R50-FPN on LVIS v1 with class-specific masks, stock and with this project.

    python benchmarks/job.py [--device cuda] [--repeats 3] [--small] [--json FILE]

Stock Detectron2 has its own ROI heads, LVISEvaluator and lvis-api; "class-agnostic" is stock with one mask for all
classes. Pictures are made up, in COCO's most frequent size; weights are random, made so that 300 detections come out,
the same for all sides. Each side is a process of its own; they take turns, times are medians, and memory is the peak of
the process while it does a part. On a CPU each side has one thread and seconds are the processor's; caches and memory
it shares with whatever else runs. How far repeats of the same work lie apart is measured and said, and so is the range
of each quotient, a repeat at a time. Losses, encodings and metrics of both sides are compared.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

HERE = Path(__file__).parent
PARTS = {
    "step": "a training step, {pictures_a_step} picture(s)",
    "picture": "a picture: detection, masks, results",
    "metrics": "metrics of {images} pictures × 300",
    "mask head, training": "of it the mask head, {rois} RoIs, training",
    "mask head, testing": "of it the mask head, {rois} RoIs, testing",
    "encoding 640 x 480": "of it 300 masks encoded, 640 × 480",
    "encoding 1920 x 1080": "the same, 1920 × 1080",
}
MASK_HEAD_PARTS = ("step", "mask head, training", "mask head, testing")
TRAIN_IMAGES, VAL_IMAGES = 100_170, 19_809  # of LVIS v1


class Side:
    """A process of benchmarks/job_side.py."""

    def __init__(self, name: str, folder: str, sizes: dict[str, Any]) -> None:
        command = [sys.executable, str(HERE / "job_side.py"), name, folder, json.dumps(sizes)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, part: str) -> dict[str, Any]:
        """Do a part of the job; its cost and outcome."""
        self._process.stdin.write(part + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"The process that did {part!r} ended early; what it said stands above.")
        return json.loads(line)

    def finish(self) -> None:
        """Let the process end."""
        self._process.stdin.close()
        self._process.wait()


Outcomes = dict[str, dict[str, list[dict[str, Any]]]]


def run(sizes: dict[str, Any], repeats: int, after_repeat: Callable[[Outcomes], None]) -> Outcomes:
    """All outcomes: part → side → one a repeat; those so far are given to a function after each repeat."""
    with tempfile.TemporaryDirectory() as folder:
        for step in ("annotations", "weights"):
            subprocess.run(
                [sys.executable, str(HERE / "job_side.py"), step, folder, json.dumps(sizes)], check=True, text=True
            )
        sides = {name: Side(name, folder, sizes) for name in ("detectron2", "class-agnostic", "eql_d2")}
        outcomes: Outcomes = {part: {} for part in PARTS}
        for repeat in range(repeats):
            for part, of_part in outcomes.items():
                for name, side in sides.items():
                    if name == "class-agnostic" and part not in MASK_HEAD_PARTS:
                        continue
                    of_part.setdefault(name, []).append(side.do(part))
                print(f"repeat {repeat + 1} of {repeats}: {part}", file=sys.stderr, flush=True)
            after_repeat(outcomes)
        for side in sides.values():
            side.finish()
    return outcomes


def check(outcomes: Outcomes) -> None:
    """Make sure that both sides did the same."""
    for part, of_part in outcomes.items():
        stock, ours = of_part["detectron2"][0], of_part["eql_d2"][0]
        for name in stock.keys() - {"seconds", "megabytes"}:
            # Proposals may differ in their order between the two generators; the loss of the masks is of the same RoIs.
            allowed = 1e-3 * abs(stock[name]) if name == "loss_mask" else 1e-9
            assert abs(stock[name] - ours[name]) <= allowed, (part, name, stock[name], ours[name])


def summary(outcomes: Outcomes, sizes: dict[str, Any]) -> dict[str, Any]:
    """Medians of times, largest peaks, and the whole of LVIS from its parts."""
    rows = []
    for part, of_part in outcomes.items():
        row: dict[str, Any] = {"part": PARTS[part].format(**sizes)}
        for name, runs in of_part.items():
            row[f"{name} (s)"] = statistics.median(run["seconds"] for run in runs)
            row[f"{name} (MB)"] = max(run["megabytes"] for run in runs)
        row["times faster"] = row["detectron2 (s)"] / row["eql_d2 (s)"]
        pairs = zip(of_part["detectron2"], of_part["eql_d2"], strict=True)
        quotients = [stock["seconds"] / ours["seconds"] for stock, ours in pairs]
        row["of one repeat"] = f"{min(quotients):.3g} to {max(quotients):.3g}"
        row["apart (%)"] = max(map(apart, of_part.values()))
        rows.append(row)
    by_part = dict(zip(outcomes, rows, strict=True))
    whole = {}
    for name in ("detectron2", "eql_d2"):
        step, picture, metrics = (by_part[part][f"{name} (s)"] for part in ("step", "picture", "metrics"))
        epoch = TRAIN_IMAGES / sizes["pictures_a_step"] * step / 3600
        evaluation = VAL_IMAGES * (picture + metrics / sizes["images"]) / 3600
        whole[name] = {"an epoch of LVIS v1 (h)": epoch, "an evaluation of LVIS v1 val (h)": evaluation}
        if sizes["device"] == "cuda":
            whole[name] = {f"{key}, on 8 GPUs": value / 8 for key, value in whole[name].items()}
    facts = {
        key: value
        for part in outcomes.values()
        for key, value in part["eql_d2"][0].items()
        if key in ("foreground RoIs of a picture", "detections", "AP")
    }
    return {"parts": rows, "LVIS v1": whole, "facts": facts}


def apart(runs: list[dict[str, Any]]) -> float:
    """How much longer the slowest of some runs of the same work took than the fastest, in percent."""
    seconds = [run["seconds"] for run in runs]
    return 100 * (max(seconds) / min(seconds) - 1)


def noise(content: dict[str, Any]) -> str:
    """What the differences between repeats allow to be said."""
    if content["repeats"] < 2:
        return "One repeat: how far times lie apart is not known; --repeats 3 measures it."
    worst = max(content["parts"], key=lambda row: row["apart (%)"])
    sentence = f"Repeats of the same work lie up to {worst['apart (%)']:.0f} % apart ({worst['part']}); "
    return sentence + "a smaller difference between two sides of one part says nothing."


def machine(device: str) -> str:
    """Name of the GPU, or of the CPU."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, one thread"


def main() -> None:
    """Run all parts and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a small model and few of everything, to try the script")
    parser.add_argument("--json", help="also write the numbers here")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    load = round(os.getloadavg()[0], 2)
    sizes = {
        "device": arguments.device,
        "small": arguments.small,
        "short_side": 96 if arguments.small else 800,
        "pictures_a_step": 2 if on_gpu else 1,
        "images": 4 if arguments.small else 40,
        "rois": 8 if arguments.small else 64,
    }

    def write(outcomes: Outcomes) -> dict[str, Any]:
        content = {
            "machine": machine(arguments.device),
            "torch": torch.__version__,
            "repeats": len(outcomes["step"]["eql_d2"]),
            "sizes": sizes,
            "load of the machine before (processes)": load,
            **summary(outcomes, sizes),
        }
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return content

    outcomes = run(sizes, arguments.repeats, write)
    check(outcomes)
    content = write(outcomes)
    print(tabulate(content["parts"], headers="keys", floatfmt=".3g"))
    whole = [{"": name, **of_side} for name, of_side in content["LVIS v1"].items()]
    print(tabulate(whole, headers="keys", floatfmt=".3g"))
    print(", ".join(f"{key}: {value:.4g}" for key, value in content["facts"].items()))
    print(f"{content['machine']}, torch {torch.__version__}; {load} processes wanted a core before this began")
    print(noise(content))


if __name__ == "__main__":
    main()
