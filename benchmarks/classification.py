"""Accuracies of the classification methods on long-tailed digits and glyphs, over several seeds.

    python benchmarks/classification.py --jobs 2

A seed decides on the cut of the long tail, the weights at the start, and the order of the images; with one seed all
methods have the same. Data and schedule were chosen for softmax alone, and no method's options were fitted to these
data: they are those of configs/classification. τ-normalisation and post-hoc logit adjustment take softmax's network,
cRT and LWS go on from it. Finished runs are kept in --folder and not repeated.
"""

import argparse
import json
import logging
import multiprocessing
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from eql_d2.classification.classifier_trainer import CLASSIFICATION, ClassifierTrainer
from eql_d2.engine import load_config
from eql_d2.engine.auto_values import resolve_auto_values

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "classification"
TRAINING_SETS = {"digits": "digits_lt100_seed{}_train", "glyphs": "glyphs_lt100_seed{}_train"}
TRAINED = (
    "softmax",
    "seql",
    "focal",
    "class_balanced",
    "inverse_frequency",
    "sqrt_inverse_frequency",
    "seesaw",
    "bags",
    "balanced_softmax",
    "ldam_drw",
    "class_aware",
    "sqrt_sampling",
)
SECOND_STAGES = ("crt", "lws")
EVALUATED = ("logit_adjustment", "tau_norm")  # with softmax's network
METHODS = (*TRAINED, *SECOND_STAGES, *EVALUATED)
METRICS = ("top1", "many", "medium", "few", "ece")


def run(dataset: str, seed: int, method: str, folder: Path) -> dict[str, float]:
    """The metrics of one run, from its file if it was done before."""
    result_file = folder / f"{method}.json"
    if result_file.exists():
        return json.loads(result_file.read_text())
    output = folder / method
    shutil.rmtree(output, ignore_errors=True)  # of a run that was stopped
    options = ["DATASETS.TRAIN", (TRAINING_SETS[dataset].format(seed),), "SEED", seed, "OUTPUT_DIR", str(output)]
    if method not in TRAINED:
        options += ["MODEL.WEIGHTS", str(folder / "softmax" / "model_final.pth")]
    cfg = load_config(str(CONFIGS / f"{dataset}_lt" / f"{method}.yaml"), options)
    CLASSIFICATION.register_datasets(cfg)
    resolve_auto_values(cfg)
    CLASSIFICATION.check_datasets(cfg, False)
    output.mkdir(parents=True)
    if method in EVALUATED:
        model = ClassifierTrainer.build_trained_model(cfg)
    else:
        test_sets, cfg.DATASETS.TEST = cfg.DATASETS.TEST, ()
        trainer = ClassifierTrainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        model, cfg.DATASETS.TEST = trainer.model, test_sets
    metrics = ClassifierTrainer.test(cfg, model)["classification"]
    result_file.write_text(json.dumps(metrics))
    return metrics


def run_all(task: tuple[str, int, list[str], Path]) -> tuple[str, int, dict[str, dict[str, float]]]:
    """Some methods on one data set with one seed."""
    dataset, seed, methods, folder = task
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    folder = folder / dataset / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    return dataset, seed, {method: run(dataset, seed, method, folder) for method in methods}


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return statistics.mean(values), error


def summary(runs: dict[int, dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Mean and standard error of each metric of each method, and of top-1 against softmax with the same seed."""
    summaries: dict[str, dict[str, Any]] = {}
    for method in next(iter(runs.values())):
        of_method = [run[method] for run in runs.values()]
        columns = {name: [metrics[name] for metrics in of_method] for name in METRICS}
        columns["against softmax"] = [run[method]["top1"] - run["softmax"]["top1"] for run in runs.values()]
        summaries[method] = {
            name: dict(zip(("mean", "standard_error"), mean_and_error(values), strict=True))
            for name, values in columns.items()
        }
        summaries[method]["top1"]["seeds"] = columns["top1"]
    return summaries


def table(summaries: dict[str, dict[str, Any]]) -> str:
    """The summaries as text, mean ± standard error in percent."""
    names = [*METRICS[:1], "against softmax", *METRICS[1:]]
    rows = [
        [method, *(f"{values[name]['mean']:.1f} ± {values[name]['standard_error']:.1f}" for name in names)]
        for method, values in summaries.items()
    ]
    return tabulate(rows, headers=["", *names], stralign="right")


def main() -> None:
    """Run what is asked for, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", choices=TRAINING_SETS, default=list(TRAINING_SETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="softmax is always run")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default 5)")
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each (default 1)")
    parser.add_argument("--folder", type=Path, default=ROOT / "output" / "classification_benchmark")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "classification.json")
    args = parser.parse_args()
    methods = [method for method in METHODS if method == "softmax" or method in args.methods]
    tasks = [(dataset, seed, methods, args.folder) for dataset in args.datasets for seed in range(args.seeds)]
    runs: dict[str, dict[int, dict[str, dict[str, float]]]] = {dataset: {} for dataset in args.datasets}
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        for dataset, seed, results in pool.imap(run_all, tasks, chunksize=1):
            runs[dataset][seed] = results
            print(f"{dataset}, seed {seed}: done", flush=True)
    content = {"seeds": args.seeds, "datasets": {dataset: summary(of_set) for dataset, of_set in runs.items()}}
    for dataset, summaries in content["datasets"].items():
        print(f"\n{dataset}, {args.seeds} seeds, percent (mean ± standard error)\n{table(summaries)}")
    args.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
