"""Conversion of Open Images' official CSV files: by hand, against plain loops, when sources change, bad input."""

import json
from dataclasses import replace

import numpy as np
import orjson
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from eql_d2.analysis.dataset_report import dataset_page
from eql_d2.data.category_counts import dataset_counts
from eql_d2.data.checks.before_start import check_dataset
from eql_d2.data.checks.doctor import examine_dataset
from eql_d2.data.open_images import challenge_2019_source, converted_file, ensure_converted, source_of_entry
from eql_d2.data.open_images.hierarchy import Hierarchy
from eql_d2.data.registration import (
    register_datasets,
    register_open_images,
    set_class_metadata,
)
from eql_d2.engine import load_config
from eql_d2.errors import UserError
from tests.open_images_set import HIERARCHY, LABELS, write_csv, write_open_images_set

BOX_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", "IsGroupOf")
DESCRIPTIONS = [("/m/p", "Person"), ("/m/m", "Man"), ("/m/w", "Woman"), ("/m/c", "Cat")]
PEOPLE = {
    "LabelName": "/m/0bl9f",
    "Subcategory": [
        {"LabelName": "/m/p", "Subcategory": [{"LabelName": "/m/m"}, {"LabelName": "/m/w"}]},
        {"LabelName": "/m/c"},
    ],
}


@pytest.fixture
def people(tmp_path):
    """Source of three images (b.jpg is 100 x 50), four classes, and both kinds of labels."""
    (tmp_path / "images").mkdir()
    for name, size in (("a", (200, 100)), ("b", (100, 50)), ("c", (40, 80))):
        Image.new("RGB", size).save(tmp_path / "images" / f"{name}.jpg")
    write_csv(tmp_path / "classes-description-500.csv", None, DESCRIPTIONS)
    (tmp_path / "label500-hierarchy.json").write_text(json.dumps(PEOPLE))
    boxes = [
        ("b", "/m/m", 0.1, 0.5, 0.2, 1, 0),
        ("a", "/m/c", 0, 0.25, 0.5, 0.75, 1),
        ("b", "/m/c", 0.5, 0.75, 0, 0.5, 0),
        ("b", "/m/m", 0.0, 0.125, 0.3, 0.4, 1),
        ("a", "/m/unknown", 0, 1, 0, 1, 0),
        ("a", "/m/c", 0.5, 0.5, 0, 1, 0),  # without area
    ]
    labels = [("a", "/m/p", 0), ("b", "/m/w", 0), ("c", "/m/w", 1), ("c", "/m/c", 0), ("a", "/m/w", 0)]
    write_csv(tmp_path / "x-bbox.csv", BOX_COLUMNS, boxes)
    write_csv(tmp_path / "x-human-imagelabels.csv", ("ImageID", "LabelName", "Confidence"), labels)
    return source_of_entry({"name": "people", "annotations": str(tmp_path), "images": str(tmp_path / "images")})


def converted(source):
    return orjson.loads(ensure_converted(source).read_bytes())


def test_by_hand(people):
    content = converted(people)
    assert content["categories"] == [
        {"id": 1, "name": "Person", "freebase_id": "/m/p", "ancestors": []},
        {"id": 2, "name": "Man", "freebase_id": "/m/m", "ancestors": [1]},
        {"id": 3, "name": "Woman", "freebase_id": "/m/w", "ancestors": [1]},
        {"id": 4, "name": "Cat", "freebase_id": "/m/c", "ancestors": []},
    ]
    columns = ("id", "file_name", "width", "height", "neg_category_ids", "not_exhaustive_category_ids")
    assert [tuple(image[name] for name in columns) for image in content["images"]] == [
        (1, "a.jpg", 200, 100, [1, 2, 3], []),  # no person: no man, no woman
        (2, "b.jpg", 100, 50, [3], [1]),  # men are persons, without a box of that name
        (3, "c.jpg", 40, 80, [4], [1, 3]),
    ]
    assert content["annotations"] == [
        {"id": 1, "image_id": 2, "category_id": 2, "bbox": [10.0, 10.0, 40.0, 40.0], "area": 1600.0},
        {"id": 2, "image_id": 1, "category_id": 4, "bbox": [0.0, 50.0, 50.0, 25.0], "area": 1250.0, "is_group_of": 1},
        {"id": 3, "image_id": 2, "category_id": 4, "bbox": [50.0, 0.0, 25.0, 25.0], "area": 625.0},
        {"id": 4, "image_id": 2, "category_id": 2, "bbox": [0.0, 15.0, 12.5, 5.0], "area": 62.5, "is_group_of": 1},
    ]


