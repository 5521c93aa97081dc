"""Which image of an annotation file a picture is."""

import json

import pytest

from eql_d2.errors import UserError
from eql_d2.prediction.known_ids import KnownImages


@pytest.fixture
def known(tmp_path):
    """KnownImages of pictures below a folder, and a file with images of some names and ids."""

    def of(images, *pictures):
        path = tmp_path / "val.json"
        records = [{"id": i, "file_name": name, "width": 4, "height": 4} for i, name in images.items()]
        categories = [{"id": 9, "name": "bee"}, {"id": 2, "name": "ant"}]
        path.write_text(json.dumps({"images": records, "categories": categories, "annotations": []}))
        paths = [tmp_path / picture for picture in pictures]
        found = KnownImages(path, paths)
        found.named = {picture: found.ids.get(at) for picture, at in zip(pictures, paths, strict=True)}
        return found

    return of


def test_ids_by_the_longest_end(known):
    found = known({5: "a/1.jpg", 6: "b/1.jpg", 7: "2.jpg"}, "data/a/1.jpg", "data/b/1.jpg", "data/c/2.jpg")
    assert found.named == {"data/a/1.jpg": 5, "data/b/1.jpg": 6, "data/c/2.jpg": 7}
    assert found.remarks == []
    assert found.first_free_id == 8
    assert [category["name"] for category in found.categories] == ["ant", "bee"]


def test_pictures_without_an_image(known):
    found = known({5: "1.jpg"}, "1.jpg", "2.jpg", "3.jpg")
    assert found.named == {"1.jpg": 5, "2.jpg": None, "3.jpg": None}
    (remark,) = found.remarks
    assert remark.startswith("2 of 3 pictures have no image of their name in ")
    assert "numbered from 6 (the first: " in remark
    assert remark.endswith("2.jpg).")


def test_a_picture_that_could_be_two_images_is_neither(known):
    found = known({5: "a/1.jpg", 6: "b/1.jpg", 7: "2.jpg"}, "c/1.jpg", "2.jpg")
    assert found.named == {"c/1.jpg": None, "2.jpg": 7}
    assert found.remarks[0].startswith("1 of 2 pictures could be several images in ")


def test_no_id_is_given_twice(known):
    found = known({5: "a/1.jpg"}, "x/a/1.jpg", "y/1.jpg")
    assert found.named == {"x/a/1.jpg": 5, "y/1.jpg": None}  # the longer end has it
    assert found.remarks[0].startswith("1 of 2 pictures share an image with another picture in ")


def test_two_pictures_with_ends_as_long(known):
    found = known({5: "1.jpg", 6: "2.jpg"}, "x/1.jpg", "y/1.jpg", "2.jpg")
    assert found.named == {"x/1.jpg": None, "y/1.jpg": None, "2.jpg": 6}
    assert found.remarks[0].startswith("2 of 3 pictures share an image")


def test_annotations_of_other_pictures_are_refused(known):
    with pytest.raises(UserError, match=r"has no image whose path ends as that of a picture, such as .*x\.jpg; give"):
        known({5: "1.jpg"}, "x.jpg")
    with pytest.raises(UserError, match=r"such as .*1\.jpg"):
        known({5: "1.jpg"}, "x/1.jpg", "y/1.jpg")


def test_backslashes_and_a_file_without_images(known):
    assert known({5: r"C:\data\a\1.jpg"}, "a/1.jpg").named == {"a/1.jpg": 5}
    empty = known({})
    assert (empty.ids, empty.remarks, empty.first_free_id) == ({}, [], 1)
