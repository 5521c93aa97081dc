"""The engines by themselves, on a case that tells mask areas from box areas."""

import pytest
from pycocotools import mask as mask_utils

from eql_d2.evaluation.metrics.evaluation import ENGINES
from eql_d2.evaluation.metrics.ground_truth import GroundTruth

SQUARE = [50.0, 50.0, 90.0, 50.0, 90.0, 90.0, 50.0, 90.0]  # 1600 pixels: a medium object
TRIANGLE = [0.0, 0.0, 44.0, 0.0, 0.0, 44.0]  # about 970 pixels, a small object in a box of 1936, a medium one


def make_result(polygon, box, score):
    run_lengths = mask_utils.frPyObjects([polygon], 100, 100)[0]
    segmentation = {**run_lengths, "counts": run_lengths["counts"].decode()}
    return {"image_id": 1, "category_id": 1, "score": score, "segmentation": segmentation, "bbox": box}


@pytest.mark.parametrize("engine", ENGINES["lvis"])
def test_areas_of_masks_are_not_those_of_their_boxes(engine):
    if engine == "lvis":
        pytest.importorskip("lvis")
    image = {"id": 1, "width": 100, "height": 100, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    shape = {"bbox": [50.0, 50.0, 40.0, 40.0], "area": 1600.0, "segmentation": [SQUARE]}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, **shape}
    category = {"id": 1, "name": "thing", "frequency": "f", "image_count": 200, "instance_count": 200}
    content = {"images": [image], "annotations": [annotation], "categories": [category]}
    truth = GroundTruth(content, "by hand")
    results = [make_result(SQUARE, shape["bbox"], 0.5), make_result(TRIANGLE, [0.0, 0.0, 44.0, 44.0], 0.9)]
    ap_of_medium = {}
    for task in ("bbox", "segm"):
        evaluation = ENGINES["lvis"][engine](truth, task)
        evaluation.update(image, [annotation], results)
        ap_of_medium[task] = evaluation.metrics(distributed=False)[0]["APm"]
    # As a mask the wrong detection is small, and does not count among medium objects; as a box it does.
    assert ap_of_medium["segm"] == pytest.approx(1)
    assert ap_of_medium["bbox"] == pytest.approx(0.5, abs=0.01)
