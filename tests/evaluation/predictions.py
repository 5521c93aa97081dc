"""Made-up predictions for tests of the evaluation: the ground truth with noise of every kind."""

from collections import defaultdict

import numpy as np
import orjson
import pycocotools.mask as mask_utils
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from eql_d2.evaluation import LVISEvaluator

TASKS = ("bbox", "segm")


def read_ground_truth(dataset_name):
    """Parsed annotation file of a registered dataset."""
    with open(MetadataCatalog.get(dataset_name).json_file, "rb") as file:
        return orjson.loads(file.read())


def decode(segmentation, height, width):
    """(H, W) mask of polygons or run lengths."""
    if isinstance(segmentation, list):
        return mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))).astype(bool)
    if isinstance(segmentation["counts"], list):
        segmentation = mask_utils.frPyObjects(segmentation, height, width)
    return mask_utils.decode(segmentation).astype(bool)


def make_instances(image, detections):
    """Detectron2's Instances of (class index, score, box XYWH, mask or None) tuples."""
    instances = Instances((image["height"], image["width"]))
    boxes = torch.tensor(np.array([box for _, _, box, _ in detections]), dtype=torch.float32).reshape(-1, 4)
    instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
    instances.scores = torch.tensor([score for _, score, _, _ in detections], dtype=torch.float32)
    instances.pred_classes = torch.tensor([c for c, _, _, _ in detections], dtype=torch.int64)
    masks = [mask for _, _, _, mask in detections if mask is not None]
    if len(masks) == len(detections):
        shape = (-1, image["height"], image["width"])
        instances.pred_masks = torch.from_numpy(np.array(masks, dtype=bool).reshape(shape))
    return instances


def ground_truth_as_predictions(dataset_name):
    """[(dataset dict, Instances)] that repeat the annotations with score 1."""
    truth, annotations, class_of = _indexed(dataset_name)
    predictions = []
    for image in truth["images"]:
        size = image["height"], image["width"]
        detections = [
            (class_of[a["category_id"]], 1.0, a["bbox"], decode(a["segmentation"], *size))
            for a in annotations[image["id"]]
        ]
        predictions.append(({"image_id": image["id"]}, make_instances(image, detections)))
    return predictions


def noisy_predictions(dataset_name, seed=0, crowded_images=1):
    """[(dataset dict, Instances)] with jitter, wrong classes, ties, duplicates, empty and overfull images."""
    rng = np.random.default_rng(seed)
    truth, annotations, class_of = _indexed(dataset_name)
    predictions = []
    for number, image in enumerate(truth["images"]):
        size = image["height"], image["width"]
        labelled = [class_of[c] for c in image["neg_category_ids"] + image["not_exhaustive_category_ids"]]
        detections = []
        copies = 1 if number >= crowded_images else 320 // max(len(annotations[image["id"]]), 1) + 1
        for annotation in annotations[image["id"]] * copies:
            mask = decode(annotation["segmentation"], *size)
            for _ in range(rng.integers(0, 4) if copies == 1 else 1):
                shift = rng.integers(-3, 4, 2)
                box = np.array(annotation["bbox"]) * rng.choice([1.0, 0.97, 0.8], 4)
                wrong = rng.random() < 0.25
                class_index = rng.choice(labelled or [0]) if wrong else class_of[annotation["category_id"]]
                score = rng.choice([0.1, 0.3, 0.3001, 0.5, 0.9])  # many ties
                detections.append((int(class_index), score, box, np.roll(mask, shift, axis=(0, 1))))
        if number % 5 == 4:
            detections = []
        predictions.append(({"image_id": image["id"]}, make_instances(image, detections)))
    return predictions


def _indexed(dataset_name):
    truth = read_ground_truth(dataset_name)
    annotations = defaultdict(list)
    for annotation in truth["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    return truth, annotations, {c: i for i, c in enumerate(sorted(c["id"] for c in truth["categories"]))}


def evaluate(dataset_name, predictions, tasks=TASKS, distributed=False, **options):
    """Metrics of predictions in our evaluator."""
    assert dataset_name in DatasetCatalog.list()
    evaluator = LVISEvaluator(dataset_name, tasks, distributed, **options)
    for dataset_dict, instances in predictions:
        evaluator.process([dataset_dict], [{"instances": instances}])
    return evaluator.evaluate()
