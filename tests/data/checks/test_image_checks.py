"""Images that are missing, broken, of another size or there twice: what the checks say is what opening them says."""

import os

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.annotations.image_paths import _second_look, image_paths, images_present, missing_images
from eql_d2.data.checks.image_findings import duplicate_images, unreadable_images, wrong_sizes
from eql_d2.data.checks.image_reading import ImageFacts, _in_parallel, find_equal_files, read_images
from eql_d2.errors import UserError
from tests.data.small_set import HEIGHT, WIDTH, make_content, write_picture, write_set

# --- are they there ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [4, 60])  # few are asked for one by one, many are listed
def test_presence(tmp_path, count):
    expected = {}
    for folder in ("", "a", "a/b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        for n in range(count):
            name = os.path.join(folder, f"{n}.jpg")
            expected[name] = n % 3 != 1
            if expected[name]:
                (tmp_path / name).touch()
    (tmp_path / "a" / "folder.jpg").mkdir()
    (tmp_path / "a" / "link.jpg").symlink_to(tmp_path / "a" / "0.jpg")
    (tmp_path / "a" / "broken_link.jpg").symlink_to(tmp_path / "gone.jpg")
    expected |= {"a/folder.jpg": False, "a/link.jpg": True, "a/broken_link.jpg": False}
    expected |= {f"nowhere/{n}.jpg": False for n in range(count)}
    expected |= {"a/../a/0.jpg": True, "./2.jpg": True}
    paths = sorted(expected, key=hash)
    assert images_present(paths, tmp_path).tolist() == [expected[path] for path in paths]


def test_what_a_listing_does_not_show_is_asked_for(tmp_path):
    """As in a file system that finds a file by another spelling of its name."""
    paths = [f"{n}.jpg" for n in range(250)]
    for path in paths[:-1]:
        (tmp_path / path).touch()
    looked = _second_look(np.zeros(250, bool), paths, str(tmp_path))
    assert looked.tolist() == [True] * 249 + [False]


def test_missing_images(tmp_path):
    annotations = open_annotations(write_set(tmp_path, "train.json", make_content(5)))
    assert image_paths(annotations) == [f"photos/{n:03d}.jpg" for n in range(5)]
    assert [annotations.image_record(i) for i in range(5)] == [annotations.records(i)[0] for i in range(5)]
    assert missing_images(annotations, tmp_path) is None
    for n in (2, 4):
        (tmp_path / "photos" / f"{n:03d}.jpg").unlink()
    finding = missing_images(annotations, tmp_path)
    assert (finding.level, finding.count) == ("defect", 2)
    assert finding.sentence == f"image photos/002.jpg is not in the image folder {tmp_path}"


def test_a_folder_above_or_below_the_right_one(tmp_path):
    root = tmp_path / "data" / "set"
    root.mkdir(parents=True)
    annotations = open_annotations(write_set(root, "train.json", make_content(3)))
    for wrong in (root.parent, root / "photos"):
        finding = missing_images(annotations, wrong)
        assert finding.count == 3
        assert finding.sentence.endswith(f"is not in the image folder {wrong}, but it is in {root}")


# --- can they be read -------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Good and bad image files."""
    write_picture(tmp_path / "good.jpg", 0)
    write_picture(tmp_path / "grey.png", 1)
    Image.open(tmp_path / "grey.png").convert("LA").save(tmp_path / "grey.png")
    write_picture(tmp_path / "palette.gif", 2)
    exif = Image.Exif()
    exif[0x0112] = 6
    write_picture(tmp_path / "turned.jpg", 3, exif=exif)
    exif[0x0112] = 3
    write_picture(tmp_path / "upside_down.jpg", 4, exif=exif)
    write_picture(tmp_path / "progressive.jpg", 5, progressive=True)
    for name in ("good.jpg", "progressive.jpg", "grey.png"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"cut_{name}").write_bytes(data[: 2 * len(data) // 3])
    data = bytearray((tmp_path / "grey.png").read_bytes())
    data[20] ^= 0xFF  # its header
    (tmp_path / "flipped.png").write_bytes(data)
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    return sorted(str(path) for path in tmp_path.iterdir())


def test_reading_is_what_training_reads(pictures):
    """The oracle is Detectron2's reader: the same files fail, the others have the same size."""
    facts = dict(zip(pictures, read_images(pictures, workers=1), strict=True))
    for path, fact in facts.items():
        try:
            expected = read_image(path, "BGR").shape[1::-1]
        except Exception:
            expected = None
        assert fact.size == expected, path
        assert bool(fact.error) == (expected is None), path
    by_name = {os.path.basename(path): fact for path, fact in facts.items()}
    assert sum(bool(fact.error) for fact in facts.values()) == 6
    assert by_name["turned.jpg"].size == (HEIGHT, WIDTH)
    assert by_name["turned.jpg"].sideways
    assert by_name["empty.jpg"].error == "the file is empty"
    assert by_name["page.jpg"].error == "it is no picture"
    assert "truncated" in by_name["cut_good.jpg"].error


def test_processes_give_the_same_in_the_same_order(pictures):
    many = pictures * 9
    assert read_images(many, workers=2) == read_images(many, workers=1)


def test_files_without_permission_or_gone(tmp_path):
    (fact,) = read_images([str(tmp_path / "gone.jpg")])
    assert fact.error == "No such file or directory"
    assert find_equal_files([str(tmp_path / "gone.jpg")]) == [ImageFacts()]


def kill_process(path):
    os._exit(9)


def test_a_killed_process_is_told():
    with pytest.raises(UserError, match="A process that reads images was killed"):
        list(_in_parallel(kill_process, ["x"] * 40, 2, "reading"))


def test_equal_files_are_found_without_decoding(tmp_path):
    contents = {"a": b"12345", "b": b"12345", "c": b"54321", "d": b"123456", "e": b"12345"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    digests = [fact.digest for fact in find_equal_files([str(tmp_path / name) for name in contents])]
    assert digests[0] == digests[1] == digests[4] != digests[2]
    assert digests[2] is not None
    assert digests[3] is None  # the only file of its size


# --- what is made of it -----------------------------------------------------------------------------------


def test_findings_of_images():
    paths = list("abcdefg")
    facts = [
        ImageFacts(None, (5, 4), False, b"1"),
        ImageFacts("the file is empty"),
        ImageFacts(None, (4, 5), True, b"2"),
        ImageFacts(None, (5, 4), False, b"1"),
        ImageFacts(),
        ImageFacts("it is no picture"),
        ImageFacts(None, (5, 3), False, b"1"),
    ]
    sizes = np.array([[5, 4]] * 7, np.float64)
    unreadable = unreadable_images(paths, facts)
    assert (unreadable.level, unreadable.count) == ("defect", 2)
    assert unreadable.sentence == "image b cannot be read (the file is empty)"
    wrong = wrong_sizes(paths, facts, sizes)
    assert (wrong.level, wrong.count) == ("defect", 2)
    assert wrong.sentence == "image c is not 5x4 as annotated, but 4x5 after the turn that its EXIF data asks for"
    twice = duplicate_images(paths, facts)
    assert (twice.level, twice.count) == ("remark", 2)
    assert twice.sentence.startswith("images a and d are the same file")
    good = facts[:1]
    assert unreadable_images(paths[:1], good) is wrong_sizes(paths[:1], good, sizes[:1]) is None
    assert duplicate_images(paths[:1], good) is None
