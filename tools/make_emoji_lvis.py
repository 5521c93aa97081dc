#!/usr/bin/env python
"""Generate an EmojiLVIS data set: LVIS's format and long tail, no download.

Examples:
    python tools/make_emoji_lvis.py --preset demo
    python tools/make_emoji_lvis.py --num-classes 30 --train-images 800 \\
        --val-images 150 --preview preview.png
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import Counter
from pathlib import Path

import orjson

from eql_d2.data.emoji_lvis import PRESETS, EmojiLVISSpec, generate_emoji_lvis, write_preview
from eql_d2.data.emoji_lvis.federation import verified_shares
from eql_d2.errors import UserError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = f"sizes to start from (default: demo): {', '.join(PRESETS)}"
    parser.add_argument("--preset", choices=PRESETS, default="demo", metavar="NAME", help=text)
    parser.add_argument("--num-classes", type=int, help="3 to 1203")
    parser.add_argument("--train-images", type=int, dest="num_train_images")
    parser.add_argument("--val-images", type=int, dest="num_val_images")
    parser.add_argument("--test-images", type=int, dest="num_test_images", help="of a third split (default: none)")
    parser.add_argument("--image-size", type=int, help="side of the square images in pixels")
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--negatives-per-image",
        type=float,
        help="classes verified to be absent from an image, in the mean: 9.42 in LVIS v0.5; 0 labels far more",
    )
    parser.add_argument("--name", help="folder of the set (default: the preset's name, or one made of the sizes)")
    parser.add_argument("--output", type=Path, default=Path("datasets/emoji_lvis"), help="folder of all sets")
    parser.add_argument("--workers", type=int, help="processes that draw (default: one per CPU)")
    parser.add_argument("--preview", type=Path, metavar="FILE.png", help="draw a contact sheet of the first images")
    return parser.parse_args(argv)


def spec_from_args(args: argparse.Namespace) -> EmojiLVISSpec:
    """The preset with what the command line changes."""
    preset = PRESETS[args.preset]
    known = {field.name for field in dataclasses.fields(preset)} - {"name"}
    changes = {field: value for field, value in vars(args).items() if field in known and value is not None}
    spec = dataclasses.replace(preset, **changes)
    if args.name:
        return dataclasses.replace(spec, name=args.name)
    if spec == preset:
        return spec
    sizes = f"c{spec.num_classes}_t{spec.num_train_images}_v{spec.num_val_images}_s{spec.image_size}"
    if spec.num_test_images:
        sizes += f"_x{spec.num_test_images}"
    federation = f"_n{spec.negatives_per_image:g}".replace(".", "_") if spec.negatives_per_image else ""
    return dataclasses.replace(spec, name=f"{sizes}{federation}_seed{spec.seed}")


def main(argv: list[str] | None = None) -> int:
    """Generate the set and say what is in it."""
    args = parse_args(argv)
    try:
        spec = spec_from_args(args)
        folder = generate_emoji_lvis(spec, args.output, workers=args.workers)
    except (ValueError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    val = orjson.loads((folder / "val.json").read_bytes())
    categories = val["categories"]
    groups = Counter(category["frequency"] for category in categories)
    instances = sum(category["instance_count"] for category in categories)
    sizes = ", ".join(f"{num_images} {split}" for split, num_images in spec.num_images.items())
    print(f"{folder}: {sizes} images of {spec.image_size} px")
    print(f"{len(categories)} classes: {groups['r']} rare, {groups['c']} common, {groups['f']} frequent")
    print(f"{instances} annotated train instances")
    shares = verified_shares(val, {category["id"]: category["frequency"] for category in categories})
    print(
        f"verified: {shares['all']:.1%} of the pairs of a class and a val image (rare {shares['r']:.1%}, common "
        f"{shares['c']:.1%}, frequent {shares['f']:.1%})"
    )
    print(f"lambda = 100 / {spec.num_train_images} = {spec.equalization_lambda:.6g}")
    if args.preview:
        print(f"preview: {write_preview(folder, args.preview)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
