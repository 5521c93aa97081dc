"""The records of an LVIS v1 annotation file, and the credit the glyphs ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from eql_d2.data.emoji_lvis.glyphs import Glyph
from eql_d2.data.emoji_lvis.plan import ImagePlan
from eql_d2.data.emoji_lvis.spec import EmojiLVISSpec
from eql_d2.long_tail import LVIS_THRESHOLDS

LICENSE = {
    "id": 1,
    "name": "Creative Commons Attribution-ShareAlike 4.0 International (CC BY-SA 4.0)",
    "url": "https://creativecommons.org/licenses/by-sa/4.0/",
}

ATTRIBUTION = """\
The images of this data set show emojis designed by OpenMoji - the open-source emoji and icon project
(https://openmoji.org), scaled, rotated, recoloured and placed on generated backgrounds.
OpenMoji and therefore these images are licensed under CC BY-SA 4.0
(https://creativecommons.org/licenses/by-sa/4.0/).

How often each class appears follows the category counts of LVIS v1 (https://www.lvisdataset.org), CC BY 4.0.
"""


def dataset_header(spec: EmojiLVISSpec, split: str) -> dict:
    """`info` and `licenses` of an annotation file. It holds no date: equal specs give equal bytes."""
    info = {
        "description": f"EmojiLVIS {spec.name} {split}: generated, long-tailed, LVIS v1 format",
        "version": "1.0",
        "contributor": "glyphs by OpenMoji (CC BY-SA 4.0); class frequencies after LVIS v1 (CC BY 4.0)",
        "url": "https://openmoji.org",
    }
    return {"info": info, "licenses": [LICENSE]}


def image_ids(spec: EmojiLVISSpec, split: str) -> range:
    """Image ids of a split; they start at 1 and go on from split to split, so that no two images share one."""
    first = 1
    for name, num_images in spec.num_images.items():
        if name == split:
            return range(first, first + num_images)
        first += num_images
    raise ValueError(f"{spec.name} has no split {split!r}.")


def image_file_name(split: str, image_id: int) -> str:
    """Path of an image inside the folder of its set."""
    return f"{split}/{image_id:06d}.jpg"


def image_record(spec: EmojiLVISSpec, split: str, plan: ImagePlan) -> dict:
    """LVIS image record."""
    image_id = image_ids(spec, split)[plan.index]
    file_name = image_file_name(split, image_id)
    return {
        "id": image_id,
        "width": spec.image_size,
        "height": spec.image_size,
        "file_name": file_name,
        # LVIS v1 readers take the last two parts, the folder of the split and the file.
        "coco_url": f"emoji_lvis/{file_name}",
        "license": LICENSE["id"],
        "neg_category_ids": [category + 1 for category in plan.negatives],
        "not_exhaustive_category_ids": [category + 1 for category in plan.not_exhaustive],
    }


def category_records(glyphs: Sequence[Glyph], train_annotations: Iterable[dict]) -> list[dict]:
    """LVIS category records; counts and frequency are those of the train set, in the val file too."""
    pairs = [(annotation["category_id"], annotation["image_id"]) for annotation in train_annotations]
    instance_counts = Counter(category for category, _ in pairs)
    image_counts = Counter(category for category, _ in set(pairs))
    return [
        {
            "id": category_id,
            "name": glyph.name,
            "synset": f"{glyph.name}.n.01",
            "synonyms": [glyph.name],
            "def": glyph.definition,
            "frequency": LVIS_THRESHOLDS.letter(image_counts[category_id]),
            "image_count": image_counts[category_id],
            "instance_count": instance_counts[category_id],
        }
        for category_id, glyph in enumerate(glyphs, start=1)
    ]
