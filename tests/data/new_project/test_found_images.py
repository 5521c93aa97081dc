"""Images of an export that are in another folder, or under other paths than its file says."""

import json

import pytest

from eql_d2.data.new_project import start_project
from eql_d2.data.new_project.found_images import find_images
from eql_d2.errors import UserError
from tests.data.small_set import make_content, write_picture


def write_export(folder, said, stored):
    """An export of four images whose paths and files are made of their numbers."""
    content = make_content(4)
    for number, image in enumerate(content["images"]):
        image["file_name"] = said.format(number)
        write_picture(folder / stored.format(number), seed=number)
    (folder / "result.json").write_text(json.dumps(content))
    return folder / "result.json"


@pytest.mark.parametrize(
    ("said", "stored", "folder"),
    [
        ("{}.jpg", "JPEGImages/{}.jpg", "JPEGImages"),
        ("images/{}.jpg", "images/{}.jpg", "."),
        ("{}.jpg", "images/default/{}.jpg", "images/default"),
    ],
)
def test_another_folder(tmp_path, said, stored, folder):
    project = start_project(write_export(tmp_path, said, stored).parent, None, tmp_path / "new", name="cats")
    assert project.check.sets[0].image_root.resolve() == (tmp_path / folder).resolve()
    assert not (tmp_path / "new" / "annotations.json").exists()


@pytest.mark.parametrize(
    ("said", "stored", "sentence"),
    [
        ("images\\{}.jpg", "images/{}.jpg", r"images\0.jpg as 0.jpg"),
        ("C:\\me\\a b {}.jpg", "images/a b {}.jpg", r"C:\me\a b 0.jpg as a b 0.jpg"),
        ("../../label-studio/data/media/upload/4/1a2b3c4d-{}.jpg", "images/1a2b3c4d-{}.jpg", "as 1a2b3c4d-0.jpg"),
        ("/data/upload/4/1a2b3c4d-{}.jpg", "images/{}.jpg", "as 0.jpg"),
    ],
)
def test_paths_of_another_machine(tmp_path, said, stored, sentence):
    file = write_export(tmp_path, said, stored)
    before = file.read_text()
    project = start_project(tmp_path, None, tmp_path / "new", name="cats")
    assert "4 of 4 paths of images are written as they are in" in project.sentences[0]
    assert sentence.replace("\\\\", "\\") in project.sentences[0]
    assert file.read_text() == before
    content = json.loads((tmp_path / "new" / "annotations.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [stored.format(n).split("/")[-1] for n in range(4)]
    assert [image["id"] for image in content["images"]] == [10, 11, 12, 13]


def test_nothing_is_guessed_where_images_are_missing_or_would_be_taken_twice(tmp_path):
    file = write_export(tmp_path, "a\\{}.jpg", "images/{}.jpg")
    (tmp_path / "images" / "2.jpg").unlink()
    assert find_images(file, tmp_path / "images", tmp_path / "new.json") == (file, tmp_path / "images", "")
    with pytest.raises(UserError, match=r"image a\\0\.jpg is not in the image folder .*, but 0\.jpg is there"):
        start_project(tmp_path, None, tmp_path / "new")
    content = json.loads(write_export(tmp_path, "a\\{}.jpg", "images/{}.jpg").read_text())
    content["images"][1]["file_name"] = "b\\0.jpg"
    file.write_text(json.dumps(content))
    assert find_images(file, tmp_path / "images", tmp_path / "new.json") == (file, tmp_path / "images", "")
