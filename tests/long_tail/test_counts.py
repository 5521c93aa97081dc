"""Category counts as values, and as records of a count file."""

import orjson
import pytest

from eql_d2.long_tail import CategoryCounts, FrequencyThresholds, read_count_file

RECORDS = [
    {"id": 30, "name": "bee", "image_count": 4, "instance_count": 9},
    {"id": 2, "name": "ant", "image_count": 50, "instance_count": 60},
    {"id": 7, "name": "cow", "image_count": 200, "instance_count": 200},
]


def test_a_count_file_in_any_order_gives_classes_in_the_order_of_their_ids(tmp_path):
    (tmp_path / "counts.json").write_bytes(orjson.dumps({"num_images": 1000, "categories": RECORDS}))
    counts = read_count_file(str(tmp_path / "counts.json"))
    assert counts == CategoryCounts((2, 7, 30), ("ant", "cow", "bee"), (50, 200, 4), (60, 200, 9), 1000)
    assert counts.frequency_groups == ("c", "f", "r")


def test_records_come_back():
    counts = CategoryCounts((2, 7), ("ant", "cow"), (50, 2), (60, 3), 1000)
    assert CategoryCounts.from_records(counts.to_records()) == counts
    assert counts.to_records()["categories"][1] == {
        "id": 7,
        "name": "cow",
        "image_count": 2,
        "instance_count": 3,
        "frequency": "r",
    }


@pytest.mark.parametrize(("rare", "common"), [(-1, 5), (6, 5)])
def test_thresholds_out_of_order_are_named(rare, common):
    with pytest.raises(ValueError, match=f"frequency thresholds are {rare} and {common} images"):
        FrequencyThresholds(rare, common)


def test_thresholds_at_the_edge_are_taken():
    assert [FrequencyThresholds(0, 0).letter(count) for count in (0, 1)] == ["r", "f"]
    assert [FrequencyThresholds(3, 3).letter(count) for count in (3, 4)] == ["r", "f"]
