"""Parts of `make gpu-check` that are no benchmark of their own; each prints one line of JSON.

python benchmarks/gpu_parts.py train-bf16 | train-fp16 | one-process | compile [--device cpu] [--steps 100]
"""

import argparse
import contextlib
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from eql_d2.data.emoji_lvis import EmojiLVISSpec, generate_emoji_lvis
from eql_d2.data.registration import register_custom_datasets
from eql_d2.engine import LongTailTrainer, load_config
from eql_d2.long_tail import LVIS_COUNT_FILES, read_count_file
from eql_d2.losses.registry import METHODS, build_loss

CONFIG = Path(__file__).parents[1] / "configs" / "EmojiLVIS" / "Base-small.yaml"
HALF = {"train-bf16": torch.bfloat16, "train-fp16": torch.float16}


def small_run(folder: str, device: str) -> tuple[torch.nn.Module, Any, Any]:
    """A small Mask R-CNN with EQL and class-specific masks, its optimizer, and batches of EmojiLVIS."""
    spec = EmojiLVISSpec(num_classes=6, num_train_images=300, num_val_images=12, image_size=64, name="gpu_check")
    data = generate_emoji_lvis(spec, Path(folder), workers=1, progress=False)
    cfg = load_config(str(CONFIG), ["MODEL.DEVICE", device, "MODEL.ROI_HEADS.NUM_CLASSES", "auto"])
    cfg.DATASETS.CUSTOM = [{"name": "gpu_check", "annotations": str(data / "train.json"), "images": str(data)}]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("gpu_check",), ()
    cfg.MODEL.ROI_BOX_HEAD.PREDICTOR, cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = "EQLPredictor", False
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.INPUT.MIN_SIZE_TRAIN, cfg.DATALOADER.NUM_WORKERS = 6, (64,), 0
    cfg.SOLVER.IMS_PER_BATCH = 4
    register_custom_datasets(cfg)
    torch.manual_seed(0)
    model = LongTailTrainer.build_model(cfg).train()
    return model, build_optimizer(cfg, model), iter(LongTailTrainer.build_train_loader(cfg))


def steps(model: torch.nn.Module, optimizer: Any, batches: Any, number: int, half: torch.dtype | None = None) -> Any:
    """Train for some steps, in half precision if one is given; the loss of each step."""
    device = next(model.parameters()).device.type
    scaler = torch.amp.GradScaler(device, enabled=half == torch.float16)
    losses = []
    with EventStorage():
        for _ in range(number):
            with torch.autocast(device, dtype=half) if half else contextlib.nullcontext():
                loss = sum(model(next(batches)).values())
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
    return losses


def train(half: torch.dtype, device: str, number: int) -> dict[str, Any]:
    """Steps in half precision: they stay finite, and the loss falls."""
    with tempfile.TemporaryDirectory() as folder:
        model, optimizer, batches = small_run(folder, device)
        start = time.perf_counter()
        losses = steps(model, optimizer, batches, number, half)
    seconds = time.perf_counter() - start
    tenth = max(1, number // 10)
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters()), "weights are not finite"
    assert number < 50 or last < first, f"the loss does not fall: {first:.3f}, then {last:.3f}"
    return {"steps": number, "steps a second": number / seconds, "first loss": first, "last loss": last}


def one_process(device: str, number: int) -> dict[str, Any]:
    """Steps inside PyTorch's wrapper for several processes, of which there is one."""
    backend = "nccl" if device == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        model, optimizer, batches = small_run(folder, device)
        wrapped = DistributedDataParallel(model, device_ids=[0] if device == "cuda" else None)
        losses = steps(wrapped, optimizer, batches, number)
        dist.destroy_process_group()
    return {"backend": backend, "steps": number, "last loss": losses[-1]}


def compiled_losses(device: str, rois: int) -> dict[str, Any]:
    """Each loss of the registry, compiled as one graph: the values and gradients of the loss as it is."""
    counts = read_count_file(LVIS_COUNT_FILES["lvis_v1"])
    num_classes = len(counts.names)
    differences = {}
    for name in METHODS:
        try:
            loss = build_loss(name, num_classes, counts)
        except ValueError:  # of image classification alone, or with an option that has no default
            continue
        values = []
        generator = torch.Generator().manual_seed(0)
        batch = torch.randn(rois, loss.num_logits, generator=generator)
        gt_classes = torch.randint(num_classes + 1, (rois,), generator=generator).to(device)
        state = {key: value.clone() for key, value in loss.state_dict().items()}
        runs = (loss.to(device), loss, torch.compile(loss, fullgraph=True))
        for seed, run in enumerate(runs):
            loss.load_state_dict(state)
            torch.manual_seed(seed)
            logits = batch.to(device).requires_grad_()
            total = sum(run(logits, gt_classes).values())
            total.backward()
            values.append((total.detach(), logits.grad))
        (eager, gradient), (again, _), (compiled, other) = values
        assert compiled.isfinite() and other.isfinite().all(), name
        if torch.equal(eager, again):  # else it draws classes by chance, and compiled code draws others
            torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
            differences[name] = float((gradient - other).abs().max())
        torch.compiler.reset()
    return {"largest difference of a gradient": differences}


def main() -> None:
    """Do one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*HALF, "one-process", "compile"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rois", type=int, default=1024)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr):
        if arguments.part in HALF:
            outcome = train(HALF[arguments.part], arguments.device, arguments.steps)
        elif arguments.part == "one-process":
            outcome = one_process(arguments.device, min(arguments.steps, 10))
        else:
            outcome = compiled_losses(arguments.device, arguments.rois)
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
