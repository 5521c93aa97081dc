"""What the losses' plain loops share: numbers one at a time, in Python's own floats."""

import math

import torch


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def binary(z, target):
    """Binary cross-entropy of a logit by its definition."""
    return -(target * math.log(sigmoid(z)) + (1 - target) * math.log(sigmoid(-z)))


def softmax(row):
    total = sum(math.exp(z) for z in row)
    return [math.exp(z) / total for z in row]


def make_batch(width, num_classes, seed=0, rows=12, scale=2.0):
    """float64 logits and classes; the first row of class 0, the second of background."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, width, generator=generator, dtype=torch.float64) * scale
    gt_classes = torch.randint(0, num_classes + 1, (rows,), generator=generator)
    gt_classes[0], gt_classes[1] = 0, num_classes
    return logits, gt_classes


def numeric_gradient(function, logits, step=1e-5):
    """Central differences of a function of nested lists by each logit."""
    rows = logits.tolist()
    gradient = torch.zeros_like(logits)
    for i, row in enumerate(rows):
        for j, z in enumerate(row):
            row[j] = z + step
            above = function(rows)
            row[j] = z - step
            gradient[i, j] = (above - function(rows)) / (2 * step)
            row[j] = z
    return gradient