def test_it_trains_and_counts_like_any_other(people):
    register_open_images("people", people)
    set_class_metadata("people")
    check_dataset("people", evaluated=True)
    dicts = DatasetCatalog.get("people")
    assert MetadataCatalog.get("people").thing_classes == ["Person", "Man", "Woman", "Cat"]
    assert [len(item["annotations"]) for item in dicts] == [1, 3, 0]
    assert dicts[1]["file_name"] == str(people.images / "b.jpg")
    assert dicts[0]["neg_category_ids"] == [0, 1, 2]
    assert dicts[1]["annotations"][0] == {"bbox": [10.0, 10.0, 40.0, 40.0], "bbox_mode": 1, "category_id": 1}
    counts = dataset_counts(("people",))
    assert (counts.image_counts, counts.instance_counts, counts.num_images) == ((0, 1, 0, 2), (0, 2, 0, 2), 2)


def test_groups_as_crowds(people):
    register_open_images("people", replace(people, group_of="crowd"))
    assert [[a.get("iscrowd") for a in item["annotations"]] for item in DatasetCatalog.get("people")] == [
        [1],
        [None, None, 1],
        [],
    ]
    assert dataset_counts(("people",)).instance_counts == (0, 1, 0, 1)


def test_expanded(people):
    content = converted(replace(people, expand=True))
    assert [a["category_id"] for a in content["annotations"]] == [2, 1, 4, 4, 2, 1]
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3, 4, 5, 6]
    assert content["annotations"][0]["bbox"] == content["annotations"][1]["bbox"]
    assert content["annotations"][5]["is_group_of"] == 1
    assert content["images"][1]["not_exhaustive_category_ids"] == []  # persons have boxes now
    assert not any(category["ancestors"] for category in content["categories"])  # the metric does not do it again


# --- hierarchy and labels ---------------------------------------------------------------------------------


def test_hierarchy():
    hierarchy = Hierarchy(HIERARCHY)
    assert hierarchy.ancestors("/m/popc") == {"/m/food", "/m/snack", "/m/toy"}  # two parents; never the root
    assert hierarchy.ancestors("/m/left") == set()  # a part of a toy is no toy
    assert hierarchy.descendants("/m/food") == {"/m/ear_", "/m/snack", "/m/popc", "/m/hatc"}
    assert hierarchy.descendants("/m/nobody") == hierarchy.ancestors("/m/nobody") == set()


