#!/usr/bin/env python
"""Write a report on finished runs: one HTML page that needs no server.

It holds a table of all runs and, with --tables, the papers' tables with
reported and reproduced results side by side; the papers' figures (gradient
ratio, weight norms, scores of positives and AP by class, losses, threshold
functions, long tail); and the detections of two runs on the same images, with
errors coloured. What a run lacks is left out, and the page says why.

Examples:
    python tools/report.py --runs benchmarks/ledger --output methods.html
    python tools/report.py --runs output/demo/softmax output/demo/bags
    python tools/report.py --runs benchmarks/ledger --baseline sigmoid \\
        --series eql eqlv2

Single figures as files: `python tools/figures.py`.
"""

import argparse
import logging
import sys
from pathlib import Path

from eql_d2.analysis.finished_runs import find_runs
from eql_d2.analysis.run_report import report_page
from eql_d2.errors import UserError
from eql_d2.reproduction.table_report import tables_of


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs",
        nargs="+",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="run folders, ledger files, or folders of such",
    )
    parser.add_argument(
        "--tables", nargs="+", default=(), metavar="NAME", help="tables of configs/tables (default: those of the runs)"
    )
    parser.add_argument("--scale", default="paper", choices=("paper", "emoji"), help="at which tables were trained")
    parser.add_argument("--output", type=Path, default=Path("report.html"), metavar="FILE", help="the page")
    parser.add_argument("--images", type=int, default=8, help="images of a gallery (default 8); 0 for none")
    parser.add_argument(
        "--score-threshold",
        type=float,
        help="show detections of at least this score (default: as many as an image has objects)",
    )
    parser.add_argument(
        "--baseline", default="", metavar="RUN", help="row or run to compare with (default: softmax, else the first)"
    )
    parser.add_argument(
        "--series", nargs="+", default=(), metavar="RUN", help="rows or runs that figures show beside the baseline"
    )
    args = parser.parse_args(argv)
    if args.images < 0:
        parser.error(f"--images is {args.images}; it must not be negative")
    return args


def main(argv: list[str] | None = None) -> None:
    """Read the runs, write the page."""
    args = parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    runs, skipped = find_runs(args.runs)
    if not runs:
        raise UserError(f"There is nothing to report on. {' '.join(skipped)}")
    for sentence in skipped:
        print(sentence)
    tables = tables_of(args.runs, args.tables, args.scale)
    page = report_page(
        runs,
        skipped,
        tables=tables,
        gallery_images=args.images,
        score_threshold=args.score_threshold,
        baseline=args.baseline,
        series=args.series,
    )
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {args.output} cannot be written ({error.strerror}); name another.") from None
    print(f"Page: {args.output} ({len(page) / 1e6:.1f} MB, {len(runs)} {'run' if len(runs) == 1 else 'runs'})")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was written")
