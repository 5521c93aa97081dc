"""Time and memory of each loss, forward and backward, against PyTorch's softmax cross-entropy.

The measured calls of all losses are interleaved in one run, so that a machine that is busy for a while disturbs
all of them; the table has medians. "By definition" are the methods written down as their papers and first
codes describe them, without regard to speed: Seesaw with the (C, C) matrix of count ratios and powers, EQLv2 with
dense weights put together from one-hot targets, BAGS with one Python pass and boolean masks per group. Memory is the
peak above the logits, gradient included, in tensors of the logits' size.
"""

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor

from eql_d2.long_tail import LVIS_COUNT_FILES, read_count_file
from eql_d2.losses import (
    METHODS,
    BalancedGroupSoftmax,
    EqualizationLoss,
    EqualizationLossV2,
    SeesawLoss,
    SoftmaxCrossEntropy,
    build_loss,
)
from eql_d2.losses.row_blocks import BLOCK_ELEMENTS

BASELINE = "F.cross_entropy"
COUNT_FILE = LVIS_COUNT_FILES["lvis_v1"]


class PlainCrossEntropy(SoftmaxCrossEntropy):
    """What a user of PyTorch would otherwise run."""

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        return {"loss_cls": F.cross_entropy(logits, gt_classes)}


class EQLByDefinition(EqualizationLoss):
    """A dense weight for binary cross-entropy, from one-hot targets."""

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        targets = F.one_hot(gt_classes, self.num_classes + 1)[:, :-1].to(logits.dtype)
        exclusion = (gt_classes < self.num_classes).to(logits.dtype)[:, None].expand_as(logits)
        weight = 1 - exclusion * self.tail_weight.expand_as(logits) * (1 - targets)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return {"loss_cls": (losses * weight).sum() / len(logits)}


class SeesawByDefinition(SeesawLoss):
    """Powers of the (K, K) matrix of count ratios, gathered for each foreground RoI."""

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        is_foreground = gt_classes < self.num_classes
        own = gt_classes[is_foreground]
        for class_id in own.unique():
            self.cum_samples[class_id] += (own == class_id).sum()
        class_logits = logits[is_foreground, : self.num_classes]
        counts = self.cum_samples.clamp(min=1)
        ratios = counts[None, :] / counts[:, None]
        factors = torch.where(ratios < 1, ratios**self.p, torch.ones_like(ratios))[own]
        scores = class_logits.detach().softmax(dim=1)
        score_ratios = scores / scores.gather(1, own[:, None]).clamp(min=self.eps)
        factors = factors * torch.where(score_ratios > 1, score_ratios**self.q, torch.ones_like(scores))
        targets = F.one_hot(own, self.num_classes)
        adjusted = class_logits + factors.log() * (1 - targets)
        classes = F.cross_entropy(adjusted, own, reduction="sum")
        objectness = F.cross_entropy(logits[:, self.num_classes :], (~is_foreground).long(), reduction="mean")
        return {"loss_cls": classes / len(logits), "loss_objectness": objectness}


class EQLv2ByDefinition(EqualizationLossV2):
    """Weights expanded to (R, K + 1) and mixed by the one-hot targets; gradients likewise."""

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        targets = F.one_hot(gt_classes, self.num_logits).to(logits.dtype)
        positive, negative = (weight.expand_as(logits) for weight in self.class_weights())
        weight = positive * targets + negative * (1 - targets)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        with torch.no_grad():
            gradients = (logits.sigmoid() - targets).abs() * weight
            self.pos_grad += (gradients * targets).sum(dim=0)[:-1]
            self.neg_grad += (gradients * (1 - targets)).sum(dim=0)[:-1]
            self.pos_neg_ratio.copy_(self.pos_grad / (self.neg_grad + 1e-10))
        return {"loss_cls": (losses * weight).sum() / len(logits)}


class BAGSByDefinition(BalancedGroupSoftmax):
    """A Python pass over the groups, with masks, index lists and counts on the host."""

    def compute(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        total, start = logits.new_zeros(()), 0
        for group, size in enumerate(self.group_sizes):
            targets = self.target_logit[gt_classes, group] - start
            in_group = self.group_of_class[gt_classes] == group
            use = torch.ones_like(in_group)
            if group < len(self.group_sizes) - 1:
                others = (~in_group).nonzero().flatten()
                number = int(self.others_ratio * int(in_group.sum()))
                use = in_group.clone()
                use[others[torch.randperm(len(others), device=others.device)[:number]]] = True
            if use.any():
                total = total + F.cross_entropy(logits[use, start : start + size], targets[use])
            start += size
        return {"loss_cls": total}


def build_losses() -> dict[str, torch.nn.Module]:
    """The losses of all methods for LVIS v1, by the name in the table."""
    counts = read_count_file(str(COUNT_FILE))
    num_classes, frequencies = counts.num_classes, counts.image_frequencies
    losses: dict[str, torch.nn.Module] = {BASELINE: PlainCrossEntropy(num_classes)}
    for method in METHODS.values():
        options = {"lambda_": 0.001} if method.name == "seql" else {}
        background = not method.classifies or bool(method.predictor)
        losses[method.name] = build_loss(method.name, num_classes, counts, background, **{**method.defaults, **options})
    return losses | {
        "eql, by definition": EQLByDefinition(num_classes, frequencies),
        "eqlv2, by definition": EQLv2ByDefinition(num_classes),
        "seesaw, by definition": SeesawByDefinition(num_classes),
        "bags, by definition": BAGSByDefinition(num_classes, torch.as_tensor(counts.instance_counts)),
    }


def make_batch(num_rois: int, num_logits: int, num_classes: int, device: str) -> tuple[Tensor, Tensor]:
    """Random logits, and classes of which a quarter is foreground (the usual sampling)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_rois, num_logits, generator=generator)
    gt_classes = torch.randint(0, num_classes, (num_rois,), generator=generator)
    gt_classes[num_rois // 4 :] = num_classes
    return logits.to(device).requires_grad_(), gt_classes.to(device)


def check_equality(losses: dict[str, torch.nn.Module], batches: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Make sure that both ways of computing a method give the same; not for BAGS, which draws random numbers."""
    for name in ("eql", "eqlv2", "seesaw"):
        for _ in range(3):
            ours, by_definition = (losses[key](*batches[key]) for key in (name, f"{name}, by definition"))
            for key, value in ours.items():
                torch.testing.assert_close(by_definition[key], value, rtol=1e-4, atol=1e-4)


def seconds_of_call(step: Callable[[], None], device: str) -> float:
    """Time of one call: of one CPU thread its own, which other work disturbs less; else the clock; events on a GPU."""
    if device == "cpu":
        clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
        start = clock()
        step()
        return clock() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def peak_tensors(step: Callable[[], None], logits: Tensor) -> float:
    """Peak memory of a call above what is there before, in tensors of the logits' size.

    On the CPU it is the process's resident memory as Linux reports it, NaN elsewhere.
    """
    size = logits.numel() * logits.element_size()
    if logits.is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - before) / size
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    except OSError:
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system, so that using it counts
    before = resident_bytes("VmRSS")
    step()
    return (resident_bytes("VmHWM") - before) / size


