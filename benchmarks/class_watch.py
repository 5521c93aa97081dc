"""What watching the classes costs: training steps with and without it, in turns, in one run.

The steps are real ones of EmojiLVIS's demo (its set is generated if need be), on small images and a small model: of
a full-size model's step the share is smaller. Besides, the hook's own work is timed by itself.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from detectron2.utils.events import EventStorage
from tqdm import tqdm

from eql_d2.engine import LongTailTrainer, load_config
from eql_d2.engine.class_watch import WatchClasses
from eql_d2.modeling.gradient_sums import GradientSums

CONFIG = Path(__file__).parents[1] / "configs" / "EmojiLVIS" / "demo_softmax.yaml"


class TimedSums(GradientSums):
    """Counts the seconds spent."""

    seconds = 0.0

    def _add(self, grad: torch.Tensor, gt_classes: torch.Tensor) -> None:
        start = time.perf_counter()
        super()._add(grad, gt_classes)
        TimedSums.seconds += time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default=str(CONFIG))
    parser.add_argument("--steps", type=int, default=60, help="steps with and steps without")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs that override the config")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cfg = load_config(args.config_file, ["OUTPUT_DIR", folder, "DATALOADER.NUM_WORKERS", "0", *args.opts])
        with_it, without, hook = measure(LongTailTrainer(cfg), args.steps)
    print(f"median step without {1000 * without:.1f} ms, with {1000 * with_it:.1f} ms")
    print(f"share of a step, by the difference: {100 * (with_it / without - 1):.2f} %")
    print(f"share of a step, by the hook's own time: {100 * hook / without:.2f} %")


def measure(trainer: LongTailTrainer, steps: int) -> tuple[float, float, float]:
    """Median seconds of a step with and without watching, and mean seconds of the hook in a step with it."""
    watch = next(hook for hook in trainer._hooks if isinstance(hook, WatchClasses))
    trainer.max_iter = 2 * steps + 1
    seconds: dict[bool, list[float]] = {True: [], False: []}
    in_hook = 0.0
    with EventStorage(0) as trainer.storage:
        watch.before_train()
        predictor = watch._predictors[0]
        sums = predictor.gradient_sums = TimedSums(predictor.loss.class_columns)
        for trainer.iter in tqdm(range(2 * steps), unit="step"):
            watched = trainer.iter % 2 == 0
            predictor.gradient_sums = sums if watched else None
            start = time.perf_counter()
            trainer.run_step()
            if watched and trainer.iter % watch._period == 0:
                before = time.perf_counter()
                watch._collect()
                watch._log()
                in_hook += time.perf_counter() - before
            seconds[watched].append(time.perf_counter() - start)
            trainer.storage.step()
    return *(statistics.median(seconds[key]) for key in (True, False)), (in_hook + TimedSums.seconds) / steps


if __name__ == "__main__":
    main()
