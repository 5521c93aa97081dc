"""Exports whose images are in another folder or under other paths, and validation sets with classes of their own."""

import json

import pytest

from eql_d2.data.new_project import start_project
from eql_d2.data.new_project.repairs import find_images
from eql_d2.errors import UserError
from tests.data.small_set import make_content, write_picture, write_set


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


def write_validation(folder, classes, of_annotations):
    """A validation set with classes {name: id} of its own."""
    content = make_content(2, first=4)
    content["categories"] = [{"id": number, "name": name} for name, number in classes.items()]
    for annotation, name in zip(content["annotations"], of_annotations, strict=True):
        annotation["category_id"] = classes[name]
    return write_set(folder, "val.json", content)


@pytest.mark.parametrize("classes", [{"cat": 1, "dog": 2}, {"dog": 3, "cat": 5}, {"dog": 5}])
def test_classes_of_a_validation_set_are_matched_by_name(tmp_path, classes):
    train = write_set(tmp_path, "train.json", make_content())  # dog 5 and cat 3
    names = list(classes) * 2
    val = write_validation(tmp_path, classes, names[:2])
    project = start_project(train, tmp_path, tmp_path / "new", val=val, name="cats")
    written = tmp_path / "new" / "val_annotations.json"
    assert written.exists() is (classes != {"dog": 5, "cat": 3})
    content = json.loads(written.read_text())
    assert [category["id"] for category in content["categories"]] == [3, 5]
    expected = [{"cat": 3, "dog": 5}[name] for name in names[:2]]
    assert [annotation["category_id"] for annotation in content["annotations"]] == expected
    assert project.check.sets[1].annotation_file == written
    assert "The classes of val.json are those of train.json by their names" in project.sentences[0]


def test_other_classes_are_not_matched(tmp_path):
    train = write_set(tmp_path, "train.json", make_content())
    val = write_validation(tmp_path, {"cat": 1, "fox": 2}, ["cat", "fox"])
    with pytest.raises(
        UserError, match=r"class 2 is 'dog'.* and 'fox'.*under the same ids; tools/check_dataset\.py lists them all\.$"
    ):
        start_project(train, tmp_path, tmp_path / "new", val=val, name="cats", ignore_defects=True)
