"""How much faster selecting detections is than Detectron2's, on boxes and scores like a detector's.

    python benchmarks/selection.py [--device cuda] [--repeats 5] [--json FILE]

Both functions run in turns on the same inputs; the ratio is that of the medians. Results are checked for equality.
"""

import argparse
import json
import platform
import statistics
import time

import torch
from detectron2.modeling.roi_heads import fast_rcnn
from tabulate import tabulate

from eql_d2.modeling import inference

CASES = [
    # name, rows R, classes K, class-agnostic boxes, score threshold
    ("LVIS, class-specific boxes", 1000, 1203, False, 1e-4),
    ("LVIS, class-agnostic boxes", 1000, 1203, True, 1e-4),
    ("COCO, class-specific boxes", 1000, 80, False, 0.05),
    ("COCO, threshold 1e-4", 1000, 80, False, 1e-4),
]


def detector_output(rows: int, num_classes: int, agnostic: bool, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes around 30 objects, and independent sigmoid scores: one class high, the rest a long tail above 1e-4."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(30, 2, generator=generator) * 800
    columns = 1 if agnostic else num_classes
    owner = torch.randint(30, (rows,), generator=generator)
    center = centers[owner][:, None] + 12 * torch.randn(rows, columns, 2, generator=generator)
    size = 20 + 60 * torch.rand(rows, columns, 2, generator=generator)
    boxes = torch.cat([center - size, center + size], dim=2).reshape(rows, 4 * columns)
    logits = torch.randn(rows, num_classes + 1, generator=generator) * 1.5 - 5
    logits[torch.arange(rows), owner % num_classes] += 5
    return boxes.to(device), logits.sigmoid().to(device)


def milliseconds(function, arguments, device: str) -> float:
    """Time of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function(*arguments)
    if device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Run all cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="also write the numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, num_rows, num_classes, agnostic, threshold in CASES:
        boxes, scores = detector_output(num_rows, num_classes, agnostic, arguments.device)
        inputs = ([boxes], [scores], [(800, 800)], threshold, 0.5, 300)
        (ours,), _ = inference.fast_rcnn_inference(*inputs)
        (theirs,), _ = fast_rcnn.fast_rcnn_inference(*inputs)
        assert torch.equal(ours.scores, theirs.scores), name
        assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor), name
        times = {"ours": [], "detectron2": []}
        for _ in range(arguments.repeats):
            times["detectron2"].append(milliseconds(fast_rcnn.fast_rcnn_inference, inputs, arguments.device))
            times["ours"].append(milliseconds(inference.fast_rcnn_inference, inputs, arguments.device))
        medians = {key: statistics.median(values) for key, values in times.items()}
        candidates = int((scores[:, :-1] > threshold).sum())
        rows.append([name, candidates, medians["detectron2"], medians["ours"], medians["detectron2"] / medians["ours"]])
    headers = ["case", "candidates", "Detectron2 (ms)", "ours (ms)", "times faster"]
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU {platform.machine()}, one thread"
    print(tabulate(rows, headers=headers, floatfmt=".1f"), f"\n{device}, torch {torch.__version__}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(
                {"device": device, "cases": [dict(zip(headers, row, strict=True)) for row in rows]}, file, indent=1
            )


if __name__ == "__main__":
    main()
