"""What image-level labels cost EQL: training steps with and without them, in turns, in one run.

The steps are real ones of EmojiLVIS's demo (its set is generated if need be), on small images and a small model: of
a full-size model's step the share is smaller. Besides, the work is timed by itself: in the mapper, in the predictor,
and in the loss, whose time without them is taken off.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from detectron2.utils.events import EventStorage
from tqdm import tqdm

from eql_d2.data.training.mapper import LongTailMapper
from eql_d2.engine import LongTailTrainer, load_config
from eql_d2.modeling import LongTailPredictor

CONFIG = Path(__file__).parents[1] / "configs" / "EmojiLVIS" / "demo_eql.yaml"
_seconds: dict[str, list[float]] = {}


def timed(name, function):
    """The function, whose seconds are noted under a name."""

    def call(*args, **kwargs):
        start = time.perf_counter()
        result = function(*args, **kwargs)
        _seconds.setdefault(name, []).append(time.perf_counter() - start)
        return result

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default=str(CONFIG))
    parser.add_argument("--steps", type=int, default=60, help="steps with and steps without")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs that override the config")
    args = parser.parse_args()
    torch.set_num_threads(1)
    LongTailMapper._verified_classes = timed("mapper", LongTailMapper._verified_classes)
    LongTailPredictor.verified_classes = timed("predictor", LongTailPredictor.verified_classes)
    with tempfile.TemporaryDirectory() as folder:
        options = ["OUTPUT_DIR", folder, "DATALOADER.NUM_WORKERS", "0", "MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS", "True"]
        cfg = load_config(args.config_file, [*options, *args.opts])
        with_them, without = measure(LongTailTrainer(cfg), args.steps)
    own = sum(_seconds["mapper"]) / (2 * args.steps) + sum(_seconds["predictor"]) / args.steps + loss_difference(cfg)
    print(f"median step without {1000 * without:.1f} ms, with {1000 * with_them:.1f} ms")
    print(f"share of a step, by the difference: {100 * (with_them / without - 1):.2f} %")
    print(f"share of a step, by the work's own time ({1000 * own:.3f} ms): {100 * own / without:.2f} %")


def measure(trainer: LongTailTrainer, steps: int) -> tuple[float, float]:
    """Median seconds of a step with and without the labels in the loss."""
    predictor = trainer.model.roi_heads.box_predictor
    trainer.max_iter = 2 * steps + 1
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with EventStorage(0) as trainer.storage:
        for trainer.iter in tqdm(range(2 * steps), unit="step"):
            predictor.image_level_labels = trainer.iter % 2 == 0
            start = time.perf_counter()
            trainer.run_step()
            seconds[predictor.image_level_labels].append(time.perf_counter() - start)
            trainer.storage.step()
    return statistics.median(seconds[True]), statistics.median(seconds[False])


def loss_difference(cfg, calls: int = 201) -> float:
    """Seconds, forward and backward, that the labels add to the loss of a batch's RoIs."""
    model = LongTailTrainer.build_model(cfg)
    loss = model.roi_heads.box_predictor.loss
    num_rois = cfg.SOLVER.IMS_PER_BATCH * cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    logits = torch.randn(num_rois, loss.num_logits, requires_grad=True, device=model.device)
    gt_classes = torch.randint(0, loss.num_classes + 1, (num_rois,), device=model.device)
    verified = torch.rand(num_rois, loss.num_classes, device=model.device) < 0.05
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for call in range(2 * calls):
        labels = {"verified_classes": verified} if call % 2 else {}
        start = time.perf_counter()
        loss(logits, gt_classes, **labels)["loss_cls"].backward()
        seconds[bool(labels)].append(time.perf_counter() - start)
    return statistics.median(seconds[True]) - statistics.median(seconds[False])


if __name__ == "__main__":
    main()
