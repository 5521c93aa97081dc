"""The folder of a small finished run and its dataset, made of numbers that tests choose."""

import csv
import json
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

DATASET = "made_up_val"
# One frequent, one common, two rare classes; ids are not in the order of frequency.
CLASSES = [
    {"id": 2, "name": "cat", "image_count": 40, "instance_count": 60, "frequency": "c"},
    {"id": 3, "name": "<i>dog</i>", "image_count": 200, "instance_count": 400, "frequency": "f"},
    {"id": 7, "name": "emu", "image_count": 3, "instance_count": 3, "frequency": "r"},
    {"id": 9, "name": "yak", "image_count": 1, "instance_count": 1, "frequency": "r"},
]
NUM_IMAGES = 400
RATIOS = {2: 0.5, 3: 1.25, 7: 0.125, 9: 0.0}
AP = {2: 20.0, 3: 30.0, 7: 10.0}  # no objects of class 9 in the test set
SIZE = (64, 48)
# image id -> (class, box) of its objects; boxes are x, y, width, height.
OBJECTS = {
    1: [(2, [4, 4, 20, 16]), (3, [30, 10, 20, 20])],
    2: [(3, [10, 10, 20, 20]), (7, [36, 20, 16, 20])],
}
# image id -> (class, box, score)
DETECTIONS = {
    1: [
        (2, [5, 4, 20, 16], 0.75),
        (2, [4, 5, 20, 16], 0.5),
        (3, [30, 22, 20, 20], 0.25),  # IoU 1/4 with the dog
        (7, [30, 11, 20, 20], 0.375),
    ],
    2: [(3, [11, 10, 20, 20], 0.5), (2, [0, 40, 8, 8], 0.0625)],
}


def write_dataset(folder: Path) -> dict[str, str]:
    """Write images and annotations; returns an entry for ``DATASETS.CUSTOM``."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = SIZE
    images, annotations = [], []
    for image_id, objects in OBJECTS.items():
        pixels = np.random.default_rng(image_id).integers(0, 20, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{image_id}.png")
        images.append(
            {
                "id": image_id,
                "file_name": f"{image_id}.png",
                "width": width,
                "height": height,
                "neg_category_ids": [2],
                "not_exhaustive_category_ids": [],
            }
        )
        for class_id, (x, y, w, h) in objects:
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": class_id,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "segmentation": [polygon],
                }
            )
    content = {"images": images, "annotations": annotations, "categories": CLASSES}
    (folder / "val.json").write_text(json.dumps(content))
    return {"name": DATASET, "annotations": str(folder / "val.json"), "images": str(folder)}


def make_config(dataset: dict[str, str], **box_head) -> dict:
    """A config with what differs from the defaults."""
    return {
        "MODEL": {
            "ROI_HEADS": {"NUM_CLASSES": len(CLASSES)},
            "ROI_BOX_HEAD": {"PREDICTOR": "EQLPredictor", **box_head},
        },
        "DATASETS": {"TRAIN": ["made_up_train"], "TEST": [DATASET], "CUSTOM": [dataset]},
    }


def write_run(folder: Path, dataset: dict[str, str], weight: torch.Tensor | None = None, **box_head) -> Path:
    """Write a run's folder; ``weight`` is the classifier's, (num_logits, D)."""
    results = folder / "inference" / DATASET
    results.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(make_config(dataset, **box_head)))
    with open(folder / "class_gradients.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["category_id", "name", "frequency", "image_count", "classes/gradient_ratio"])
        writer.writerows((c["id"], c["name"], c["frequency"], c["image_count"], RATIOS[c["id"]]) for c in CLASSES)
    metrics = {"AP": 20.0, "APr": 10.0, "APc": 20.0, "APf": 30.0, "APl": float("nan")}
    lines = [
        {"iteration": 19, "total_loss": 4.0, "loss_cls": 2.0},
        {"iteration": 39, "total_loss": 3.0, "loss_cls": 1.5},
        {"iteration": 40, **{f"bbox/{name}": value for name, value in metrics.items()}},
    ]
    # The last line of a run that was killed while it wrote.
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)) + '\n{"iteration": 59, "tot')
    for task in ("bbox", "segm"):
        rows = [f"{c['id']},{c['frequency']},{AP.get(c['id'], 'nan')}" for c in CLASSES]
        (results / f"per_class_ap_{task}.csv").write_text("category_id,frequency,AP\n" + "\n".join(rows) + "\n")
    detections = [
        {"image_id": image_id, "category_id": class_id, "bbox": box, "score": score}
        for image_id, of_image in DETECTIONS.items()
        for class_id, box, score in of_image
    ]
    (results / "lvis_instances_results.json").write_text(json.dumps(detections))
    weight = torch.eye(len(CLASSES), 6) if weight is None else weight
    checkpoint = {
        "model": {"roi_heads.box_predictor.cls_score.weight": weight},
        "classes": {"num_images": NUM_IMAGES, "categories": CLASSES},
    }
    torch.save(checkpoint, folder / "model_final.pth")
    (folder / "last_checkpoint").write_text("model_final.pth")
    return folder


def ledger_entry(dataset: dict[str, str], **changes) -> dict:
    """A ledger entry of the same run."""
    column = [AP.get(c["id"]) for c in CLASSES]
    entry = {
        "version": 1,
        "name": "entry",
        "config_file": "configs/x.yaml",
        "config": make_config(dataset),
        "config_hash": "0" * 16,
        "git": None,
        "datasets": {"made_up_train": {"digest": "0", "num_images": NUM_IMAGES}},
        "seed": 3,
        "versions": {},
        "hardware": {"processes": 1},
        "started": "2020-01-01T00:00:00+00:00",
        "seconds": {"training": 90.0, "evaluation": 6.0},
        "peak_memory_mb": {"host": 1000.0, "gpu": None},
        "iterations": 40,
        "metrics": {DATASET: {"bbox": {"AP": 20.0, "APr": 10.0, "APc": 20.0, "APf": 30.0, "AP50": None}}},
        "class_ap": {DATASET: {"bbox": column, "segm": column}},
        "classes": CLASSES,
        "curve": {"iteration": [19, 39], "total_loss": [4.0, 3.0], "loss_cls": [2.0, 1.5]},
    }
    return {**entry, **changes}
