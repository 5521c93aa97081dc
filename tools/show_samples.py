"""Draw what training really sees: samples after all augmentations.

    python tools/show_samples.py --config-file EmojiLVIS/demo_eql.yaml \\
        --output samples.jpg

Samples are those of the first iterations of a run with the same SEED (0 if it
is negative) in one process. No GPU and no weights are needed.
"""

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

from detectron2.data import MetadataCatalog
from PIL import Image

from eql_d2.data.checks.before_start import check_dataset
from eql_d2.data.registration import register_datasets, set_class_metadata
from eql_d2.data.training.loader import build_train_loader
from eql_d2.drawing.training_sheet import samples_sheet
from eql_d2.engine import load_config
from eql_d2.engine.auto_values import resolve_auto_values
from eql_d2.errors import UserError
from eql_d2.known_warnings import silence_known_warnings


def main(arguments: list[str] | None = None) -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="config of the training")
    parser.add_argument("--output", required=True, type=Path, help="picture to write, e.g. samples.jpg")
    parser.add_argument("--images", type=int, default=12, help="number of samples (default: 12)")
    parser.add_argument("--side", type=int, default=400, help="longer side of each in pixels (default: 400)")
    parser.add_argument("overrides", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys to change")
    args = parser.parse_args(arguments)
    silence_known_warnings()
    if min(args.images, args.side) < 1:
        raise UserError(f"--images is {args.images} and --side {args.side}; both must be at least 1.")
    cfg = load_config(args.config_file, args.overrides)
    register_datasets(cfg)
    resolve_auto_values(cfg)
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty; name a dataset to draw from.")
    for name in cfg.DATASETS.TRAIN:
        set_class_metadata(name)
        check_dataset(name, cfg.DATASETS.IGNORE_DEFECTS)
    with tempfile.TemporaryDirectory() as folder:  # for what the loader reports to a run's folder
        cfg.OUTPUT_DIR = folder
        batches = build_train_loader(cfg, max(cfg.SEED, 0))
    samples = itertools.islice(itertools.chain.from_iterable(batches), args.images)
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes
    sheet = samples_sheet(samples, names, cfg.INPUT.FORMAT, args.side)
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(args.output)
    except (OSError, ValueError) as error:
        raise UserError(f"--output {args.output} cannot be written ({error}); set another.") from None
    print(f"{args.output}: {args.images} samples")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
