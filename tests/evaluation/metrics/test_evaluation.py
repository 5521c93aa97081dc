"""The evaluation in progress: which results count."""

import pytest

from tests.evaluation.made_up import compressed, evaluate_content, made_up, rectangle


def crowd(number):
    """Content of one object, and results of two classes that miss it, all but the last and worst."""
    content, _ = made_up(num_images=1)
    content["annotations"] = [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [10.0, 10.0, 40.0, 40.0],
            "area": 1600.0,
            "segmentation": [rectangle(10, 10, 40, 40)],
        }
    ]
    boxes = [(0.5, (100, 100, 40, 40), 1 + index % 2) for index in range(number - 1)] + [(0.25, (10, 10, 40, 40), 1)]
    return content, [
        {
            "image_id": 1,
            "category_id": category_id,
            "score": score,
            "bbox": list(map(float, box)),
            "segmentation": compressed(rectangle(*box)),
        }
        for score, box, category_id in boxes
    ]


@pytest.mark.parametrize(("task", "engine"), [("bbox", "hotcoco"), ("bbox", "lvis"), ("boundary", "hotcoco")])
def test_no_more_than_300_results_of_an_image_count(task, engine):
    """... over all classes, though the model may be allowed more; fewer may count."""
    package = "vernier" if task == "boundary" else engine
    pytest.importorskip(package)
    for number, limit, found in ((301, 1000, False), (300, 1000, True), (12, 11, False), (11, 11, True)):
        metrics = evaluate_content(*crowd(number), task, engine=engine, max_dets=limit)
        assert (metrics.values["AP50"] > 0) == found, (number, limit)
