#!/usr/bin/env python
"""Write a trained detector, or its weights, as one file.

The detector becomes TorchScript or ONNX, which run without this project.
Beside OUTPUT comes OUTPUT.json, with what an image has to be made into
(channel order, sizes) and the classes. docs/examples/run_exported.py runs the
file, in 30 lines. The file gives the same detections on every image, not only
on the one that it is traced on; before it is written about, that is tried on
an image of another size.

With --format safetensors the file holds weights to start other trainings from
(MODEL.WEIGHTS), no optimizer and no config; it has a checksum, and is opened
without running code.

Examples:
    python tools/export_model.py --weights output/demo/bags/model_final.pth \\
        --output bags.pt
    python tools/export_model.py --weights model_final.pth --format onnx \\
        --output bags.onnx --threshold 0.05
    python tools/export_model.py --weights model_final.pth \\
        --format safetensors --half --without "*.cls_score.*" \\
        --output start.safetensors
"""

import argparse
import json
import os
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch

from eql_d2.conversion.source_file import read_source_file
from eql_d2.errors import UserError, import_extra
from eql_d2.known_warnings import silence_known_warnings
from eql_d2.modeling.detector_export import (
    FORMATS,
    REFUSED_FORMS,
    TensorDetector,
    check_exportable,
    export,
    in_order_of,
    run_exported,
)
from eql_d2.prediction.predictor import Predictor
from eql_d2.safetensors_file import SUFFIX, save_weights

WEIGHTS_ALONE = "safetensors"
TOLERANCE = {"torchscript": 0.0, "onnx": 1e-3}  # of boxes in pixels; scores are far closer


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint, e.g. RUN/model_final.pth")
    parser.add_argument("--config-file", default="", metavar="FILE", help="config, if the checkpoint has none")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="file to write, as eql.pt")
    parser.add_argument(
        "--format",
        default="torchscript",
        choices=(*FORMATS, WEIGHTS_ALONE, *REFUSED_FORMS),
        metavar="FORMAT",
        help=f"{', '.join((*FORMATS, WEIGHTS_ALONE))} (default: torchscript)",
    )
    parser.add_argument("--threshold", type=float, default=0.05, help="least score of a detection (default: 0.05)")
    alone = parser.add_argument_group("with --format safetensors")
    alone.add_argument("--half", action="store_true", help="half precision but for vectors (biases, normalization)")
    alone.add_argument(
        "--without", action="append", default=[], metavar="PATTERN", help="leave out tensors of such names; repeatable"
    )
    alone.add_argument(
        "--about", action="append", default=[], metavar="KEY=TEXT", help="what the file says of itself; repeatable"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes of the config")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Export, try the file, and say what it takes."""
    args = parse_args(argv)
    silence_known_warnings()
    if args.output.exists():
        raise UserError(f"--output {args.output} exists already; name another file, or delete it.")
    if args.format == WEIGHTS_ALONE:
        export_weights(args)
        return
    if args.format == "onnx":
        import_extra("onnxruntime", "export", "Export to ONNX")
    predictor = Predictor(args.weights, args.config_file, args.opts, score_threshold=args.threshold)
    check_exportable(predictor.model, args.format)
    side = int(predictor.cfg.INPUT.MIN_SIZE_TEST or 800)
    device = predictor.model.device
    export(predictor.model, args.output, args.format, noise(side, side, 0).to(device))
    other = noise(side * 3 // 4, side, 1).to(device)
    with torch.no_grad():
        expected = TensorDetector(predictor.model).eval()(other)
    difference = largest_difference(expected, run_exported(args.output, args.format, other))
    if difference > TOLERANCE[args.format]:
        args.output.unlink()
        raise UserError(
            f"{args.output} was not kept: on another image than the traced one its detections differ by {difference:g} "
            "from the model's; please report this with the config."
        )
    cfg = predictor.cfg
    description = {
        "format": args.format,
        "channels": cfg.INPUT.FORMAT,
        "shortest_side": cfg.INPUT.MIN_SIZE_TEST,
        "longest_side": cfg.INPUT.MAX_SIZE_TEST,
        "categories": predictor.categories,
    }
    Path(f"{args.output}.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB, and {args.output}.json")
    print(f"On an image of another size its {len(expected[0])} detections differ by {difference:g} from the model's.")


def export_weights(args: argparse.Namespace) -> None:
    """Write a checkpoint's weights alone; complete or not at all."""
    if args.output.suffix != SUFFIX:
        raise UserError(f"--output {args.output} must end in {SUFFIX}, by which it is known when it is read.")
    about = dict(text.partition("=")[::2] for text in args.about)
    tensors = read_source_file(args.weights).tensors
    kept = {name: value for name, value in tensors.items() if not any(fnmatchcase(name, p) for p in args.without)}
    if args.half:
        kept = {
            name: value.half() if value.is_floating_point() and value.dim() > 1 else value
            for name, value in kept.items()
        }
    broken = next((n for n, v in kept.items() if v.is_floating_point() and not bool(v.isfinite().all())), None)
    if broken:
        raise UserError(
            f"{broken} in {args.weights} is not finite{' in half precision' if args.half else ''}; nothing was written."
        )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    partial = args.output.with_name(f".{args.output.name}.partial")
    try:
        save_weights(kept, partial, about)
        os.replace(partial, args.output)
    finally:
        partial.unlink(missing_ok=True)
    print(f"{args.output}: {len(kept)} of {len(tensors)} tensors, {args.output.stat().st_size / 1e6:.2f} MB")


def noise(height: int, width: int, seed: int) -> torch.Tensor:
    """An image (3, height, width) of blotches, in [0, 255]."""
    coarse = torch.rand(1, 3, height // 16 + 1, width // 16 + 1, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]


def largest_difference(expected: tuple[torch.Tensor, ...], found: list[np.ndarray]) -> float:
    """The largest difference of any value; infinite where there are not as many."""
    wanted = [tensor.cpu().numpy() for tensor in expected]
    if any(one.shape != other.shape for one, other in zip(wanted, found, strict=True)):
        return float("inf")
    pairs = list(zip(wanted, in_order_of(wanted, found), strict=True))
    return max((float(np.abs(one.astype(np.float64) - other).max()) for one, other in pairs if one.size), default=0.0)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