def resident_bytes(entry: str) -> int:
    """An entry of this process's status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{entry}:"))


def measure(device: str, num_rois: int, repeats: int) -> list[dict]:
    """One record a loss: median milliseconds, the ratio to the baseline's, and peak memory."""
    losses = {name: loss.to(device) for name, loss in build_losses().items()}
    batches = {name: make_batch(num_rois, loss.num_logits, loss.num_classes, device) for name, loss in losses.items()}
    for name in ("seql", "ldam"):  # of image classification: no background
        batches[name] = (batches[name][0], batches[name][1] % losses[name].num_classes)
    check_equality(losses, batches)

    def step(name: str) -> None:
        logits, gt_classes = batches[name]
        logits.grad = None
        sum(losses[name](logits, gt_classes).values()).backward()

    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for repeat in range(repeats + 3):
        for name, values in seconds.items():
            elapsed = seconds_of_call(lambda name=name: step(name), device)
            if repeat >= 3:  # the first calls warm up
                values.append(elapsed)
    medians = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    records = []
    for name, value in medians.items():
        logits = batches[name][0]
        logits.grad = None
        record = {"device": device, "loss": name, "milliseconds": value, "ratio": value / medians[BASELINE]}
        records.append({**record, "peak_tensors": peak_tensors(lambda name=name: step(name), logits)})
    return records


def measure_passes(num_rois: int, repeats: int) -> list[dict]:
    """What one pass over (R, K) numbers costs on the CPU, in the cache as the losses do it, in ``F.cross_entropy``s.

    No formula is cheaper than the passes that it cannot do without.
    """
    logits, gt_classes = make_batch(num_rois, 1204, 1203, "cpu")
    rows = max(BLOCK_ELEMENTS["cpu"] // 1204, 1)
    block, other = torch.empty(rows, 1204), torch.rand(rows, 1204)
    generator = np.random.SFC64(0)
    passes: dict[str, Callable[[], object]] = {
        "exponential": lambda: torch.exp(other, out=block),
        "logarithm": lambda: torch.log(other, out=block),
        "product of two": lambda: torch.mul(other, other, out=block),
        "sum of rows": lambda: other.sum(dim=1),
        "largest of rows": lambda: other.amax(dim=1),
        "16 random bits": lambda: generator.random_raw(rows * 1204 // 4),
    }

    def cross_entropy() -> None:
        logits.grad = None
        F.cross_entropy(logits, gt_classes).backward()

    seconds: dict[str, list[float]] = {name: [] for name in (BASELINE, *passes)}
    for repeat in range(repeats + 3):
        for name, values in seconds.items():
            step = cross_entropy if name == BASELINE else passes[name]
            elapsed = seconds_of_call(step, "cpu") * (1 if name == BASELINE else num_rois / rows)
            if repeat >= 3:
                values.append(elapsed)
    medians = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    return [
        {"pass": name, "milliseconds": value, "ratio": value / medians[BASELINE]} for name, value in medians.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rois", type=int, default=8192, help="sampled RoIs R (default 8192: sixteen images of 512)")
    parser.add_argument("--repeats", type=int, default=20, help="measured calls of each loss")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's CPU threads")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    records = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        records += measure(device, args.rois, args.repeats)
    title = (
        f"Forward and backward, R = {args.rois}, K = 1203, {args.threads} CPU thread(s), PyTorch {torch.__version__}"
    )
    print(title)
    headers = ["device", "loss", "ms", "ratio", "peak memory"]
    print(tabulate([list(record.values()) for record in records], headers, floatfmt=".2f"))
    passes = measure_passes(args.rois, args.repeats)
    print(
        tabulate([list(record.values()) for record in passes], ["a pass over as many", "ms", "ratio"], floatfmt=".2f")
    )
    if args.json:
        content = {"rois": args.rois, "threads": args.threads, "torch": torch.__version__, "results": records}
        content["passes"] = passes
        Path(args.json).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
