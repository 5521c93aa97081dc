"""Category counts: equal to a brute-force count, from the right source, and in agreement with the config."""

import itertools
from collections import Counter

import orjson
import pytest
import torch

from eql_d2.data.category_counts import category_counts, count_annotations, dataset_counts
from eql_d2.data.registration import register_lvis_format
from eql_d2.errors import UserError
from eql_d2.long_tail import LVIS_COUNT_FILES, LVIS_THRESHOLDS, read_count_file

serial = itertools.count()


@pytest.fixture
def add_dataset(tmp_path):
    """Registers a dataset whose images hold the given categories (a list of ids an image, negative of a crowd), and
    gives its name."""

    def add(images, categories=((30, "bee"), (2, "ant"), (500, "cow")), kept=None, **metadata):
        number = next(serial)  # counts are kept by path
        image = {"width": 60, "height": 40, "file_name": "a.jpg", "neg_category_ids": []}
        image["not_exhaustive_category_ids"] = []
        content = {
            "images": [{"id": 11 * i, **image} for i in range(len(images))],
            "annotations": [
                {"image_id": 11 * i, "category_id": abs(c), "bbox": [0, 0, 9, 9], "iscrowd": int(c < 0)}
                for i, ids in enumerate(images)
                for c in ids
            ],
            "categories": [{"id": i, "name": name} for i, name in categories],
        }
        path = tmp_path / f"{number}.json"
        path.write_bytes(orjson.dumps(content))
        register_lvis_format(f"counted_{number}", path, tmp_path, categories=kept, **metadata)
        return f"counted_{number}"

    return add


def count_file(path, counts, num_images=50):
    records = [{"id": i, "name": n, "image_count": c, "instance_count": 2 * c} for i, (n, c) in enumerate(counts)]
    path.write_bytes(orjson.dumps({"num_images": num_images, "categories": records}))
    return str(path)


def test_by_hand(add_dataset):
    counts = dataset_counts((add_dataset([[2, 2, 500], [], [2], [500, 500, 500]]),))
    assert counts.category_ids == (2, 30, 500)
    assert counts.names == ("ant", "bee", "cow")
    assert counts.image_counts == (2, 0, 2)
    assert counts.instance_counts == (3, 0, 4)
    assert counts.num_images == 3  # an image without annotations says nothing
    assert counts.image_frequencies.tolist() == [2 / 3, 0, 2 / 3]
    assert counts.image_frequencies.dtype == torch.float64
    assert counts.frequency_groups == ("r", "r", "r")
    assert counts.num_classes == 3


def test_crowds_do_not_count(add_dataset):
    counts = dataset_counts((add_dataset([[2, -2], [-500], [-30, -30, 2]]),))
    assert counts.image_counts == (2, 0, 0)
    assert counts.instance_counts == (2, 0, 0)
    assert counts.num_images == 2


def test_a_subset_of_the_classes(add_dataset):
    name = add_dataset([[2, 2, 500], [30, 30], [-500, 30], [500, 500, 500]], kept=("cow", "ant"))
    counts = dataset_counts((name,))
    assert (counts.names, counts.category_ids) == (("ant", "cow"), (2, 500))
    assert counts.image_counts == (1, 2)
    assert counts.instance_counts == (2, 4)
    assert counts.num_images == 2  # the others hold nothing of these classes


def test_a_dataset_twice_counts_twice(add_dataset):
    name = add_dataset([[2, 2, 500], [2]])
    once, twice = dataset_counts((name,)), dataset_counts((name, name))
    assert twice.image_counts == (4, 0, 2)
    assert twice.num_images == 4
    assert twice.image_frequencies.equal(once.image_frequencies)


def assert_brute_force(path):
    content = orjson.loads(path.read_bytes())
    counts = count_annotations(str(path))
    by_id = dict(zip(counts.category_ids, zip(counts.image_counts, counts.instance_counts, strict=True), strict=True))
    pairs = {(a["image_id"], a["category_id"]) for a in content["annotations"]}
    instances = Counter(a["category_id"] for a in content["annotations"])
    for category in content["categories"]:
        in_images = sum(1 for _, category_id in pairs if category_id == category["id"])
        assert by_id[category["id"]] == (in_images, instances[category["id"]])
        assert by_id[category["id"]] == (category["image_count"], category["instance_count"])  # as the file says
    assert counts.num_images == len({image for image, _ in pairs})


def test_generated_set_against_brute_force(tiny_set):
    assert_brute_force(tiny_set / "train.json")


