"""Results of two images of 100 x 100 and three classes, for ensembles that can be worked out by hand."""

import pycocotools.mask as mask_utils

BOX, NEAR, ELSEWHERE = [10, 10, 20, 20], [10, 10, 20, 16], [60, 60, 20, 20]  # BOX and NEAR overlap by 0.8
ANT, BEE, COW = 5, 8, 9  # frequent, rare, rare


def result(score, box=BOX, category=ANT, image=1):
    return {"image_id": image, "category_id": category, "score": score, "bbox": box}


def with_mask(entry, rows):
    """A result with a mask of the first rows of its box, as run lengths of an image of 100 x 100."""
    x, y, width, _ = entry["bbox"]
    polygon = [x, y, x + width, y, x + width, y + rows, x, y + rows]
    mask = mask_utils.merge(mask_utils.frPyObjects([polygon], 100, 100))
    return {**entry, "segmentation": {"size": [100, 100], "counts": mask["counts"].decode()}}
