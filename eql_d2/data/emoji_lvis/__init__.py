"""EmojiLVIS: an LVIS-format instance-segmentation data set with LVIS's long tail, generated on the spot."""

from eql_d2.data.emoji_lvis.generate import generate_emoji_lvis, glyphs_of, is_complete
from eql_d2.data.emoji_lvis.glyphs import Glyph, select_glyphs
from eql_d2.data.emoji_lvis.image_counts import plan_image_counts
from eql_d2.data.emoji_lvis.plan import ImagePlan, PlannedObject, SplitPlan, plan_split
from eql_d2.data.emoji_lvis.preview import write_preview
from eql_d2.data.emoji_lvis.spec import PRESETS, EmojiLVISSpec

__all__ = [
    "PRESETS",
    "EmojiLVISSpec",
    "Glyph",
    "ImagePlan",
    "PlannedObject",
    "SplitPlan",
    "generate_emoji_lvis",
    "glyphs_of",
    "is_complete",
    "plan_image_counts",
    "plan_split",
    "select_glyphs",
    "write_preview",
]