def test_verified_classes_equal_plain_loops(tmp_path):
    """Random labels and boxes; what follows from each row is collected row by row."""
    rng = np.random.default_rng(0)
    labels_of_set = [*LABELS.values(), "/m/food", "/m/snack", "/m/toy"]
    write_csv(tmp_path / "classes-description-500.csv", None, [(label, label[3:]) for label in labels_of_set])
    (tmp_path / "label500-hierarchy.json").write_text(json.dumps(HIERARCHY))
    images = [f"{i:03d}" for i in range(60)]
    boxes = [(rng.choice(images), rng.choice(labels_of_set), 0.1, 0.2, 0.1, 0.2, 0) for _ in range(100)]
    labels = [(rng.choice(images), rng.choice(labels_of_set), rng.integers(2)) for _ in range(200)]
    write_csv(tmp_path / "x-bbox.csv", BOX_COLUMNS, boxes)
    write_csv(tmp_path / "x-human-imagelabels.csv", ("ImageID", "LabelName", "Confidence"), labels)
    write_csv(tmp_path / "sizes.csv", ("image_id", "width", "height"), [(image, 10, 10) for image in images])
    (tmp_path / "images").mkdir()
    entry = {"name": "r", "annotations": str(tmp_path), "images": str(tmp_path / "images")}
    content = converted(source_of_entry(entry | {"sizes": str(tmp_path / "sizes.csv")}))

    hierarchy = Hierarchy(HIERARCHY)
    yes, no, boxed = ({image: set() for image in images} for _ in range(3))
    for image, label, *_ in boxes:
        boxed[image].add(label)
        yes[image] |= {label} | hierarchy.ancestors(label)
    for image, label, confidence in labels:
        if confidence:
            yes[image] |= {label} | hierarchy.ancestors(label)
        else:
            no[image] |= {label} | hierarchy.descendants(label)
    label_of = {category["id"]: category["freebase_id"] for category in content["categories"]}
    seen = 0
    for record in content["images"]:
        image = record["file_name"].removesuffix(".jpg")
        assert {label_of[c] for c in record["neg_category_ids"]} == no[image] - yes[image]
        assert {label_of[c] for c in record["not_exhaustive_category_ids"]} == yes[image] - boxed[image]
        seen += 1
    assert seen == len({row[0] for row in boxes + labels})


# --- another dataset's categories -------------------------------------------------------------------------


@pytest.fixture
def borrowed(people, tmp_path, monkeypatch):
    """Makes an entry whose classes become those of LVIS v1, by the text of a class file."""

    def entry(text):
        (tmp_path / "classes.yaml").write_text(text)
        return {
            "name": "borrowed",
            "format": "openimages",
            "annotations": str(people.boxes),
            "images": str(people.images),
            "classes": str(tmp_path / "classes.yaml"),
            "categories_of": "lvis_v1_train",
        }

    return entry


def test_borrowed_images(borrowed, lvis_of_detectron2):
    cfg = load_config("", ["DATASETS.CUSTOM", [borrowed("Man: person\nWoman: person\nCat: cat")]])
    register_datasets(cfg)
    for name in ("borrowed", "lvis_v1_train"):
        set_class_metadata(name)
    metadata, lvis = MetadataCatalog.get("borrowed"), MetadataCatalog.get("lvis_v1_train")
    assert metadata.thing_classes == lvis.thing_classes
    assert metadata.thing_dataset_id_to_contiguous_id == lvis.thing_dataset_id_to_contiguous_id
    assert metadata.evaluator_type == "lvis"
    person, cat = lvis.thing_classes.index("person"), lvis.thing_classes.index("cat")
    dicts = DatasetCatalog.get("borrowed")
    assert [[a["category_id"] for a in item["annotations"]] for item in dicts] == [[cat], [person, cat, person]]
    assert not any("segmentation" in a for item in dicts for a in item["annotations"])
    # There is no person in image a; that there is no woman in image b does not say that there is no person.
    assert [item["neg_category_ids"] for item in dicts] == [[person], []]
    assert dataset_counts(("borrowed",)).names == tuple(lvis.thing_classes)


