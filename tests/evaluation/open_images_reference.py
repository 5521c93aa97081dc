"""The challenge's metric once more: slow, in plain loops over rows of the official CSV files, by its definition."""

import csv
import json
from collections import defaultdict


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def kinds_of(hierarchy):
    """Label → all labels below it, by walking from every node; "Part" is not followed."""
    below = defaultdict(set)

    def labels_in(node):
        found = set()
        for child in node.get("Subcategory", []):
            found |= {child["LabelName"]} | labels_in(child)
        below[node["LabelName"]] |= found
        return found

    labels_in(hierarchy)
    return below


def expanded_rows(boxes, labels, hierarchy):
    """The rows of both files, with those added that the hierarchy implies."""
    below = kinds_of(hierarchy)
    root = hierarchy["LabelName"]
    more_boxes = [
        {**row, "LabelName": parent}
        for row in boxes
        for parent in below
        if parent != root and row["LabelName"] in below[parent]
    ]
    more_labels = []
    for row in labels:
        for label in below:
            implied = row["LabelName"] in below[label] if row["Confidence"] == "1" else label in below[row["LabelName"]]
            if implied and label != root:
                more_labels.append({**row, "LabelName": label})
    return boxes + more_boxes, labels + more_labels


def overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def curve_points(detections, singles, groups):
    """[(score, true)] of one class in one image; detections are (score, box)."""
    detections = sorted(detections, key=lambda detection: -detection[0])
    taken, points, best_in_group = set(), [], {}
    for score, box in detections:
        ious = [overlap(box, single) / (area(box) + area(single) - overlap(box, single)) for single in singles]
        best = max(range(len(singles)), key=ious.__getitem__, default=None)
        if best is not None and ious[best] >= 0.5 and best not in taken:
            taken.add(best)
            points.append((score, True))
            continue
        shares = [overlap(box, group) / area(box) for group in groups]
        best = max(range(len(groups)), key=shares.__getitem__, default=None)
        if best is not None and shares[best] >= 0.5:
            best_in_group[best] = max(best_in_group.get(best, 0), score)
        else:
            points.append((score, False))
    return points + [(score, True) for score in best_in_group.values() if score > 0]


def average_precision(points, num_objects):
    """Area under the precision, made monotone, over the recall; of [(score, true)]."""
    points = sorted(points, key=lambda point: -point[0])
    recalls, precisions, hits = [], [], 0
    for number, (_, true) in enumerate(points, start=1):
        hits += true
        recalls.append(hits / num_objects)
        precisions.append(hits / number)
    total, before = 0.0, 0.0
    for place, recall in enumerate(recalls):
        if recall > before:
            total += (recall - before) * max(precisions[place:])
            before = recall
    return total


def reference_ap(boxes_csv, labels_csv, hierarchy_json, predictions):
    """AP of each class that has boxes.

    Args:
        predictions: [(ImageID, label, score, (xmin, ymin, xmax, ymax))], coordinates in [0, 1].

    Returns:
        {label: AP}.
    """
    boxes, labels = expanded_rows(rows_of(boxes_csv), rows_of(labels_csv), json.loads(hierarchy_json.read_text()))
    objects = defaultdict(lambda: ([], []))  # singles, groups
    num_objects = defaultdict(int)
    for row in boxes:
        box = tuple(float(row[name]) for name in ("XMin", "YMin", "XMax", "YMax"))
        objects[row["ImageID"], row["LabelName"]][row["IsGroupOf"] == "1"].append(box)
        num_objects[row["LabelName"]] += 1
    labelled = {(row["ImageID"], row["LabelName"]) for row in labels} | set(objects)
    detections = defaultdict(list)
    for image_id, label, score, box in predictions:
        if (image_id, label) in labelled and box[0] < box[2] and box[1] < box[3]:
            detections[image_id, label].append((score, box))
    points = defaultdict(list)
    for image_id, label in sorted(detections):  # equal scores: in the order of the images
        points[label] += curve_points(detections[image_id, label], *objects.get((image_id, label), ([], [])))
    return {label: average_precision(points[label], number) for label, number in num_objects.items()}


def read_predictions(path):
    """The predictions of a file in the challenge's form."""
    predictions = []
    for row in rows_of(path):
        words = row["PredictionString"].split()
        for start in range(0, len(words), 6):
            label, score, *box = words[start : start + 6]
            predictions.append((row["ImageID"], label, float(score), tuple(map(float, box))))
    return predictions
