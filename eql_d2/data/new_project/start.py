"""The guided start: looks at the data as the doctor does, and writes a config that trains."""

import os
from dataclasses import dataclass
from pathlib import Path

from fvcore.common.config import BASE_KEY

from eql_d2.data.annotations.cache import PackedAnnotations, open_annotations
from eql_d2.data.annotations.findings import Finding
from eql_d2.data.category_counts import count_annotations
from eql_d2.data.checks.doctor import DatasetCheck, examine_dataset
from eql_d2.data.new_project.choices import Method, Schedule, Sizes, method_of, schedule_of, sizes_of
from eql_d2.data.new_project.repairs import find_images, match_classes
from eql_d2.data.new_project.splitting import split_by_image
from eql_d2.data.new_project.tool_formats import coco_file, own_validation
from eql_d2.errors import UserError
from eql_d2.package_files import configs_folder
from eql_d2.plain_files import read_yaml

BASES = "bases"  # folder of the project with what its config is based on
PRETRAINED = ("coco", "imagenet", "none")
_WEIGHTS = {
    ("coco", True): "detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl",
    ("coco", False): "detectron2://COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl",
    ("imagenet", True): "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    ("imagenet", False): "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    ("none", True): "",
    ("none", False): "",
}
_OF_THE_WHOLE = ("different classes", "no annotations", "crowds only")  # defects that no entry could be left out for
_WHY = {
    "coco": "a detector of COCO's 80 classes: the best start for photographs of everyday things, and a good one for\n"
    "  # others; classes of the same name keep their weights",
    "imagenet": "a classifier of ImageNet: for pictures unlike COCO's, or where its licence does not serve",
    "none": "nothing: from scratch, which needs far more pictures and iterations",
}


@dataclass(frozen=True)
class NewProject:
    """What :func:`start_project` has written.

    Attributes:
        config_file: the config.
        check: what the doctor found.
        sentences: what was decided and why, for a person.
    """

    config_file: Path
    check: DatasetCheck
    sentences: tuple[str, ...]


