"""Peak memory of a one-stage head's classification loss, in tensors of the logits' size, against Detectron2's.

The logits of all anchors are what a dense head with a thousand classes fills memory with. Measured are a training
step's losses and their backward pass to the head's outputs, and a test step's selection, on random outputs of the head;
the outputs themselves count as one.
"""

import argparse
import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from torch import Tensor

import eql_d2.modeling  # noqa: F401  (registers the detector)
from eql_d2.config import get_eql_d2_config

LOSSES = ("focal", "efl", "eqfl", "sigmoid")


def make_model(name: str, loss: str, num_classes: int) -> torch.nn.Module:
    """A RetinaNet with a small backbone, of whose head the outputs are given."""
    cfg = get_eql_d2_config()
    cfg.MODEL.META_ARCHITECTURE = name
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[s, s * 2 ** (1 / 3), s * 2 ** (2 / 3)] for s in (32, 64, 128, 256, 512)]
    cfg.MODEL.RETINANET.NUM_CLASSES = num_classes
    cfg.MODEL.RETINANET.LOSS = loss
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0001
    return build_model(cfg)


def make_outputs(size: int, num_classes: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Features, logits and deltas of an image of ``size`` pixels a side."""
    generator = torch.Generator().manual_seed(0)
    sides = [-(-size // stride) for stride in (8, 16, 32, 64, 128)]
    features = [torch.empty(1, 1, side, side) for side in sides]
    logits = [torch.randn(1, 9 * num_classes, s, s, generator=generator).sub_(7).requires_grad_() for s in sides]
    deltas = [torch.randn(1, 36, s, s, generator=generator).mul_(0.1).requires_grad_() for s in sides]
    return features, logits, deltas


def resident_bytes(entry: str) -> int:
    """An entry of this process's status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{entry}:"))


def peak_bytes(step: Callable[[], None]) -> int:
    """Peak resident memory of a call above what is there before (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    ctypes.CDLL(None).malloc_trim(0)
    before = resident_bytes("VmRSS")
    step()
    return resident_bytes("VmHWM") - before


def measure(name: str, loss: str, size: int, num_classes: int) -> list[object]:
    """A row of the table: detector, loss, anchors, and the two peaks in tensors of the logits' size."""
    model = make_model(name, loss, num_classes)
    features, logits, deltas = make_outputs(size, num_classes)
    logits_bytes = sum(level.numel() for level in logits) * 4
    image = ImageList(torch.empty(1, 3, size, size), [(size, size)])
    target = Instances((size, size))
    target.gt_boxes = Boxes(torch.tensor([[20.0, 20, 120, 100], [100, 50, 260, 240]]))
    target.gt_classes = torch.tensor([0, num_classes - 1])

    def train() -> None:
        with EventStorage():
            losses = model.train().forward_training(image, features, [logits, deltas], [target])
        sum(losses.values()).backward()

    def test() -> None:
        with torch.no_grad():
            model.eval().forward_inference(image, features, [logits, deltas])

    of_training = 1 + peak_bytes(train) / logits_bytes
    for level in (*logits, *deltas):
        level.grad = None
    of_test = 1 + peak_bytes(test) / logits_bytes
    anchors = logits_bytes // 4 // num_classes
    return [name, loss, anchors, logits_bytes / 2**20, of_training, of_test]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=320, help="side of the image in pixels")
    parser.add_argument("--classes", type=int, default=1203, help="number K of classes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure("RetinaNet", "focal", args.size, args.classes)]
    rows += [measure("LongTailRetinaNet", loss, args.size, args.classes) for loss in LOSSES]
    print(f"One image of {args.size} x {args.size} pixels, K = {args.classes}, on a CPU.")
    print(tabulate(rows, ["detector", "loss", "anchors", "logits (MiB)", "training", "test"], floatfmt=".2f"))


if __name__ == "__main__":
    main()
