"""Records that stand twice in an annotation file: the last one stands for all, as in the official tools."""

import pytest

from eql_d2.data.annotations.lvis_format import load_lvis_format
from tests.data.small_set import make_content, write_set


@pytest.fixture
def read(tmp_path):
    """The dataset of some content, in spite of its defects."""

    def write_and_read(content):
        path = write_set(tmp_path, "train.json", content)
        return load_lvis_format(path, tmp_path, federated=False, ignore_defects=True)

    return write_and_read


def test_the_last_image_of_an_id_stands(read, tmp_path):
    content = make_content(2)
    content["images"].append({**content["images"][0], "file_name": "photos/other.jpg"})
    assert [item["file_name"] for item in read(content)] == [
        str(tmp_path / "photos" / name) for name in ("other.jpg", "001.jpg")
    ]


def test_the_last_annotation_of_an_id_stands(read):
    content = make_content(2)
    content["annotations"].append({**content["annotations"][0], "bbox": [5, 5, 7, 7], "area": 49})
    assert [item["annotations"][0]["bbox"] for item in read(content)] == [[5, 5, 7, 7], [4, 4, 8, 8]]
    assert [len(item["annotations"]) for item in read(content)] == [1, 1]


def test_the_last_category_of_an_id_stands(read):
    content = make_content(2)
    content["categories"].append({"id": 5, "name": "wolf"})
    dataset = read(content)
    assert [record["name"] for record in dataset.packed.category_records] == ["cat", "wolf"]
    assert dataset[1]["annotations"][0]["category_id"] == 1
