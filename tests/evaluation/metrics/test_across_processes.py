"""Engines that collect on the first process: shares of the images give what all of them give on one."""

import pytest
import torch
from detectron2.utils import comm

from eql_d2.evaluation.metrics.boundary_ap import BoundaryEngine
from eql_d2.evaluation.metrics.fixed_ap import FixedAP
from eql_d2.evaluation.metrics.ground_truth import GroundTruth
from tests.evaluation.made_up import fresh, made_up, of_image


def engine_of(name, ground_truth):
    return BoundaryEngine(ground_truth) if name == "boundary" else FixedAP(ground_truth, "bbox", limit=4, buffer=5)


def evaluate_share(content, results, names, path):
    """Every second image; saves the metrics of this process."""
    metrics = {}
    for name in names:
        ground_truth = GroundTruth(fresh(content), "made_up.json")
        engine = engine_of(name, ground_truth)
        for image_id in list(ground_truth.images)[comm.get_rank() :: comm.get_world_size()]:
            found = of_image(results, image_id)
            engine.update(ground_truth.images[image_id], ground_truth.annotations(image_id), found)
        metrics[name] = engine.metrics(distributed=comm.get_world_size() > 1)
    torch.save(metrics, f"{path}_{comm.get_rank()}.pth")


def test_two_processes_equal_one(tmp_path, two_processes):
    names = ["fixed"]
    try:
        import vernier  # noqa: F401

        names.append("boundary")
    except ImportError:
        pass
    content, results = made_up(seed=12)
    evaluate_share(content, results, names, tmp_path / "one")
    two_processes(evaluate_share, content, results, names, tmp_path / "two")
    one, first, second = (torch.load(tmp_path / f"{n}.pth", weights_only=False) for n in ("one_0", "two_0", "two_1"))
    assert second == dict.fromkeys(names)
    for name in names:
        assert first[name][0] == pytest.approx(one[name][0], abs=1e-12, nan_ok=True)
        assert 0 < one[name][0]["AP"] < 1
        assert first[name][1] == pytest.approx(one[name][1], abs=1e-12, nan_ok=True)
