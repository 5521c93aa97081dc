#!/usr/bin/env python
"""Merge the results files of several models into one, image by image.

Examples:
    python tools/ensemble.py --annotations lvis_v1_val.json \\
        --results eql.json seesaw.json --output merged.json
    python tools/ensemble.py --annotations lvis_v1_val.json \\
        --results all.json all2.json rare.json --categories-of 3=rc \\
        --weights 1 1 2 --merge wbf --rescore r=2 c=1.5 --output merged.json
"""

import argparse
import logging
import sys

from eql_d2.errors import UserError
from eql_d2.evaluation.results.ensemble import merge_results, read_images_and_categories
from eql_d2.evaluation.results.ensemble_rules import Rules, make_members, parse_factors


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", required=True, help="LVIS- or COCO-format file; its annotations are not used")
    parser.add_argument(
        "--results",
        required=True,
        nargs="+",
        metavar="FILE",
        help='JSON lists of {"image_id", "category_id", "score", "bbox" and/or "segmentation"}',
    )
    parser.add_argument("--output", required=True, help="results file to write")
    parser.add_argument("--weights", nargs="+", type=float, help="one for each results file (default: 1)")
    parser.add_argument(
        "--merge",
        choices=["nms", "wbf"],
        default="nms",
        help="keep the best of overlapping detections (default), or fuse their boxes: weighted boxes fusion, which "
        "gives the fused box the mask of its best member",
    )
    parser.add_argument("--iou-type", choices=["bbox", "segm"], default="bbox", help="what overlaps (default: bbox)")
    parser.add_argument("--iou-threshold", type=float, help="default: 0.5 for nms, 0.55 for wbf")
    parser.add_argument(
        "--categories-of",
        nargs="+",
        default=[],
        metavar="NUMBER=CATEGORIES",
        help="what an expert knows: the number of its results file, from 1, and groups (3=rc), ids (3=5,17) or a JSON "
        "list of ids (3=ids.json); its other results are left out, and classes it does not know not marked down",
    )
    parser.add_argument(
        "--rescore",
        nargs="+",
        default=[],
        metavar="GROUP=FACTOR",
        help="multiply the odds of the scores of rare (r), common (c) or frequent (f) classes after the merge",
    )
    parser.add_argument("--max-detections", type=int, default=300, help="kept in an image (default: 300, LVIS's limit)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Merge, and say how many results there are."""
    args = parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    rules = Rules(args.merge, args.iou_type, args.iou_threshold, parse_factors(args.rescore), args.max_detections)
    ground_truth = read_images_and_categories(args.annotations)
    members = make_members(args.results, args.weights, args.categories_of, ground_truth)
    count = merge_results(ground_truth, members, args.output, rules)
    print(f"{args.output}: {count} results of {len(members)} models in {len(ground_truth)} images")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