def test_a_category_of_several_classes_is_absent_if_all_are(borrowed, people):
    def absent(*labels):
        write_csv(people.labels, ("ImageID", "LabelName", "Confidence"), [("a", label, 0) for label in labels])
        content = converted(source_of_entry(borrowed("Man: person\nWoman: person\nCat: cat")))
        names = {category["id"]: category["name"] for category in content["categories"]}
        return [names[i] for i in content["images"][0]["neg_category_ids"]]

    assert absent("/m/w") == []
    assert absent("/m/w", "/m/m") == absent("/m/p") == ["person"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Man: persona", "'persona' .of 'Man'. is no category"),
        ("Mann: person", "'Mann' names no class"),
        ("- Man", "has no lines of the form"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_bad_class_files(borrowed, text, complaint):
    with pytest.raises(UserError, match=complaint):
        ensure_converted(source_of_entry(borrowed(text)))


# --- when it is made --------------------------------------------------------------------------------------


def test_it_is_made_once_and_again_when_a_source_changes(people):
    path = ensure_converted(people)
    made = path.stat().st_mtime_ns
    assert ensure_converted(people) == path and path.stat().st_mtime_ns == made
    write_csv(people.labels, ("ImageID", "LabelName", "Confidence"), [("a", "/m/p", 1)])
    assert converted(people)["images"][0]["not_exhaustive_category_ids"] == [1]
    assert path.stat().st_mtime_ns > made
    assert ensure_converted(replace(people, expand=True)) != path


def test_where_it_lies(people, tmp_path, monkeypatch):
    monkeypatch.delenv("EQL_D2_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    beside = converted_file(people)
    assert beside.parent == people.boxes.parent
    tmp_path.chmod(0o555)
    try:
        assert converted_file(people).parent == tmp_path / "home" / "eql_d2"
    finally:
        tmp_path.chmod(0o755)


def test_sizes_are_read_once_and_as_images_are_shown(people):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (100, 50)).save(people.images / "b.jpg", exif=exif)
    image = converted(people)["images"][1]
    assert (image["width"], image["height"]) == (50, 100)
    for path in people.images.iterdir():
        path.unlink()
    assert converted(replace(people, expand=True))["images"][1]["width"] == 50


def test_missing_images(people):
    (people.images / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 3 images of Open Images are missing in .*, first a.jpg"):
        ensure_converted(people)
    skipping = replace(people, missing_images="skip")
    content = converted(skipping)
    assert [(image["id"], image["file_name"]) for image in content["images"]] == [(1, "b.jpg"), (2, "c.jpg")]
    assert [(a["image_id"], a["category_id"]) for a in content["annotations"]] == [(1, 2), (1, 4), (1, 2)]
    Image.new("RGB", (200, 100)).save(people.images / "a.jpg")
    assert len(converted(skipping)["images"]) == 3


def test_images_as_the_train_set_is_packed(people):
    (people.images / "train_0").mkdir()
    for letter in "abc":
        (people.images / f"train_{letter}").mkdir()
        (people.images / f"{letter}.jpg").rename(people.images / f"train_{letter}" / f"{letter}.jpg")
    assert [i["file_name"] for i in converted(people)["images"]] == [f"train_{c}/{c}.jpg" for c in "abc"]


def test_the_files_of_the_challenge(tiny_set, tmp_path):
    folder = write_open_images_set(tiny_set, tmp_path / "oi")
    sources = {split: challenge_2019_source(folder, split) for split in ("train", "val")}
    contents = {split: converted(source) for split, source in sources.items()}
    for split, content in contents.items():
        original = orjson.loads((tiny_set / f"{split}.json").read_bytes())
        assert len(content["annotations"]) == len(original["annotations"])
        assert len(content["categories"]) == 9
        boxes = [[a["bbox"] for a in c["annotations"]] for c in (content, original)]
        assert np.abs(np.subtract(*boxes)).max() < 1e-3
    for name in ("openimages_challenge2019_train", "openimages_challenge2019_val"):
        assert MetadataCatalog.get(name).evaluator_type == "openimages"
        assert MetadataCatalog.get(name).image_root.endswith(
            "openimages/challenge2019/" + ("train" if "train" in name else "validation")
        )


# --- bad input --------------------------------------------------------------------------------------------

GOOD = "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\na,/m/c,0,1,0,1,0\n"


@pytest.mark.parametrize(
    ("attribute", "text", "complaint"),
    [
        ("boxes", GOOD.replace("XMin", "Left"), "has no column XMin"),
        ("boxes", "", "has no column ImageID and no LabelName"),
        ("boxes", GOOD + "b,/m/c,0,one,0,1,0\n", r"line 3 is broken \(b,/m/c,0,one"),
        ("boxes", GOOD + "b,/m/c,0,1\n", "line 3 is broken"),
        ("boxes", GOOD + "b,/m/c,0,nan,0,1,0\n", "line 3 is broken"),
        ("boxes", GOOD + "b,/m/c,0,300,0,1,0\n", "line 3 is broken"),  # pixels
        ("labels", "ImageID,LabelName,Confidence\na,/m/c,0.7\n", "line 2 is broken"),
        ("descriptions", "/m/c,Cat\n/m/c,Dog\n", "line 2 has the label /m/c again"),
        ("descriptions", "Cat\n", "line 1 is not LABEL,NAME"),
        ("descriptions", "", "is empty"),
        ("hierarchy", "{", "is not of the form of"),
        ("hierarchy", '{"Subcategory": [{}]}', "is not of the form of"),
    ],
)
def test_broken_files(people, attribute, text, complaint):
    path = getattr(people, attribute)
    path.write_text(text)
    with pytest.raises(UserError, match=complaint) as error:
        ensure_converted(people)
    assert str(path) in str(error.value)


def test_broken_images_and_sizes(people, tmp_path):
    (people.images / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a.jpg cannot be read \(it is no picture\)"):
        ensure_converted(people)
    (tmp_path / "sizes.csv").write_text("a,200,100\nb,0,50\n")
    with pytest.raises(UserError, match=r"sizes.csv: line 2 is not ImageID,WIDTH,HEIGHT"):
        ensure_converted(replace(people, sizes=tmp_path / "sizes.csv"))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"image": "x"}, "the unknown key image"),
        ({"images": None}, "no key images"),
        ({"group_of": "ignore"}, "group_of of dataset people is 'ignore'; it must be one of object, crowd"),
        ({"expand": "yes"}, "must be one of True, False"),
        ({"classes": "c.yaml"}, "needs both classes .* and categories_of"),
        ({"annotations": "nowhere"}, "nowhere does not exist"),
        ({"hierarchy": "nowhere.json"}, "nowhere.json does not exist"),
    ],
)
def test_bad_entries(people, changes, complaint):
    entry = {"name": "people", "annotations": str(people.boxes.parent), "images": str(people.images)} | changes
    entry = {key: value for key, value in entry.items() if value is not None}
    with pytest.raises(UserError, match=complaint):
        ensure_converted(source_of_entry(entry))


