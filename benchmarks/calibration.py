"""NorCal, τ-norm, FRACAL and LogN on the same trained detectors: one of softmax and one of sigmoids, on EmojiLVIS.

Each config is trained first unless its run is there (some minutes on a CPU core), by tools/train_net.py; KEY VALUE
pairs at the end go to it. LogN then takes an epoch without learning. Every calibration is a test of the same weights,
with the values of its paper and others, none chosen by the result.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from eql_d2.data.category_counts import category_counts
from eql_d2.engine import LongTailTrainer, load_config

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ("configs/EmojiLVIS/demo_softmax.yaml", "configs/EmojiLVIS/demo_sigmoid.yaml")
GROUPS = ("AP", "APr", "APc", "APf")
LOGN = "LogN"
# With the paper's momentum of 5e-5 an epoch of so few images would leave the statistics where they start.
LOGN_MOMENTUM = 0.02
CALIBRATIONS: dict[str, list[Any]] = {
    "none": [],
    "NorCal, γ 0.3": ["TEST.NORCAL_GAMMA", 0.3],
    "NorCal, γ 0.6": ["TEST.NORCAL_GAMMA", 0.6],
    "NorCal, γ 0.9": ["TEST.NORCAL_GAMMA", 0.9],
    "τ-norm, τ 0.5": ["TEST.TAU_NORM", 0.5],
    "τ-norm, τ 1": ["TEST.TAU_NORM", 1.0],
    "FRACAL, λ 0": ["TEST.FRACAL.ENABLED", True, "TEST.FRACAL.LAMBDA", 0.0],
    "FRACAL, λ 2": ["TEST.FRACAL.ENABLED", True],
    LOGN: ["TEST.LOGN.ENABLED", True],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", nargs="+", default=CONFIGS, help="what is trained and calibrated")
    parser.add_argument("--folder", type=Path, default=Path("output", "calibration"), help="of the runs")
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for the trainings, e.g. SOLVER.MAX_ITER 1200"
    )
    args = parser.parse_args()
    results = {}
    for config in args.configs:
        name = Path(config).stem
        results[name] = measure(config, args.folder / name, args.opts)
        print(f"\n{name}, mask AP")
        print(
            tabulate([[row, *values.values()] for row, values in results[name].items()], ["", *GROUPS], floatfmt=".1f")
        )
        if args.json:
            content = {"torch": torch.__version__, "logn_momentum": LOGN_MOMENTUM, "results": results}
            args.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def measure(config: str, folder: Path, opts: list[str]) -> dict[str, dict[str, float]]:
    """Mask AP in percent of each calibration, overall and by group of frequency."""
    weights = train(config, folder, opts)
    # An epoch at a rate of 0: the weights stay, the statistics are collected.
    cfg = load_config(str(ROOT / config), opts)
    epoch = -(-category_counts(cfg).num_images // cfg.SOLVER.IMS_PER_BATCH)
    collecting: list[Any] = ["TEST.LOGN.COLLECT", True, "TEST.LOGN.MOMENTUM", LOGN_MOMENTUM, "SOLVER.BASE_LR", 0.0]
    collecting += ["SOLVER.MAX_ITER", epoch, "SOLVER.STEPS", "()", "MODEL.WEIGHTS", weights, "DATASETS.TEST", "()"]
    with_statistics = train(config, folder / "logn", [*opts, *map(str, [*collecting, "MODEL.WEIGHTS_EXCLUDE", "()"])])
    rows = {}
    for name, overrides in tqdm(CALIBRATIONS.items(), desc=folder.name, unit="test"):
        tested = ["MODEL.WEIGHTS", with_statistics if name == LOGN else weights, "MODEL.WEIGHTS_EXCLUDE", "()"]
        cfg = load_config(str(ROOT / config), [*opts, *map(str, [*tested, *overrides])])
        cfg.OUTPUT_DIR = str(folder / "tests")
        metrics = LongTailTrainer.test(cfg, LongTailTrainer.build_trained_model(cfg).eval())["segm"]
        rows[name] = {group: round(metrics[group], 2) for group in GROUPS}
    return rows


def train(config: str, folder: Path, opts: list[str]) -> str:
    """The final weights of a run, which is done or goes on if it is not there."""
    weights = folder / "model_final.pth"
    if not weights.exists():
        command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config-file", str(ROOT / config)]
        resume = ["--resume"] if (folder / "last_checkpoint").exists() else []
        done = subprocess.run([*command, *resume, *opts, "OUTPUT_DIR", str(folder)])
        if done.returncode:
            sys.exit(done.returncode)
    return str(weights)


if __name__ == "__main__":
    main()
