"""Start a project: from annotations and images to a commented config that trains.

Reads COCO's and LVIS's formats (as CVAT, Label Studio, Roboflow and VIA export
them), CVAT's own XML of images, the own JSON of Label Studio and VIA and, with
the package supervision, folders of YOLO, LabelMe and Pascal VOC and Create ML's
JSON. An export's own validation set is used where it has one.

Examples:
    python tools/start_project.py --annotations export.json --images photos \\
        --output birds
    python tools/start_project.py --annotations train.json --images photos \\
        --val val.json --output birds
    python tools/start_project.py --annotations yolo_folder --output birds \\
        --group-by folder
"""

import argparse
import logging
import sys
from pathlib import Path

from eql_d2.data.new_project import start_project
from eql_d2.data.new_project.start import PRETRAINED
from eql_d2.errors import UserError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", required=True, type=Path, metavar="PATH", help="JSON file, or a tool's folder")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="folder of the images (default: the export's)")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="new folder of the project")
    parser.add_argument("--val", type=Path, metavar="FILE", help="annotations to validate on (default: split)")
    parser.add_argument("--val-images", type=Path, metavar="FOLDER", help="folder of its images (default: --images)")
    parser.add_argument("--name", help="of the datasets and the config (default: that of --output)")
    parser.add_argument(
        "--pretrained",
        choices=PRETRAINED,
        default="coco",
        help="start from a detector of COCO, a classifier of ImageNet, or nothing (default: coco)",
    )
    parser.add_argument("--epochs", type=int, help="default: 12 for 20,000 images, up to 100 for fewer")
    parser.add_argument("--batch", type=int, default=4, help="images an iteration (default: 4)")
    parser.add_argument("--val-share", type=float, default=0.2, help="share of the images that validate (default: 0.2)")
    parser.add_argument("--group-by", metavar="KEY", help="key of the images that stay together, as video; or folder")
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")
    parser.add_argument("--ignore", action="store_true", help="leave out defective annotations and images, and go on")
    parser.add_argument("--no-decode", action="store_true", help="look whether the images are there, but read none")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Start a project, and print what was found and decided."""
    args = parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    project = start_project(
        args.annotations,
        args.images,
        args.output,
        val=args.val,
        val_images=args.val_images,
        name=args.name or args.output.resolve().name,
        pretrained=args.pretrained,
        epochs=args.epochs,
        batch=args.batch,
        val_share=args.val_share,
        group_by=args.group_by,
        seed=args.seed,
        ignore_defects=args.ignore,
        decode=not args.no_decode,
    )
    for sentence in project.sentences:
        print(sentence)
    print(f"\nWritten: {project.config_file}. Read it, then train:")
    print(f"  python tools/train_net.py --config-file {project.config_file}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
