"""Run an exported detector on one image, without eql_d2 and without Detectron2: python run_exported.py MODEL IMAGE."""

import json
import sys

import cv2
import numpy as np

model, image_file = sys.argv[1:]
with open(f"{model}.json") as file:
    about = json.load(file)
image = cv2.imread(image_file)  # BGR
height, width = image.shape[:2]
scale = min(about["shortest_side"] / min(height, width), about["longest_side"] / max(height, width))
size = int(width * scale + 0.5), int(height * scale + 0.5)
pixels = cv2.resize(image if about["channels"] == "BGR" else image[:, :, ::-1], size, interpolation=cv2.INTER_LINEAR)
pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
if about["format"] == "onnx":
    import onnxruntime

    boxes, scores, classes, *masks = onnxruntime.InferenceSession(model).run(None, {"image": pixels})
else:
    import torch
    import torchvision  # noqa: F401  (its operators are part of the file)

    with torch.no_grad():
        boxes, scores, classes, *masks = (output.numpy() for output in torch.jit.load(model)(torch.from_numpy(pixels)))
boxes = boxes * [width / size[0], height / size[1], width / size[0], height / size[1]]
for place, (box, score, index) in enumerate(zip(boxes, scores, classes, strict=True)):
    x0, y0, x1, y1 = (round(side) for side in box)
    line = f"{about['categories'][index]['name']} {score:.3f} at {x0} {y0} {x1} {y1}"
    if masks:  # probabilities inside of the box
        inside = cv2.resize(masks[0][place, 0], (max(x1 - x0, 1), max(y1 - y0, 1))) > 0.5
        line += f", mask of {inside.sum()} pixels"
    print(line)
