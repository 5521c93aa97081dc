#!/usr/bin/env python
"""Draw one of the papers' figures of finished runs into an SVG, PNG or PDF.

  ap-box, ap-mask   AP of each class against its number of training images
  gradient-ratio    positive over negative gradients by class
  weight-norm       length of the classifier's weights by class
  positive-score    mean predicted probability of positives by class
  loss, loss-cls    total and classification loss in training
  thresholds        EQL's threshold functions T(f)
  long-tail         training images of each class

Examples:
    python tools/figures.py output/demo/bags --figure gradient-ratio \\
        --output ratio.svg
    python tools/figures.py output/demo/bags output/demo/softmax \\
        --figure ap-box --output ap.png
"""

import argparse
import sys
from pathlib import Path

from eql_d2.analysis.charts import save_figure
from eql_d2.analysis.finished_runs import find_runs
from eql_d2.analysis.run_figures import FIGURES
from eql_d2.errors import UserError


def main(argv: list[str] | None = None) -> None:
    """Read the runs, write the figure and tell what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder or ledger file")
    text = f"which figure: {', '.join(FIGURES)}"
    parser.add_argument("--figure", required=True, choices=FIGURES, metavar="NAME", help=text)
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="file to write")
    args = parser.parse_args(argv)
    runs, skipped = find_runs(args.runs)
    for sentence in skipped:
        print(sentence)
    if not runs:
        raise UserError("There is no run to draw.")
    figure = FIGURES[args.figure](runs)
    for sentence in figure.left_out:
        print(f"Not in the figure: {sentence}")
    save_figure(figure.draw, args.output)
    print(f"{figure.title}: {args.output}\n{figure.caption} {figure.note}".rstrip())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was written")
