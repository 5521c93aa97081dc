"""EmojiLVIS: determinism, folders that stay whole, specs and the command line."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eql_d2.data.emoji_lvis import (
    PRESETS,
    EmojiLVISSpec,
    generate_emoji_lvis,
    is_complete,
    plan_split,
    write_preview,
)
from eql_d2.data.emoji_lvis import generate as generate_module
from eql_d2.errors import UserError
from tests.data.conftest import SPEC, read_json

REPOSITORY = Path(__file__).parents[2]
TINY = EmojiLVISSpec(3, 210, 4, 64, seed=1, name="tiny", max_class_share=0.5, max_objects_per_image=4)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# --- determinism and folders ------------------------------------------------------------------------------


def test_same_bytes_whatever_the_number_of_workers(tmp_path):
    one = generate_emoji_lvis(TINY, tmp_path / "one", workers=1, progress=False)
    two = generate_emoji_lvis(TINY, tmp_path / "two", workers=2, progress=False)
    assert digests(one) == digests(two)
    reseeded = generate_emoji_lvis(dataclasses.replace(TINY, seed=2), tmp_path / "three", workers=1, progress=False)
    assert digests(reseeded)["train/000001.jpg"] != digests(one)["train/000001.jpg"]


def test_a_third_split_is_like_val_and_changes_nothing_else(tmp_path):
    spec = dataclasses.replace(TINY, num_test_images=6)
    without = generate_emoji_lvis(TINY, tmp_path / "without", workers=1, progress=False)
    folder = generate_emoji_lvis(spec, tmp_path / "with", workers=1, progress=False)
    before, after = digests(without), digests(folder)
    assert {name: after[name] for name in before if name != "spec.json"} == {
        name: digest for name, digest in before.items() if name != "spec.json"
    }
    test, val = read_json(folder / "test.json"), read_json(folder / "val.json")
    assert [image["id"] for image in test["images"]] == list(range(215, 221))  # after 210 and 4
    assert test["categories"] == val["categories"]
    pictures = {digest for name, digest in after.items() if name.startswith(("val/", "test/"))}
    assert len(pictures) == 4 + 6
    images_of_class = {category["id"]: set() for category in test["categories"]}
    for annotation in test["annotations"]:
        images_of_class[annotation["category_id"]].add(annotation["image_id"])
    assert len({len(images) for images in images_of_class.values()}) == 1
    (folder / "test" / "000217.jpg").unlink()
    assert not is_complete(spec, folder)


def test_a_complete_set_is_used_again(folder, monkeypatch):
    monkeypatch.setattr(generate_module, "_write_set", lambda *_: pytest.fail("generated again"))
    assert generate_emoji_lvis(SPEC, folder.parent, progress=False) == folder


def test_a_folder_of_another_spec_is_refused_and_left_alone(tmp_path):
    folder = generate_emoji_lvis(TINY, tmp_path, workers=1, progress=False)
    before = digests(folder)
    with pytest.raises(UserError, match="something else"):
        generate_emoji_lvis(dataclasses.replace(TINY, seed=9), tmp_path, workers=1, progress=False)
    assert digests(folder) == before


def test_a_folder_of_somebody_elses_files_is_refused(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="tiny"):
        generate_emoji_lvis(TINY, tmp_path, workers=1, progress=False)


def test_an_interrupted_generation_leaves_nothing_that_looks_complete_and_heals(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generate_module, "category_records", stop)
        generate_emoji_lvis(TINY, tmp_path, workers=1, progress=False)
    assert not (tmp_path / "tiny").exists()
    killed = tmp_path / ".tiny.killed.partial"  # what a killed process, which cannot clean up, leaves behind
    killed.mkdir()
    folder = generate_emoji_lvis(TINY, tmp_path, workers=1, progress=False)
    assert is_complete(TINY, folder) and not killed.exists()

    whole = digests(folder)
    (folder / "train" / "000002.jpg").unlink()
    (folder / "val.json").unlink()
    (folder / "notes.txt").write_text("mine")
    assert not is_complete(TINY, folder)
    generate_emoji_lvis(TINY, tmp_path, workers=1, progress=False)
    assert digests(folder).items() > whole.items() and (folder / "notes.txt").read_text() == "mine"


def test_credit_travels_with_the_set(folder):
    assert "OpenMoji" in (folder / "ATTRIBUTION.txt").read_text()
    assert "CC BY-SA 4.0" in read_json(folder / "train.json")["licenses"][0]["name"]


def test_file_names_reach_the_images_both_ways(folder):
    for image in read_json(folder / "val.json")["images"]:
        from_url = folder.joinpath(*image["coco_url"].split("/")[-2:])
        assert from_url == folder / image["file_name"] and from_url.is_file()


# --- specs and the command line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_classes": 2}, "num_classes is 2"),
        ({"num_classes": 1300}, "num_classes is 1300"),
        ({"num_train_images": 150}, "150 train images .* at least 253"),
        ({"num_classes": 200}, "200 classes in 300 train images"),
        ({"num_val_images": 0}, "num_val_images is 0"),
        ({"num_test_images": -1}, "num_test_images is -1"),
        ({"num_test_images": 1}, "1 test images cannot show each of 12 classes"),
        ({"num_val_images": 1}, "1 val images cannot show each of 12 classes"),
        ({"max_class_share": 0.0}, "max_class_share is 0"),
        ({"image_size": 20}, "image_size is 20"),
        ({"name": "../up"}, "name is"),
        ({"object_size": (0.5, 0.1)}, "object_size is"),
        ({"negatives_per_image": -1.0}, "negatives_per_image is -1.0; use a number of classes"),
        ({"negatives_per_image": 11.0}, r"of 12 classes only \d\.\d are absent from a train image .*; use fewer"),
        ({"negatives_per_image": 0.1}, "leaves a class without a val image that is verified not to hold it; use more"),
        ({"negatives_per_image": 7.0}, r"means \d+ train images without a class that \d+ of 300 images do not hold"),
    ],
)
def test_impossible_specs_are_refused_with_the_way_out(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        dataclasses.replace(SPEC, **changes)


@pytest.mark.parametrize("name", ["demo", "bench", "federated"])
def test_presets_can_be_planned(name):
    spec = PRESETS[name]
    objects_per_image = [len(image.objects) for image in plan_split(spec, "train").images]
    assert spec.name == name
    assert min(objects_per_image) >= 1 and max(objects_per_image) <= spec.max_objects_per_image


def test_preview_is_drawn(folder, tmp_path):
    path = write_preview(folder, tmp_path / "sheet.png", columns=1, rows=1)
    assert path.stat().st_size > 1000


def test_command_line_reports_groups_and_lambda(tmp_path):
    sizes = ["--num-classes=3", "--train-images=260", "--val-images=4", "--image-size=64", "--workers=1"]
    command = [sys.executable, "tools/make_emoji_lvis.py", *sizes, "--output", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY, env=environment)
    assert "1 rare, 1 common, 1 frequent" in done.stdout
    assert "lambda = 100 / 260" in done.stdout


def test_generation_needs_neither_torch_nor_detectron2():
    """Workers start fast because of that; None in sys.modules makes an import fail."""
    code = "import sys; sys.modules.update(torch=None, detectron2=None); import eql_d2.data.emoji_lvis"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
