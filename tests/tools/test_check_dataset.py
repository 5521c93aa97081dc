"""tools/check_dataset.py on files broken in many ways: each fault is named, and training stops with the same words."""

import importlib.util
import json
import runpy
import shutil
import sys

import pytest

from eql_d2.data.annotations.lvis_format import load_lvis_format
from eql_d2.errors import UserError
from tests.conftest import ROOT
from tests.data.small_set import make_content, write_picture, write_set


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("check_dataset", ROOT / "tools" / "check_dataset.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def check(tool, tmp_path, capsys, monkeypatch):
    """Run the tool in this process; gives exit status, what it printed on one line, and the page."""
    monkeypatch.setenv("COLUMNS", "400")

    def run(*arguments):
        status = tool.main([*map(str, arguments), "--output", str(tmp_path / "page.html"), "--workers", "1"])
        return status, " ".join(capsys.readouterr().out.split()), (tmp_path / "page.html").read_text()

    return run


def changed(key, number, **values):
    """A break of one record: values to set, or to delete where they are None."""

    def change(content):
        record = content[key][number]
        for name, value in values.items():
            record[name] = value
            if value is None:
                del record[name]

    return change


def twice(key):
    return lambda content: content[key].append(dict(content[key][0]))


def without(key):
    return lambda content: content.pop(key)


BROKEN = {
    "image id twice": (twice("images"), "image id 10 occurs 2 times"),
    "category id twice": (twice("categories"), "category id 5 occurs 2 times"),
    "annotation id twice": (twice("annotations"), "annotation id 100 occurs 2 times"),
    "unknown image": (changed("annotations", 1, image_id=999), "unknown image_id 999"),
    "unknown category": (changed("annotations", 1, category_id=999), "unknown category_id 999"),
    "no width": (changed("images", 2, width=None), "image 12 has no width"),
    "no name": (changed("images", 2, file_name=None), "image 12 has neither coco_url nor file_name"),
    "no box": (changed("annotations", 0, bbox=None), "annotation 100 of image 10 has no bbox"),
    "negative box": (changed("annotations", 0, bbox=[9, 9, -5, 5]), "annotation 100 of image 10 has a box of negative"),
    "box outside": (changed("annotations", 3, bbox=[99, 9, 5, 5]), "annotation 103 of image 13 has a box outside"),
    "two points": (changed("annotations", 3, segmentation=[[1, 1, 2, 2]]), "has a polygon of 2 points"),
    "odd polygon": (changed("annotations", 3, segmentation=[[1, 1, 2, 2, 3, 3, 4]]), "odd number of coordinates"),
    "wrong RLE": (
        changed("annotations", 3, segmentation={"size": [24, 32], "counts": [5, 5]}),
        "annotation 103 of image 13 has an RLE whose counts do not add up",
    ),
    "negative area": (changed("annotations", 2, area=-1), "annotation 102 of image 12 has an area that is negative"),
    "no images": (without("images"), "images missing"),
    "no categories": (without("categories"), "categories missing"),
    "a word as id": (changed("annotations", 0, image_id="ten"), "annotations[0]"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_annotations(check, tmp_path, case):
    break_it, sentence = BROKEN[case]
    content = make_content()
    write_set(tmp_path, "train.json", content)  # with all pictures
    break_it(content)
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    status, printed, page = check("--annotations", path, "--images", tmp_path)
    assert status == 1
    assert sentence in printed
    assert sentence in page
    assert "1 kind of defect" in printed
    with pytest.raises(UserError) as told:
        load_lvis_format(path, tmp_path, federated=False)
    assert sentence in str(told.value)


@pytest.mark.parametrize("text", ["", "[]", '{"images": [', "no JSON", '{"images": 5, "categories": []}'])
def test_files_of_another_form(check, tmp_path, text):
    path, good = tmp_path / "train.json", write_set(tmp_path, "val.json", make_content())
    path.write_text(text)
    for arguments in (["--annotations", path, "--val", good], ["--annotations", good, "--val", path]):
        status, printed, page = check(*arguments, "--images", tmp_path)
        assert status == 1
        assert f"Annotation file {path} is " in printed
        assert "unusable annotation file" in page


@pytest.mark.parametrize(
    ("harm", "kind", "sentence"),
    [
        (lambda path: path.unlink(), "missing image", "image photos/002.jpg is not in the image folder"),
        (lambda path: path.write_bytes(b""), "unreadable image", "photos/002.jpg cannot be read (the file is empty)"),
        (lambda path: path.write_text("404"), "unreadable image", "photos/002.jpg cannot be read (it is no picture)"),
        (lambda path: path.write_bytes(path.read_bytes()[:700]), "unreadable image", "(image file is truncated"),
        (
            lambda path: shutil.copy(path.with_name("large.jpg"), path),
            "wrong image size",
            "image photos/002.jpg is not 40x24 as annotated, but 32x24",
        ),
    ],
)
def test_broken_images(check, tmp_path, harm, kind, sentence):
    content = make_content()
    path = write_set(tmp_path, "train.json", content)
    write_picture(tmp_path / "photos" / "large.jpg", 77)
    if kind == "wrong image size":
        content["images"][2]["width"] = 40
        path.write_text(json.dumps(content))
    harm(tmp_path / "photos" / "002.jpg")
    status, printed, page = check("--annotations", path, "--images", tmp_path)
    assert status == 1
    assert sentence in printed
    assert kind in page
    assert "1 kind of defect." in printed
    status, printed, _ = check("--annotations", path, "--images", tmp_path, "--no-decode")
    assert status == (kind == "missing image")
    status, printed, _ = check("--annotations", path)
    assert (status, "No defect." in printed) == (0, True)


def test_remarks_are_no_failure(check, tmp_path):
    content = make_content()
    content["categories"].append({"id": 8, "name": "unicorn"})
    path = write_set(tmp_path, "train.json", content)
    shutil.copy(tmp_path / "photos" / "001.jpg", tmp_path / "photos" / "003.jpg")
    status, printed, page = check("--annotations", path, "--images", tmp_path)
    assert status == 0
    assert "No defect, 2 remarks." in printed
    assert "images photos/001.jpg and photos/003.jpg are the same file" in printed
    assert "unicorn (8)" in page


def test_overlap_fails(check, tmp_path):
    train = write_set(tmp_path, "train.json", make_content(4))
    val = write_set(tmp_path, "val.json", make_content(4, first=3))
    for images in ([], ["--images", tmp_path]):
        status, printed, _ = check("--annotations", train, "--val", val, *images)
        assert status == 1
        assert "image in both sets 1" in printed


def test_real_photographs(check, shared_data):
    root = shared_data / "coco_photos_lvis_v1"
    status, printed, _ = check("--annotations", root / "train.json", "--images", root, "--val", root / "val.json")
    assert status == 0
    assert "No defect" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--annotations", "none.json"], "error: Annotation file none.json does not exist; check the path."),
        (["--annotations", "{file}", "--images", "none"], "error: Image folder none does not exist; check the path."),
        (["--annotations", "{file}", "--val-images", "x"], "--val-images is the image folder of --val"),
        (["--annotations", "{file}", "--workers", "0"], "--workers is 0; it must be at least 1"),
        (["--annotations", "{file}", "--output", "/"], "error: --output / cannot be written (Is a directory)"),
    ],
)
def test_wrong_command_lines(tool, tmp_path, monkeypatch, capsys, arguments, sentence):
    file = write_set(tmp_path, "train.json", make_content())
    monkeypatch.chdir(tmp_path)
    try:
        tool.main([argument.format(file=file) for argument in arguments])
    except UserError as error:
        assert f"error: {error}".startswith(sentence)
    except SystemExit as end:
        assert end.code == 2
        assert sentence in capsys.readouterr().err
    else:
        pytest.fail("it ran")
    assert not list(tmp_path.glob("*.html"))


def test_the_script(tmp_path, monkeypatch, capsys):
    """As from the command line, with processes that read images; the page has its default name."""
    content = make_content(50)
    write_set(tmp_path, "train.json", content)
    for n in (7, 30):
        (tmp_path / "photos" / f"{n:03d}.jpg").write_text("404")
    monkeypatch.chdir(tmp_path)

    def script(*arguments):
        monkeypatch.setattr(sys, "argv", ["check_dataset.py", *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "tools" / "check_dataset.py"), run_name="__main__")
        return end.value.code, *capsys.readouterr()

    status, printed, _ = script("--annotations", "train.json", "--images", ".", "--workers", "2")
    assert status == 1
    assert "image photos/007.jpg cannot be read" in printed
    assert "\n1 kind of defect.\nPage: train_report.html\n" in printed
    assert (tmp_path / "train_report.html").read_text().startswith("<!DOCTYPE html>")
    status, printed, told = script("--annotations", "train.json", "--images", "none")
    assert (status, printed, told) == (2, "", "error: Image folder none does not exist; check the path.\n")
