"""Images and classes of the train set and the val set."""

import shutil

from eql_d2.data.checks.doctor import examine_dataset
from eql_d2.data.checks.split_findings import classes_without_training, different_classes
from eql_d2.long_tail import CategoryCounts
from tests.data.small_set import make_content, write_set


def findings_between(folder, train, val, **options):
    """Findings between two sets, by kind."""
    train, val = write_set(folder, "train.json", train), write_set(folder, "val.json", val)
    check = examine_dataset(train, val_annotation_file=val, **options)
    return {finding.kind: finding for where, finding in check.findings if where == "train, val"}


def test_the_same_content_under_other_names(tmp_path):
    write_set(tmp_path, "train.json", make_content(4))
    for old, new in ((1, 21), (1, 22), (3, 24)):
        shutil.copy(tmp_path / "photos" / f"{old:03d}.jpg", tmp_path / "photos" / f"{new:03d}.jpg")
    for decode in (True, False):
        roots = {"image_root": tmp_path, "val_image_root": tmp_path, "decode": decode, "workers": 1}
        found = findings_between(tmp_path, make_content(4), make_content(6, first=20), **roots)
        assert set(found) == {"image in both sets"}
        finding = found["image in both sets"]
        assert (finding.level, finding.count) == ("defect", 3)
        assert finding.sentence.startswith("val image photos/021.jpg is the same file as train image photos/001.jpg;")


def test_without_images_only_a_full_match_counts(tmp_path):
    val = make_content(6, first=2)  # images 2 and 3 are in both
    found = findings_between(tmp_path, make_content(4), val)
    assert found["image in both sets"].count == 2
    assert "photos/002.jpg (id 12) is in the train set and in the val set" in found["image in both sets"].sentence
    for image in val["images"]:  # the same ids of other pictures, as in many a set of one's own
        image["file_name"] = f"val_{image['file_name']}"
    assert not findings_between(tmp_path, make_content(4), val)
    val = make_content(4)
    for image in val["images"]:  # the same names in another folder
        image["id"] += 50
    val["annotations"] = []
    assert not findings_between(tmp_path, make_content(4), val)


def counts(names, instances):
    return CategoryCounts(tuple(range(1, len(names) + 1)), tuple(names), tuple(instances), tuple(instances), 9)


def test_classes():
    train, val = counts("abcd", (3, 0, 1, 0)), counts("abcd", (1, 4, 0, 0))
    assert different_classes(train, val) is None
    untrained = classes_without_training(train, val)
    assert (untrained.level, untrained.count) == ("remark", 1)
    assert untrained.sentence.startswith("class 'b' has 4 instances in the val set and none in the train set")
    assert classes_without_training(train, train) is None
    swapped = different_classes(train, counts("acbd", (1, 1, 1, 1)))
    assert (swapped.level, swapped.count) == ("defect", 2)
    assert "class 2 is 'b' (id 2) in the train set and 'c' (id 2) in the val set" in swapped.sentence
    shorter = different_classes(train, counts("ab", (1, 1)))
    assert shorter.count == 2
    assert "class 3 is 'c' (id 3) in the train set and missing in the val set" in shorter.sentence


def test_a_val_set_that_cannot_be_evaluated(tmp_path):
    """The lack of areas is a remark in a train set; evaluation refuses it."""
    content = make_content(4)
    for annotation in content["annotations"]:
        del annotation["area"]
    path = write_set(tmp_path, "train.json", content)
    check = examine_dataset(path, val_annotation_file=path)
    levels = {where: f.level for where, f in check.findings if f.kind == "annotation without area"}
    assert levels == {"train": "remark", "val": "defect"}
