"""The lines that a run begins with: method, data, tail, schedule, and where the rest is."""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode

from eql_d2.data.category_counts import ONE_STAGE, category_counts
from eql_d2.engine.method_in_use import method_in_use
from eql_d2.errors import UserError
from eql_d2.long_tail import CategoryCounts
from eql_d2.package_files import VERSION

_GROUPS = {"r": "rare", "c": "common", "f": "frequent"}


def start_summary(cfg: CfgNode, num_processes: int, eval_only: bool = False, settled: Sequence[str] = ()) -> str:
    """The lines.

    Args:
        cfg: full config, whose datasets are registered.
        num_processes: that train or evaluate.
        eval_only: nothing is trained.
        settled: sentences about values that followed from the data.
    """
    try:
        counts = category_counts(cfg)
    except UserError:  # an evaluation elsewhere, or data that another code has registered
        counts = None
    processes = f"{num_processes} {'process' if num_processes == 1 else 'processes'}"
    lines = [("model", _model(cfg)), *_method(cfg)]
    if not eval_only:
        lines.append(("train", _train(cfg, counts)))
    if counts is not None:
        lines.append(("tail", _tail(counts)))
    lines += [("", sentence) for sentence in settled]
    if not eval_only:
        lines.append(("schedule", _schedule(cfg, counts)))
    lines.append(("weights", str(cfg.MODEL.WEIGHTS) or "none: from scratch"))
    lines.append(("test", ", ".join(cfg.DATASETS.TEST) or "nothing"))
    lines.append(("machine", f"{cfg.MODEL.DEVICE}, {processes}, seed {cfg.SEED}; eql_d2 {VERSION}, PyTorch {_torch()}"))
    if cfg.OUTPUT_DIR:
        lines.append(("log", f"{cfg.OUTPUT_DIR}/log.txt, with the config, the model and the tables of classes"))
    return "\n".join(f"{title:9} {text}" for title, text in lines)


def _torch() -> str:
    return torch.__version__.partition("+")[0]


def _model(cfg: CfgNode) -> str:
    model = cfg.MODEL
    if model.META_ARCHITECTURE == "ImageClassifier":
        return f"ImageClassifier, {model.CLASSIFIER.NUM_CLASSES} classes"
    dense = model.META_ARCHITECTURE in ONE_STAGE
    node = model.RETINANET if dense else model.ROI_HEADS
    parts = [model.META_ARCHITECTURE] if dense else [model.META_ARCHITECTURE, model.ROI_HEADS.NAME]
    masks = [] if dense else ["boxes and masks" if model.MASK_ON else "boxes"]
    return ", ".join([*parts, model.BACKBONE.NAME, *masks, f"{node.NUM_CLASSES} classes"])


def _method(cfg: CfgNode) -> list[tuple[str, str]]:
    key, value, method = method_in_use(cfg)
    lines = [("method", f"{method.title} ({key} {value})" if method else f"{key} {value}")]
    node = cfg.MODEL.LONG_TAIL.get(method.node, {}) if method else {}
    options = ", ".join(f"{name} {v:g}" if isinstance(v, float) else f"{name} {v}" for name, v in node.items())
    return [*lines, ("", options)] if options else lines


def _train(cfg: CfgNode, counts: CategoryCounts | None) -> str:
    names = ", ".join(cfg.DATASETS.TRAIN)
    if counts is None:
        return names
    return f"{names}: {counts.num_images:,} images, {sum(counts.instance_counts):,} instances"


def _tail(counts: CategoryCounts) -> str:
    letters = counts.frequency_groups
    groups = ", ".join(f"{letters.count(letter)} {name}" for letter, name in _GROUPS.items())
    images = sorted(counts.image_counts)
    return f"{len(letters)} classes: {groups}; in {images[0]:,} to {images[-1]:,} training images"


def _schedule(cfg: CfgNode, counts: CategoryCounts | None) -> str:
    solver = cfg.SOLVER
    text = f"{solver.MAX_ITER:,} iterations of {solver.IMS_PER_BATCH} images"
    if counts is not None and counts.num_images:
        text += f" ({solver.MAX_ITER * solver.IMS_PER_BATCH / counts.num_images:.1f} epochs)"
    text += f", {solver.OPTIMIZER} at {solver.BASE_LR:g}, {cfg.DATALOADER.SAMPLER_TRAIN}"
    if solver.REFERENCE_WORLD_SIZE:
        text += f"; meant for {solver.REFERENCE_WORLD_SIZE} processes and scaled to those there are"
    return text
