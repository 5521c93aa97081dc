"""Configuration keys of evaluation."""

from detectron2.config import CfgNode


def add_evaluation_config(cfg: CfgNode) -> None:
    """Add the keys, in place."""
    # What computes LVIS metrics: "hotcoco" (compiled) or "lvis" (the official package, slow; same numbers).
    cfg.TEST.LVIS_ENGINE = "hotcoco"
    # Also compute AP-fixed (Dave et al., 2021): the 10,000 best detections of each class over the set count, however
    # many an image holds. Let the model give more than 300 an image: TEST.DETECTIONS_PER_IMAGE 1000 or -1.
    cfg.TEST.FIXED_AP = False
    # Print the AP of each class after an evaluation, and not of the best and the worst classes alone.
    cfg.TEST.SHOW_CLASSES = False
