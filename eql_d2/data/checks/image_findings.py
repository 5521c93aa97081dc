"""What reading the images of a set shows to be wrong."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from eql_d2.data.annotations.findings import MOST_CASES, Case, Finding
from eql_d2.data.checks.image_reading import ImageFacts


def unreadable_images(paths: Sequence[str], facts: Sequence[ImageFacts]) -> Finding | None:
    """The defect of images that cannot be decoded.

    Args:
        paths: N paths below the image folder.
        facts: N results of reading them.
    """
    broken = [(path, fact.error) for path, fact in zip(paths, facts, strict=True) if fact.error]
    if not broken:
        return None
    path, error = broken[0]
    return Finding("defect", "unreadable image", f"image {path} cannot be read ({error})", len(broken))


def wrong_sizes(paths: Sequence[str], facts: Sequence[ImageFacts], sizes: np.ndarray) -> Finding | None:
    """The defect of images whose size is not the annotated one, as Detectron2's mapper refuses them.

    Args:
        paths: N paths below the image folder.
        facts: N results of reading them.
        sizes: (N, 2) annotated widths and heights in pixels.
    """
    wrong = [
        (path, fact.sideways, fact.size, annotated)
        for path, fact, annotated in zip(paths, facts, sizes.tolist(), strict=True)
        if fact.size is not None and list(fact.size) != annotated
    ]
    if not wrong:
        return None
    path, sideways, size, (width, height) = wrong[0]
    sentence = f"image {path} is not {width:g}x{height:g} as annotated, but {size[0]}x{size[1]}"
    if sideways:
        sentence += " after the turn that its EXIF data asks for"
    elif size == (height, width):
        sentence += ": width and height are exchanged"
    return Finding("defect", "wrong image size", sentence, len(wrong), _shown([path for path, *_ in wrong]))


def duplicate_images(paths: Sequence[str], facts: Sequence[ImageFacts]) -> Finding | None:
    """The remark of images that are the same file byte by byte, or are listed twice.

    Args:
        paths: N paths below the image folder.
        facts: N results of reading them.

    Returns:
        The finding counts what would be gone if each file were there once.
    """
    same = defaultdict(list)
    for path, fact in zip(paths, facts, strict=True):
        if fact.digest is not None:
            same[fact.digest].append(path)
    groups = [group for group in same.values() if len(group) > 1]
    if not groups:
        return None
    first, second, *_ = groups[0]
    sentence = (
        f"images {first} and {second} are the same file; training sees its contents more often"
        if first != second
        else f"image {first} is listed under two ids; training sees it more often"
    )
    shown = _shown([path for group in groups for path in group[:2]])
    return Finding("remark", "duplicate image", sentence, sum(len(group) - 1 for group in groups), shown)


def deep_images(paths: Sequence[str], facts: Sequence[ImageFacts]) -> Finding | None:
    """The remark of images of more than 8 bits a channel, which are scaled.

    Args:
        paths: N paths below the image folder.
        facts: N results of reading them.
    """
    deep = [path for path, fact in zip(paths, facts, strict=True) if fact.deep]
    if not deep:
        return None
    sentence = (
        f"image {deep[0]} has more than 8 bits a channel; training and prediction see it scaled to 8 bits, by the "
        "depth that its largest value needs"
    )
    return Finding("remark", "image of more than 8 bits", sentence, len(deep), _shown(deep))


def _shown(paths: Sequence[str]) -> tuple[Case, ...]:
    return tuple(Case(path=path) for path in paths[:MOST_CASES])
