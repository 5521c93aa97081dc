#!/usr/bin/env python
"""Turn published weights of other code bases into checkpoints, and prove them.

Sources: mmdet (mmdetection 2.x and 3.x: Seesaw Loss, baselines), eqlv2
(EQLv2's code: EQLv2, EQL, BAGS, cRT, LWS, baselines), bags (BAGS's code, of
mmdetection 1.x, and its baselines), eql (EQL's first code, a fork of
Detectron2), torchvision (ResNet and ResNeXt of ImageNet, to start training
from: the papers' are the V1 weights), detectron2 (Detectron2 itself and what
builds on it, such as ViTDet: a sigmoid classifier's column for background is
dropped).

Examples:
    python tools/convert_checkpoint.py --source mmdet \\
        --weights mask_rcnn_r50_fpn_seesaw_loss.pth \\
        --config-file LVISv1/seesaw_2x/mask_rcnn_R50_FPN/seesaw.yaml \\
        --output output/seesaw.pth
    python tools/train_net.py --eval-only --config-file output/seesaw.yaml
    python tools/convert_checkpoint.py --source torchvision \\
        --weights resnet101-63fe2227.pth \\
        --config-file LVISv1/seesaw_2x/mask_rcnn_R101_FPN/softmax.yaml \\
        --output datasets/weights/torchvision-R-101.pkl
"""

import argparse
import logging
import sys
from collections import Counter

import eql_d2.modeling  # noqa: F401  (registers the ROI heads)
from eql_d2.conversion import SOURCES, Conversion, check_output, convert, prove, save
from eql_d2.engine import load_config
from eql_d2.errors import UserError
from eql_d2.known_warnings import silence_known_warnings


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, choices=sorted(SOURCES), help="the code base of the weights")
    parser.add_argument("--weights", required=True, metavar="FILE", help="downloaded .pth or .pkl")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="this project's config of the same model")
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help=".pth, or .pkl as in Detectron2's model zoo; a .yaml comes with it",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes of the config")
    return parser.parse_args(argv)


def report(conversion: Conversion, differences: dict[str, float]) -> None:
    """Print what became of every tensor and how the outputs compare."""
    print(f"{len(conversion.used)} tensors converted.")
    for title, reasons in (
        ("of the file are not used", conversion.not_needed),
        ("of the model are not in the file", conversion.not_found),
    ):
        for reason, number in Counter(reasons.values()).items():
            example = next(name for name, given in reasons.items() if given == reason)
            print(f"{number} tensors {title} ({example}{', …' if number > 1 else ''}): {reason}.")
    for remark in conversion.remarks:
        print(remark)
    for change in conversion.changes:
        print(f"The weights need {change}.")
    worst = max(differences, key=differences.get)
    print(
        f"Outputs equal those of the source's layout on a random image: {len(differences)} compared, the largest "
        f"difference is {differences[worst]:.1e} ({worst})."
    )


def main(argv: list[str] | None = None) -> None:
    """Convert, prove, write, report."""
    args = parse_args(argv)
    silence_known_warnings()
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    try:
        check_output(args.output)
        cfg = load_config(args.config_file, args.opts)
        conversion, file = convert(args.source, args.weights, cfg)
        differences = prove(conversion, file, args.source)
        config_file = save(conversion, args.output)
    except UserError as error:
        sys.exit(f"Error: {error}")
    report(conversion, differences)
    if SOURCES[args.source].remark:
        print(f"Not converted: {SOURCES[args.source].remark}")
    print(f"Written: {args.output}, and the config that goes with it.")
    if not SOURCES[args.source].backbone_only:
        print(f"Evaluate: python tools/train_net.py --eval-only --config-file {config_file}")


if __name__ == "__main__":
    main()
