#!/usr/bin/env python
"""Write a trained detector as one file of TorchScript or ONNX.

Beside OUTPUT comes OUTPUT.json, with what an image has to be made into
(channel order, sizes) and the classes. docs/examples/run_exported.py runs the
file, in 30 lines. The file gives the same detections on every image, not only
on the one that it is traced on; before it is written about, that is tried on
an image of another size.

Examples:
    python tools/export_model.py --weights output/demo/eql/model_final.pth \\
        --output eql.pt
    python tools/export_model.py --weights model_final.pth --format onnx \\
        --output eql.onnx --threshold 0.05
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

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

TOLERANCE = {"torchscript": 0.0, "onnx": 1e-3}  # of boxes in pixels; scores are far closer


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint, e.g. RUN/model_final.pth")
    parser.add_argument("--config-file", default="", metavar="FILE", help="config, if the checkpoint has none")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="file to write, as eql.pt")
    parser.add_argument("--format", default="torchscript", choices=(*FORMATS, *REFUSED_FORMS))
    parser.add_argument("--threshold", type=float, default=0.05, help="least score of a detection (default: 0.05)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes of the config")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Export, try the file, and say what it takes."""
    args = parse_args(argv)
    silence_known_warnings()
    if args.output.exists():
        raise UserError(f"--output {args.output} exists already; name another file, or delete it.")
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
