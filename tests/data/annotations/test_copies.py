"""Objects that a file has twice, told with the first of them."""

import numpy as np

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.copies import find_copies
from tests.data.small_set import make_content, write_set


def test_copies_are_those_of_a_double_loop():
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 3, 60).astype(np.uint64), rng.integers(0, 4, 60), rng.integers(0, 3, 60) / 4]
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    expected = [i for i, row in enumerate(rows) if row in rows[:i]]
    first, copies = find_copies(columns)
    assert copies.tolist() == expected
    assert [rows[i] for i in first] == [rows[i] for i in expected]
    assert (first < copies).all()
    assert find_copies([np.zeros(0, np.uint64)])[1].tolist() == []


def test_an_object_that_is_there_twice(tmp_path):
    content = make_content()
    again = [{**content["annotations"][place], "id": 200 + place} for place in (2, 1)]
    other_class = {**content["annotations"][0], "id": 300, "category_id": 5}
    moved = {**content["annotations"][0], "id": 301, "bbox": [4, 4, 8, 9]}
    crowds = [{**content["annotations"][3], "id": 302 + n, "iscrowd": 1} for n in range(2)]
    content["annotations"] += [*again, other_class, moved, *crowds]
    found = [f for f in open_annotations(write_set(tmp_path, "a.json", content)).findings if "twice" in f.kind]
    assert [(f.level, f.count) for f in found] == [("remark", 2)]
    assert found[0].sentence.startswith("annotation 202 of image 12 has class and box of annotation 102 of image 12")