def start_project(
    annotations: str | Path,
    images: str | Path | None = None,
    output: str | Path = "project",
    *,
    val: str | Path | None = None,
    val_images: str | Path | None = None,
    name: str = "my",
    pretrained: str = "coco",
    epochs: int | None = None,
    batch: int = 4,
    val_share: float = 0.2,
    group_by: str | None = None,
    seed: int = 0,
    ignore_defects: bool = False,
    decode: bool = True,
) -> NewProject:
    """Write a commented config for a dataset, and annotation files of a split where there is only one.

    Args:
        annotations: a JSON file in the COCO or LVIS format, or a folder of another tool (see :func:`coco_file`).
        images: folder of the images; None where an export has them in its own place.
        output: folder to write into; it must not hold a config yet.
        val: annotation file of a validation set; None splits the one file.
        val_images: folder of its images; None takes ``images``.
        name: of the datasets, as NAME_train and NAME_val.
        pretrained: one of :data:`PRETRAINED`.
        epochs: as of :func:`schedule_of`.
        batch: images an iteration.
        val_share: share of the images that validate, where there is only one file.
        group_by: as of :func:`split_by_image`.
        seed: of the split.
        ignore_defects: leave defective entries out, as the run will, instead of raising an error.
        decode: read every image, not only look for it.

    Raises:
        UserError: a file is missing, the data have defects or no object, or the output cannot be written.
    """
    output = Path(output)
    config_file = output / f"{name}.yaml"
    if pretrained not in PRETRAINED:
        raise UserError(f"--pretrained is {pretrained!r}; it must be one of {', '.join(PRETRAINED)}.")
    if batch < 1 or (epochs is not None and epochs < 1):
        raise UserError(f"--batch is {batch} and --epochs {epochs}; both must be at least 1.")
    if config_file.exists():
        raise UserError(f"{config_file} is there already; name another --output or --name.")
    train_file, found = coco_file(Path(annotations), Path(images) if images else None, output / "annotations.json")
    sentences: list[str] = []
    train_file, image_folder = _with_images(train_file, found, output / "annotations.json", sentences)
    given = (Path(val), Path(val_images) if val_images else None) if val else own_validation(Path(annotations))
    if given and not val:
        sentences.append(f"The export's own validation set is used, {given[1] or given[0]}")
    val_file, val_folder = coco_file(*given, output / "val_annotations.json") if given else (None, None)
    if val_file:
        where = val_folder or (image_folder if val else None)
        val_file, val_folder = _with_images(val_file, where, output / "val_annotations.json", sentences)
        val_file, matched = match_classes(train_file, val_file, output / "val_annotations.json")
        sentences += [matched] if matched else []
    check = examine_dataset(
        train_file,
        image_folder,
        val_annotation_file=val_file,
        val_image_root=val_folder,
        decode=decode,
    )
    _refuse_defects(check, ignore_defects)
    sentences += [f"{where}: {finding}" for where, finding in check.findings]
    whole = open_annotations(train_file)
    if val_file is None:
        split = split_by_image(whole, output, val_share, seed, group_by)
        train_file, val_file = split.train, split.val
        sentences.append(split.sentence)
    train = open_annotations(train_file)
    counts = count_annotations(str(train_file))
    if not counts.num_images:
        raise UserError(f"{train_file} has no annotated image; there is nothing to train on.")
    masks = _has_masks(train)
    schedule, sizes, method = schedule_of(counts.num_images, batch, epochs), sizes_of(train), method_of(counts)
    sentences += [
        f"{'Masks and boxes' if masks else 'Boxes'} of {counts.num_classes} classes in {counts.num_images} images",
        f"{method.predictor} with {method.sampler}: {method.reason}",
        f"{schedule.epochs} epochs of {schedule.batch} images an iteration: {schedule.iterations} iterations",
        f"Pictures of {sizes.shortest} pixels: {sizes.reason}",
    ]
    sets = [
        (f"{name}_train", train_file, image_folder),
        (f"{name}_val", val_file, val_folder or image_folder),
    ]
    text = _config_text(
        name, output, sets, train, schedule, sizes, method, masks=masks, pretrained=pretrained, ignore=ignore_defects
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
        _copy_bases(text, output)
        config_file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {output} cannot be written ({error.strerror}); name another.") from None
    return NewProject(config_file, check, tuple(sentences))


def _with_images(file: Path, folder: Path | None, output: Path, sentences: list[str]) -> tuple[Path, Path]:
    """An annotation file and the folder that its images are in, as :func:`find_images`, which says what it changes."""
    file, folder, sentence = find_images(file, folder, output)
    sentences += [sentence] if sentence else []
    return file, folder


def _refuse_defects(check: DatasetCheck, ignore: bool) -> None:
    """Raise the error of a set that cannot be trained on as it is."""
    defects = [(where, finding) for where, finding in check.findings if finding.level == "defect"]
    unusable = next((finding for _, finding in defects if finding.kind == "unusable annotation file"), None)
    if unusable is not None:
        raise UserError(unusable.sentence)
    whole = [found for found in defects if found[1].kind in _OF_THE_WHOLE]
    if not defects or (ignore and not whole):
        return
    where, first = (whole if ignore else defects)[0]
    others = len(defects) - 1
    more = f", and {others} other {'kinds' if others > 1 else 'kind'} of defect" if others else ""
    way_out = "" if whole else ", and --ignore leaves such entries out"
    raise UserError(
        f"The {where.replace(', ', ' and the ')} set: {first}{more}; tools/check_dataset.py lists them all{way_out}."
    )


def _copy_bases(text: str, output: Path) -> None:
    """Copy the config that a config is based on, and its own bases, into the project: any of its paths is relative.

    Args:
        text: of the config.
        output: its folder.
    """
    shipped = configs_folder()
    name = Path(read_yaml(text, "The new config")[BASE_KEY]).relative_to(BASES)
    while True:
        copy = output / BASES / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text((shipped / name).read_text(encoding="utf-8"), encoding="utf-8")
        base = read_yaml(copy.read_text(encoding="utf-8"), f"Config file {name}").get(BASE_KEY)
        if base is None:
            return
        name = Path(os.path.normpath(name.parent / base))


def _has_masks(annotations: PackedAnnotations) -> bool:
    """Whether at least half of the annotations have a mask."""
    findings: tuple[Finding, ...] = annotations.findings
    without = next((f.count for f in findings if f.kind == "annotation without segmentation"), 0)
    return 2 * without <= len(annotations.categories)


def _has_run_lengths(annotations: PackedAnnotations) -> bool:
    """Whether an object's mask is stored as run lengths, which polygons cannot say."""
    return bool((annotations.run_lengths & ~annotations.regions).any())


def _config_text(
    name: str,
    output: Path,
    sets: list[tuple[str, Path, Path]],
    annotations: PackedAnnotations,
    schedule: Schedule,
    sizes: Sizes,
    method: Method,
    *,
    masks: bool,
    pretrained: str,
    ignore: bool,
) -> str:
    base = Path("photographs", "mask_rcnn_R50_FPN.yaml" if masks else "faster_rcnn_R50_FPN.yaml")
    form = "lvis" if annotations.federated else "coco"
    entries = "\n".join(
        f"    - {{name: {of_set}, annotations: {_path(file, output)}, images: {_path(folder, output)}, format: {form}}}"
        for of_set, file, folder in sets
    )
    anchors = ", ".join(f"[{side}]" for side in sizes.anchors)
    shorter = [round(sizes.shortest * share / 32) * 32 for share in (0.8, 0.9, 1.0)]
    weights = _WEIGHTS[pretrained, masks]
    return f"""# A detector for {name}, written by eql-d2 new. Paths are relative to this file, OUTPUT_DIR to the folder
# in which it is trained.
#   train     eql-d2 train --config-file {output / f"{name}.yaml"}
#   go on     the same with --resume; on a machine without GPU add MODEL.DEVICE cpu
#   results   OUTPUT_DIR/inference: AP of boxes{" and masks" if masks else ""}, and of every class as a table
#   pictures  eql-d2 predict PICTURES --weights OUTPUT_DIR/model_best.pth --output found
_BASE_: {BASES}/{base.as_posix()}  # a copy, so that the project can move
DATASETS:
  CUSTOM:
{entries}
  TRAIN: ("{sets[0][0]}",)
  TEST: ("{sets[1][0]}",)
  IGNORE_DEFECTS: {ignore}
MODEL:
  # The start is {_WHY[pretrained]}.
  WEIGHTS: "{weights}"
  WEIGHTS_MATCH_CLASSES: {pretrained == "coco"}
  ANCHOR_GENERATOR:
    SIZES: [{anchors}]  # sides in pixels, a level each
  ROI_HEADS:
    NUM_CLASSES: auto  # as many as the training data has
  ROI_BOX_HEAD:
    # Because {method.reason}.
    PREDICTOR: {method.predictor}
  LONG_TAIL:
    FREQUENCY_THRESHOLDS: auto  # LVIS's 10 and 100 images, or thirds of the classes where none is rare by them
DATALOADER:
  SAMPLER_TRAIN: {method.sampler}
  REPEAT_THRESHOLD: {method.repeat_threshold}  # classes in a smaller share of the images are shown more often
INPUT:
  MASK_FORMAT: {"bitmask" if _has_run_lengths(annotations) else "polygon"}  # bitmask for run lengths
  # {sizes.reason[0].upper() + sizes.reason[1:]}.
  MIN_SIZE_TRAIN: ({", ".join(map(str, shorter))})
  MAX_SIZE_TRAIN: {sizes.longest}
  MIN_SIZE_TEST: {sizes.shortest}
  MAX_SIZE_TEST: {sizes.longest}
SOLVER:
  IMS_PER_BATCH: {schedule.batch}  # halve it, and BASE_LR with it, where memory does not suffice
  BASE_LR: {schedule.base_lr}  # linear rule: 0.02 for 16 images
  MAX_ITER: {schedule.iterations}  # {schedule.epochs} epochs
  STEPS: {schedule.steps}
  WARMUP_ITERS: {schedule.warmup}
  CHECKPOINT_PERIOD: {schedule.period}
  MAX_CHECKPOINTS: 2  # the newest, beside the best and the last: a limit for the disk
  BEST_METRIC: {"segm/AP" if masks else "bbox/AP"}  # model_best.pth is the checkpoint with the highest
TEST:
  EVAL_PERIOD: {schedule.period}  # every epoch, or 25 times in all
OUTPUT_DIR: output/{name}
"""


def _path(path: Path, folder: Path) -> str:
    """A path from a folder, in quotes where YAML needs them."""
    relative = os.path.relpath(path, folder)
    return relative if all(c.isalnum() or c in "/._-" for c in relative) else "'" + relative.replace("'", "''") + "'"
