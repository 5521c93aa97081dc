"""Parts of a dataset by image ids: the same images and annotations, made once, and what is wrong with files is told."""

import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from eql_d2.data.image_ids import ensure_part, part_file
from eql_d2.data.registration import register_custom_datasets, register_lvis_format
from eql_d2.errors import UserError


@pytest.fixture
def val(tiny_set):
    return tiny_set / "val.json"


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_a_part_is_that_of_its_ids(tiny_cfg, tiny_set, val, tmp_path):
    whole = json.loads(val.read_text())
    kept = [image["id"] for image in whole["images"]][2:9:3]
    ids = write(tmp_path / "ids.json", kept)
    tiny_cfg.DATASETS.CUSTOM = [
        {"name": "part", "annotations": str(val), "images": str(tiny_set), "image_ids": str(ids)}
    ]
    register_custom_datasets(tiny_cfg)
    records = DatasetCatalog.get("part")
    assert [record["image_id"] for record in records] == sorted(kept)
    part = json.loads(Path(MetadataCatalog.get("part").json_file).read_text())
    assert part["categories"] == whole["categories"]
    assert part["annotations"] == [a for a in whole["annotations"] if a["image_id"] in kept]
    # Its images in an annotation file say the same.
    again = write(tmp_path / "minival.json", {"images": [image for image in whole["images"] if image["id"] in kept]})
    assert json.loads(ensure_part(val, again).read_text())["annotations"] == part["annotations"]


def test_it_is_made_anew_only_when_a_file_changes(val, tmp_path):
    first, second = (image["id"] for image in json.loads(val.read_text())["images"][:2])
    ids = write(tmp_path / "some.json", [first])
    made = ensure_part(val, ids)
    time = made.stat().st_mtime_ns
    assert ensure_part(val, ids).stat().st_mtime_ns == time
    write(ids, [first, second])
    assert [image["id"] for image in json.loads(ensure_part(val, ids).read_text())["images"]] == [first, second]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[1, 987654321]", r"has the image id 987654321 and 0 others that .*val\.json has not"),
        ('["a"]', "are no JSON list of whole numbers, and no annotation file with images"),
        ("[]", "are no JSON list of whole numbers"),
        ('{"categories": []}', "are no JSON list of whole numbers"),
        ("1, 2", r"ids\.json is not valid JSON"),
    ],
)
def test_mistakes_are_told(val, tmp_path, content, sentence):
    first = json.loads(val.read_text())["images"][0]["id"]
    ids = tmp_path / "ids.json"
    ids.write_text(content.replace("1, 9", f"{first}, 9"))
    with pytest.raises(UserError, match=sentence):
        ensure_part(val, ids)


def test_minival_needs_its_list_of_ids(val, tmp_path, tiny_set):
    """LVIS's minival is registered in the same way, and its list is the user's to put there."""
    metadata = MetadataCatalog.get("lvis_v1_minival")
    assert metadata.json_file.endswith("lvis_v1_minival_ids.json")
    assert "lvis_v1_train" in metadata.category_counts_file
    missing = tmp_path / "minival_ids.json"
    register_lvis_format("mine", part_file(val, missing), tiny_set, prepare=lambda: ensure_part(val, missing))
    with pytest.raises(UserError, match=r"^Image ids .*minival_ids\.json do not exist; put a JSON list of the ids"):
        DatasetCatalog.get("mine")
