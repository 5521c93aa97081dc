"""Fractal dimensions against a plain count of cells, of shapes whose dimension is known, and of datasets."""

import math

import numpy as np
import orjson
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from eql_d2.data import fractal_dimension
from eql_d2.data import fractal_dimensions as module
from eql_d2.data.registration import register_lvis_format
from eql_d2.errors import UserError

RANDOM = np.random.default_rng(0)


def dimension_by_loop(points):
    """The definition: cells compared one by one, and a line fitted by numpy."""
    if len(points) < 4:
        return 1.0
    x, y = [], []
    for size in range(1, 65):
        if size * size > len(points):
            break
        step, cells = 1 / size, 0
        for i in range(size):
            for j in range(size):
                cells += any(i * step <= a < (i + 1) * step and j * step <= b < (j + 1) * step for a, b in points)
        x.append(math.log(size))
        y.append(math.log(cells))
    return max(np.polyfit(x, y, 1)[0], 1.0)


@pytest.mark.parametrize("number", [0, 3, 4, 9, 40, 150])
def test_equals_the_loop(number):
    points = RANDOM.random((number, 2)) ** 2
    assert fractal_dimension(points) == pytest.approx(dimension_by_loop(points.tolist()), rel=1e-9)


def test_borders_belong_to_the_upper_cell_and_what_lies_outside_to_none():
    points = [
        [0.5, 0.5],
        [1 / 3, 2 / 3],
        [0.0, 0.75],
        [1.0, 0.5],
        [-0.1, 0.2],
        [0.25, 0.25],
        [0.9, 0.9],
        [0.1, 0.6],
        [2, 3],
    ]
    assert fractal_dimension(points) == pytest.approx(dimension_by_loop(points), rel=1e-9)


def test_a_square_a_line_and_a_point():
    grid = (np.arange(128) + 0.5) / 128
    assert fractal_dimension(np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)) == pytest.approx(2)
    line = np.stack([np.linspace(0, 1, 5000, endpoint=False), np.full(5000, 0.3)], 1)
    assert fractal_dimension(line) == pytest.approx(1)
    assert fractal_dimension([[0.3, 0.3]] * 50) == 1


def test_classes_of_a_dataset_are_counted_once(tiny_cfg, monkeypatch):
    records = list(DatasetCatalog.get("tiny_train"))
    expected = []
    for c in range(6):
        boxes = [
            (np.array(BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS)), r["width"], r["height"])
            for r in records
            for a in r["annotations"]
            if a["category_id"] == c
        ]
        expected.append(dimension_by_loop([((b[0] + b[2]) / 2 / w, (b[1] + b[3]) / 2 / h) for b, w, h in boxes]))
    module.fractal_dimensions.cache_clear()
    assert module.fractal_dimensions(("tiny_train",), 6) == pytest.approx(expected, rel=1e-9)
    # From the file in another process.
    module.fractal_dimensions.cache_clear()
    monkeypatch.setattr(module, "_centres", lambda *arguments: pytest.fail("counted again"))
    assert module.fractal_dimensions(("tiny_train",), 6) == pytest.approx(expected)
    module.fractal_dimensions.cache_clear()


@pytest.fixture
def own_set(tmp_path):
    """Registers images with the given boxes of one class."""
    names = []

    def register(boxes):
        name = f"fractal_{len(names)}"
        image = {"id": 1, "width": 10, "height": 10, "file_name": "a.jpg"}
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        annotations = [{"id": i, "image_id": 1, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)]
        path = tmp_path / f"{tmp_path.name}.json"
        content = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
        path.write_bytes(orjson.dumps(content))
        if name not in DatasetCatalog:
            register_lvis_format(name, path, tmp_path)
        names.append(name)
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_a_changed_or_damaged_file_is_counted_anew(own_set):
    corners = [[0, 0, 2, 2], [8, 0, 2, 2], [0, 8, 2, 2], [8, 8, 2, 2]]
    first = module.fractal_dimensions((own_set(corners),), 1)
    assert first == pytest.approx((2.0,))
    kept = next(path for path in module._caches(("fractal_0",), 1)[0] if path.exists())
    second = module.fractal_dimensions((own_set([[0, 0, 2, 2]] * 4),), 1)
    assert second == (1.0,)
    kept.write_text("{")
    module.fractal_dimensions.cache_clear()
    assert module.fractal_dimensions(("fractal_1",), 1) == (1.0,)


def test_an_annotation_without_a_box_is_named():
    record = {"image_id": 7, "width": 4, "height": 4, "annotations": [{"category_id": 0}]}
    DatasetCatalog.register("without_boxes", lambda: [record])
    try:
        with pytest.raises(UserError, match="image 7 of without_boxes has an annotation without bbox"):
            module.fractal_dimensions(("without_boxes",), 1)
    finally:
        DatasetCatalog.remove("without_boxes")
        MetadataCatalog.remove("without_boxes")


def test_an_unknown_dataset_is_named():
    with pytest.raises(UserError, match="Dataset 'no_such' is not registered"):
        module.fractal_dimensions(("no_such",), 1)