def test_photographs_against_brute_force(shared_data):
    assert_brute_force(shared_data / "coco_photos_lvis_v1" / "train.json")


def test_several_train_sets_add_up(add_dataset):
    one, two = add_dataset([[2], [2, 30]]), add_dataset([[30, 30], [500], [500, 2]])
    counts = dataset_counts((one, two))
    assert (counts.image_counts, counts.instance_counts, counts.num_images) == ((3, 2, 2), (3, 3, 2), 5)


def test_several_train_sets_need_the_same_classes(add_dataset):
    one, two = add_dataset([[2]]), add_dataset([[2]], categories=((2, "ant"), (3, "dog"), (4, "cow")))
    with pytest.raises(UserError, match=rf"DATASETS.TRAIN \({one}, {two}\) have different classes"):
        dataset_counts((one, two))


def test_order_of_the_sources(add_dataset, tiny_cfg, tmp_path):
    metadata = count_file(tmp_path / "metadata.json", [("ant", 7), ("bee", 8), ("cow", 9)])
    explicit = count_file(tmp_path / "explicit.json", [("ant", 4), ("bee", 5), ("cow", 6)])
    tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    tiny_cfg.DATASETS.TRAIN = (add_dataset([[2]]),)
    assert category_counts(tiny_cfg).image_counts == (1, 0, 0)
    tiny_cfg.DATASETS.TRAIN = (add_dataset([[2]], category_counts_file=metadata),)
    assert category_counts(tiny_cfg).image_counts == (7, 8, 9)
    tiny_cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS = explicit
    assert category_counts(tiny_cfg).image_counts == (4, 5, 6)
    tiny_cfg.DATASETS.TRAIN = ()
    assert category_counts(tiny_cfg).image_counts == (4, 5, 6)
    tiny_cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS = ""
    with pytest.raises(UserError, match=r"No source of category counts: set DATASETS.TRAIN"):
        category_counts(tiny_cfg)


@pytest.mark.parametrize("num_classes", [5, 7])
def test_number_of_classes_has_to_agree(tiny_cfg, num_classes):
    tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    assert category_counts(tiny_cfg, check_classes=False).num_classes == 6
    with pytest.raises(
        UserError, match=rf"NUM_CLASSES is {num_classes}, but DATASETS.TRAIN \(tiny_train\) has 6 classes; set it"
    ):
        category_counts(tiny_cfg)


def test_unknown_dataset():
    with pytest.raises(UserError, match=r"'lvis_v2_train' is not registered; .*DATASETS.CUSTOM"):
        dataset_counts(("lvis_v2_train",))


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"{}", b'{"num_images": 3, "categories": [{"id": 1, "name": "ant"}]}', b"null"]
)
def test_broken_count_file(tmp_path, content):
    path = tmp_path / "counts.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^Category count file .*counts.json is not of the form .*metadata: [^\n]*$"):
        read_count_file(str(path))


def test_missing_count_file(tmp_path):
    with pytest.raises(UserError, match=r"absent.json cannot be read \(No such file"):
        read_count_file(str(tmp_path / "absent.json"))


def test_letters_at_the_borders():
    letters = {0: "r", 1: "r", 10: "r", 11: "c", 100: "c", 101: "f", 10**6: "f"}
    assert {count: LVIS_THRESHOLDS.letter(count) for count in letters} == letters


@pytest.mark.parametrize(("version", "classes", "images"), [("lvis_v1", 1203, 99_388), ("lvis_v0.5", 1230, 56_740)])
def test_letters_of_lvis_follow_from_its_counts(version, classes, images):
    path = LVIS_COUNT_FILES[version]
    counts = read_count_file(str(path))
    assert (counts.num_classes, counts.num_images) == (classes, images)
    assert counts.category_ids == tuple(range(1, classes + 1))
    published = {record["id"]: record["frequency"] for record in orjson.loads(path.read_bytes())["categories"]}
    assert counts.frequency_groups == tuple(published[i] for i in counts.category_ids)


def test_a_dataset_of_the_config_that_nobody_registered(tiny_cfg):
    """As where a config is given to Detectron2's DefaultPredictor."""
    tiny_cfg.DATASETS.TRAIN = ("mine",)
    tiny_cfg.DATASETS.CUSTOM = [{"name": "mine", "annotations": "a.json", "images": "."}]
    with pytest.raises(UserError, match=r"^Dataset 'mine' is described in the config, but not registered; call eql_d2"):
        category_counts(tiny_cfg)
