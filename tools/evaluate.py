#!/usr/bin/env python
"""Evaluate a results file of any framework on LVIS, COCO or Open Images files.

Examples:
    python tools/evaluate.py --annotations lvis_v1_val.json \\
        --results lvis_instances_results.json
    python tools/evaluate.py --annotations val.json --results results.json \\
        --iou-type bbox \\
        --train-annotations train.json --output metrics.json --per-class .
"""

import argparse
import logging
import math
import sys
from pathlib import Path

import orjson
from tabulate import tabulate

from eql_d2.errors import UserError
from eql_d2.evaluation.evaluate_files import evaluate_files
from eql_d2.evaluation.open_images.files import evaluate_open_images


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", required=True, help="LVIS- or COCO-format annotation file")
    parser.add_argument(
        "--results", required=True, help='JSON list of {"image_id", "category_id", "score", "bbox", "segmentation"}'
    )
    parser.add_argument(
        "--iou-type",
        nargs="+",
        choices=["bbox", "segm", "boundary"],
        help="default: bbox and segm, as far as the results have them; boundary AP needs the extra eql_d2[boundary]",
    )
    parser.add_argument("--output", type=Path, help="write the metrics here, as JSON, in percent")
    parser.add_argument("--per-class", metavar="FOLDER", help="write the AP of each class there, as CSV")
    parser.add_argument(
        "--rules",
        choices=["lvis", "coco", "openimages"],
        help="federated or exhaustive annotations (default: lvis if images have neg_category_ids), or AP50 of the Open "
        "Images Challenge 2019",
    )
    parser.add_argument(
        "--export", metavar="FILE", help="with --rules openimages: write the results there in the challenge's CSV form"
    )
    counts = parser.add_mutually_exclusive_group()
    counts.add_argument("--train-annotations", metavar="FILE", help="whose image counts make the groups r, c, f")
    counts.add_argument("--category-counts", metavar="FILE", help="such counts, in the form of datasets/metadata")
    parser.add_argument(
        "--thresholds",
        nargs=2,
        type=int,
        metavar=("RARE", "COMMON"),
        help="most training images of a rare and of a common class (default: LVIS's 10 and 100)",
    )
    parser.add_argument("--fixed-ap", action="store_true", help="also AP-fixed: 10,000 detections of each class")
    parser.add_argument(
        "--segm-area",
        choices=["mask", "box"],
        default="mask",
        help="what makes a mask small, medium or large: its own area, or that of the result's bbox, as the official "
        "packages do with results that have both",
    )
    parser.add_argument(
        "--engine",
        default="hotcoco",
        help="hotcoco, or the official lvis (LVIS) or pycocotools (COCO): same numbers, slow, no progress shown",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Evaluate, print a table, and write the metrics."""
    args = parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("lvis").setLevel(logging.ERROR)
    metrics = _open_images_metrics(args) if args.rules == "openimages" else _metrics(args)
    names = list(next(iter(metrics.values())))
    print(tabulate([[n, *(m.get(n) for m in metrics.values())] for n in names], headers=["", *metrics], floatfmt=".2f"))
    if args.output:
        undefined_as_null = {
            task: {name: None if math.isnan(value) else value for name, value in values.items()}
            for task, values in metrics.items()
        }
        try:
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_bytes(orjson.dumps(undefined_as_null, option=orjson.OPT_INDENT_2) + b"\n")
        except OSError as error:
            raise UserError(f"--output {args.output} cannot be written ({error.strerror}); name another.") from None


def _metrics(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """By the rules of LVIS or COCO."""
    if args.export:
        raise UserError("--export writes the form of the Open Images Challenge; it goes with --rules openimages.")
    return evaluate_files(
        args.annotations,
        args.results,
        args.iou_type,
        engine=args.engine,
        rules=args.rules,
        train_annotations=args.train_annotations,
        category_counts=args.category_counts,
        thresholds=args.thresholds,
        fixed_ap=args.fixed_ap,
        segm_area=args.segm_area,
        class_ap_folder=args.per_class,
    )


def _open_images_metrics(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """By the rules of the Open Images Challenge."""
    if args.fixed_ap or args.iou_type not in (None, ["bbox"]) or args.engine != "hotcoco":
        raise UserError("--rules openimages is about AP50 of boxes; leave out --iou-type, --fixed-ap and --engine.")
    return evaluate_open_images(
        args.annotations,
        args.results,
        train_annotations=args.train_annotations,
        category_counts=args.category_counts,
        class_ap_folder=args.per_class,
        export=args.export,
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
