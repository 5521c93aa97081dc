"""Made-up annotation files and results, small and full of what evaluations stumble over: ties, duplicates, misses."""

import numpy as np
import pycocotools.mask as mask_utils

from eql_d2.evaluation.metrics.evaluation import Evaluation
from eql_d2.evaluation.metrics.ground_truth import GroundTruth
from eql_d2.evaluation.metrics.references import run_official_evaluation

SIDE = 200
SHAPES = {"bbox": "bbox", "segm": "segmentation"}


def rectangle(x, y, width, height):
    """Polygon of a box."""
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def compressed(polygon):
    """Run lengths of a polygon as a results file has them."""
    run_lengths = mask_utils.frPyObjects([polygon], SIDE, SIDE)[0]
    return {"size": [SIDE, SIDE], "counts": run_lengths["counts"].decode()}


def made_up(seed=0, num_images=10, num_classes=6, results_per_object=3):
    """Content of an LVIS-format file, and a list of results with boxes and masks (triangles, half of the box)."""
    rng = np.random.default_rng(seed)
    images, annotations, results = [], [], []
    for image_id in range(1, num_images + 1):
        first, *present, other = rng.permutation(num_classes)[:5] + 1
        images.append(
            {
                "id": image_id,
                "height": SIDE,
                "width": SIDE,
                "neg_category_ids": [int(first)],
                "not_exhaustive_category_ids": [int(present[0])],
            }
        )
        for category_id in map(int, present):
            for _ in range(rng.integers(1, 4)):
                box = [*map(float, rng.integers(0, 90, 2)), *map(float, rng.integers(4, 110, 2))]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": category_id,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "segmentation": [rectangle(*box)],
                    }
                )
                for _ in range(rng.integers(0, results_per_object + 1)):
                    x, y, width, height = np.maximum(np.array(box) + rng.integers(-3, 4, 4), [0, 0, 1, 1]).tolist()
                    wrong = rng.random() < 0.2
                    results.append(
                        {
                            "image_id": image_id,
                            "category_id": int(rng.choice([first, other])) if wrong else category_id,
                            "bbox": [x, y, width, height],
                            "segmentation": compressed(rectangle(x, y, width, height)),
                            "score": float(rng.integers(1, 8) / 8),
                        }
                    )
    categories = [{"id": k, "name": f"class {k}", "frequency": "rcf"[k % 3]} for k in range(1, num_classes + 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def fresh(content):
    """A copy that may be changed."""
    return {key: [dict(record) for record in records] for key, records in content.items()}


def as_coco(content):
    """The same annotations in COCO's format: neither federated labels nor frequencies."""
    content = fresh(content)
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for category in content["categories"]:
        del category["frequency"]
    return content


def of_image(results, image_id):
    """The results of one image."""
    return [dict(result) for result in results if result["image_id"] == image_id]


def evaluate_content(content, results, task, rules="lvis", **options):
    """TaskMetrics of our evaluation."""
    ground_truth = GroundTruth(fresh(content), "made_up.json", rules)
    evaluation = Evaluation(ground_truth, (task,), **options)
    for image in content["images"]:
        evaluation.add_image(image["id"], of_image(results, image["id"]))
    return evaluation.compute()[task]


def official(content, results, task, max_dets=300):
    """Percentages of the official package by itself, given nothing but the task's shape."""
    other = {"bbox": "segmentation", "segm": "bbox"}[task]
    results = [{key: value for key, value in result.items() if key != other} for result in results]
    evaluation = run_official_evaluation(fresh(content), results, task, max_dets)
    return {name: 100 * value if value >= 0 else float("nan") for name, value in evaluation.get_results().items()}