def test_folders_that_leave_the_choice_open(people):
    entry = {"name": "people", "annotations": str(people.boxes.parent), "images": str(people.images)}
    people.descriptions.unlink()
    with pytest.raises(UserError, match="has no file of class descriptions"):
        source_of_entry(entry)
    (people.boxes.parent / "y-bbox.csv").write_text(GOOD)
    with pytest.raises(UserError, match="has 2 files of boxes"):
        source_of_entry(entry)


def test_the_doctor_reads_the_boxes_and_its_page_names_them(people):
    check = examine_dataset(people.boxes, people.images, val_annotation_file=people.boxes, val_image_root=people.images)
    train = check.sets[0]
    assert list(zip(train.counts.names, train.counts.instance_counts, strict=True)) == [
        ("Person", 0),
        ("Man", 2),
        ("Woman", 0),
        ("Cat", 2),
    ]
    assert {finding.kind for _, finding in check.findings if finding.level == "defect"} == {"image in both sets"}
    assert "<h1>x-bbox.csv</h1>" in dataset_page(check)


def test_the_doctor_asks_for_the_images_of_boxes(people):
    (finding,) = (finding for _, finding in examine_dataset(people.boxes).findings)
    assert finding.sentence == f"Boxes of Open Images, as in {people.boxes}, need their image folder; name it."
