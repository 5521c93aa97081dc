"""Where images lie: LVIS's rules for LVIS only, hints for what is not found, no way out of the folder."""

import json
import unicodedata
from pathlib import Path

import pytest

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.image_paths import PathEnds, candidate_paths, image_paths, leaves, missing_images, path_of
from eql_d2.data.annotations.lvis_format import load_lvis_format
from eql_d2.errors import UserError

URL = "http://images.cocodataset.org/val2017/000000000007.jpg"


@pytest.mark.parametrize(
    ("image", "federated", "expected"),
    [
        ({"file_name": "a.jpg", "coco_url": URL}, False, ["a.jpg"]),
        ({"coco_url": URL}, False, ["val2017/000000000007.jpg"]),
        ({"file_name": "COCO_val2014_000000000007.jpg"}, False, ["COCO_val2014_000000000007.jpg"]),
        ({"coco_url": URL}, True, ["val2017/000000000007.jpg"]),
        (
            {"file_name": "COCO_val2014_000000000007.jpg", "coco_url": URL},
            True,
            ["COCO_val2014_000000000007.jpg", "000000000007.jpg", "val2017/000000000007.jpg"],
        ),
        ({"file_name": "COCONUT_train_000.jpg"}, True, ["COCONUT_train_000.jpg"]),
    ],
)
def test_candidates(image, federated, expected):
    assert candidate_paths(image, federated) == expected


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ((), "val2017/000000000007.jpg"),
        (("000000000007.jpg",), "000000000007.jpg"),
        (("000000000007.jpg", "COCO_val2014_000000000007.jpg"), "COCO_val2014_000000000007.jpg"),
    ],
)
def test_the_path_of_one_image(tmp_path, there, expected):
    for name in there:
        (tmp_path / name).touch()
    image = {"file_name": "COCO_val2014_000000000007.jpg", "coco_url": URL}
    assert path_of(image, True, tmp_path) == expected


def write(folder, file_names, federated=False):
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []} if federated else {}
    content = {
        "images": [{"id": i, "file_name": name, "width": 9, "height": 9, **lists} for i, name in enumerate(file_names)],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 2, 2], "area": 4}],
        "categories": [{"id": 1, "name": "ant"}],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return open_annotations(path)


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_the_whole_name_comes_first_where_it_leads_to_a_file(tmp_path):
    names = [f"COCO_val2014_00000000000{i}.jpg" for i in range(3)]
    annotations = write(tmp_path, names, federated=True)
    touch(tmp_path / names[0], tmp_path / names[1][-16:])
    expected = [names[0], names[1][-16:], names[2][-16:]]
    assert image_paths(annotations, tmp_path) == expected
    records = [annotations.image_record(index) for index in range(3)]
    assert [path_of(record, True, tmp_path) for record in records] == expected


@pytest.mark.parametrize(
    ("name", "there", "hint"),
    [
        ("images\\a.jpg", "images/a.jpg", "but images/a.jpg is there: write file_name with / instead of \\"),
        ("../../label-studio/media/upload/4/a.jpg", "a.jpg", "but a.jpg is there: leave out what stands before it"),
        ("/data/upload/4/a.jpg", "a.jpg", "but a.jpg is there: leave out what stands before it"),
        ("C:\\photos\\a.jpg", "a.jpg", "but a.jpg is there: leave out what stands before it"),
        ("3f2a9c01-a.jpg", "a.jpg", "but a.jpg is there: leave out the prefix of the upload"),
        ("my%20dog.jpg", "my dog.jpg", "but my dog.jpg is there: write file_name without the %-codes"),
        ("a.jpg", "x/y/a.jpg", f"but {Path('x/y/a.jpg')} is there, the only one of that name below it"),
        ("a.JPG", "x/y/a.jpg", "but x/y/a.jpg is there, the only one of that name"),
        ("a", "x/y/a.jpg", "but x/y/a.jpg is there, the only one of that name"),
        (unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.jpg"), "in the Unicode form NFD"),
    ],
)
def test_the_sentence_says_what_was_found_where(tmp_path, name, there, hint):
    folder = tmp_path / "pictures"
    touch(folder / there)
    finding = missing_images(write(tmp_path, [name]), folder)
    assert f"image {name} is not in the image folder {folder}, {hint}" in finding.sentence or (
        finding.sentence.startswith(f"image {name} is not in") and hint in finding.sentence
    )


def test_nothing_is_guessed_of_two_files_of_one_name(tmp_path):
    touch(tmp_path / "x" / "q" / "a.jpg", tmp_path / "y" / "q" / "a.jpg")
    finding = missing_images(write(tmp_path, ["a.jpg"]), tmp_path)
    assert "but 2 files of that name lie below it" in finding.sentence


def test_no_way_out_of_the_folder_unless_allowed(tmp_path):
    touch(tmp_path / "a.jpg", tmp_path / "images" / "b.jpg", tmp_path / "images" / "x" / "c.jpg")
    for name in ("../a.jpg", str(tmp_path / "a.jpg"), "x/../../a.jpg"):
        write(tmp_path, [name])
        with pytest.raises(UserError, match=r"lies outside the image folder .*DATASETS.IMAGES_OUTSIDE True"):
            load_lvis_format(tmp_path / "annotations.json", tmp_path / "images", federated=False)
        dataset = load_lvis_format(
            tmp_path / "annotations.json", tmp_path / "images", federated=False, images_outside=True
        )
        assert Path(dataset[0]["file_name"]).is_file()
    assert not leaves("x/../b.jpg", tmp_path / "images")
    assert not leaves(str(tmp_path / "images" / "b.jpg"), tmp_path / "images")
    assert not leaves("a..b.jpg", tmp_path / "images")


def test_ends_of_paths(tmp_path):
    annotations = write(tmp_path, ["a/1.jpg", "b/1.jpg", "2.jpg"])
    ends = PathEnds(annotations)
    assert ends.find(Path("/photos/a/1.jpg")) == (2, {0})
    assert ends.find(Path("/photos/b/1.jpg")) == (2, {1})
    assert ends.find(Path("/photos/c/1.jpg")) == (1, {0, 1})
    assert ends.find(Path("/photos/c/2.jpg")) == (1, {2})
    assert ends.find(Path("/photos/12.jpg")) == (0, set())
