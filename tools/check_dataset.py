#!/usr/bin/env python
"""Check a dataset before training: its annotations, images and validation set.

Prints what is wrong as a table, and writes a page (one HTML file) with that
table and pictures of the first and the worst cases, the numbers of the dataset,
its long tail, tail ratios for EQL, bins for BAGS, and all classes.

  annotation file   broken or incomplete records, ids that occur twice or that
                    nothing defines, masks without area, boxes outside their
                    image, wrong areas, classes without instances
  images            missing, unreadable, of another size than annotated, the
                    same file under two names
  train and val     the same image in both, different classes

A defect should be mended: training refuses to start with the same sentence,
unless told --ignore. (What only reading all images shows is not looked for at
its start.) A remark is worth knowing; training goes on. Exit status: 0 no
defect, 1 at least one, 2 nothing was checked (a path that does not exist,
say).

Examples:
    python tools/check_dataset.py --annotations train.json
    python tools/check_dataset.py --annotations train.json --images photos \\
        --val val.json
    python tools/check_dataset.py --annotations lvis_v1_train.json \\
        --images coco --val lvis_v1_val.json --no-decode
"""

import argparse
import dataclasses
import errno
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from eql_d2.analysis.dataset_report import dataset_page, scope, verdict
from eql_d2.config import get_eql_d2_config
from eql_d2.data.checks.doctor import DatasetCheck, examine_dataset
from eql_d2.errors import UserError
from eql_d2.long_tail import FrequencyThresholds

NOT_CHECKED = 2
NARROWEST_SENTENCE = 30


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--annotations",
        required=True,
        metavar="FILE",
        help="annotations, LVIS or COCO format, or boxes of Open Images (CSV)",
    )
    parser.add_argument("--images", metavar="FOLDER", help="folder of the images (default: do not look at them)")
    parser.add_argument("--val", metavar="FILE", help="annotations of the set to validate on, to check both together")
    parser.add_argument("--val-images", metavar="FOLDER", help="folder of its images (default: that of --images)")
    parser.add_argument(
        "--no-decode",
        action="store_true",
        help="only look whether the images are there and which are equal; far quicker, but finds no broken image",
    )
    parser.add_argument(
        "--images-outside", action="store_true", help="images may lie outside their folder (DATASETS.IMAGES_OUTSIDE)"
    )
    parser.add_argument("--workers", type=int, help="processes that read images (default: one a CPU)")
    parser.add_argument(
        "--thresholds",
        nargs=2,
        type=int,
        metavar=("RARE", "COMMON"),
        help="most training images of a rare and of a common class (default: LVIS's 10 and 100)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page (default: ./NAME_report.html)")
    args = parser.parse_args(argv)
    if args.workers is not None and args.workers < 1:
        parser.error(f"--workers is {args.workers}; it must be at least 1")
    if args.val_images and not args.val:
        parser.error("--val-images is the image folder of --val, which is missing")
    return args


def main(argv: list[str] | None = None) -> int:
    """Check, print, and write the page; returns the exit status."""
    args = parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    output = args.output or Path(f"{Path(args.annotations).stem}_report.html")
    _require_writable(output)  # before an hour of reading images
    check = examine_dataset(
        args.annotations,
        args.images,
        val_annotation_file=args.val,
        val_image_root=args.val_images or args.images,
        decode=not args.no_decode,
        workers=args.workers,
        images_outside=args.images_outside,
    )
    if args.thresholds:
        use_thresholds(check, args.thresholds)
    print("\n".join(scope(check)))
    if check.findings:
        print(f"\n{findings_table(check)}")
    print(f"\n{verdict(check)}")
    output.write_text(dataset_page(check, get_eql_d2_config().MODEL.LONG_TAIL.BAGS.BIN_EDGES), encoding="utf-8")
    print(f"Page: {output}")
    return 1 if check.num_defects else 0


def use_thresholds(check: DatasetCheck, thresholds: Sequence[int]) -> None:
    """Give the sets of a check other thresholds of the groups rare, common and frequent.

    Raises:
        UserError: they are out of order.
    """
    try:
        chosen = FrequencyThresholds(*thresholds)
    except ValueError as error:
        raise UserError(f"--thresholds: {error}") from None
    for part in check.sets:
        part.counts = part.counts and dataclasses.replace(part.counts, thresholds=chosen)


def findings_table(check: DatasetCheck) -> str:
    """The findings as a table that is as wide as the terminal."""
    rows = [(finding.level, where, finding.kind, finding.count, finding.sentence) for where, finding in check.findings]
    headers = ["", "set", "what", "count", "first case"]
    others = sum(max(len(str(row[i])) for row in [headers, *rows]) + 2 for i in range(4))
    width = max(shutil.get_terminal_size((120, 0)).columns - others, NARROWEST_SENTENCE)
    return tabulate(rows, headers=headers, maxcolwidths=[None, None, None, None, width])


def _require_writable(output: Path) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        tempfile.TemporaryFile(dir=output.parent).close()
    except OSError as error:
        raise UserError(f"--output {output} cannot be written ({error.strerror}); name another.") from None


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(NOT_CHECKED)
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was written")
