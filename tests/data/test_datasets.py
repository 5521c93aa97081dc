"""Registered datasets: LVIS under Detectron2's names, EmojiLVIS, and the user's own."""

import json
import os
import subprocess
import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin import _PREDEFINED_SPLITS_LVIS
from detectron2.data.datasets.lvis import get_lvis_instances_meta

from eql_d2.data.registration import (
    datasets_root,
    load_dataset,
    register_custom_datasets,
    register_lvis_datasets,
    register_lvis_format,
    set_class_metadata,
)
from eql_d2.errors import UserError
from tests.conftest import ROOT
from tests.data.small_set import make_content, write_set

LVIS_NAMES = [
    *("lvis_v1_train", "lvis_v1_val", "lvis_v1_test_dev", "lvis_v1_test_challenge"),
    *("lvis_v0.5_train", "lvis_v0.5_val", "lvis_v0.5_val_rand_100", "lvis_v0.5_test"),
]


@pytest.mark.usefixtures("lvis_of_this_project")
@pytest.mark.parametrize("name", LVIS_NAMES)
def test_lvis_is_where_detectron2_looks_for_it(name):
    images, annotations = _PREDEFINED_SPLITS_LVIS[version(name)][name]
    metadata = MetadataCatalog.get(name)
    assert metadata.json_file == str(datasets_root() / annotations)
    assert os.path.normpath(metadata.image_root) == str(datasets_root() / os.path.normpath(images))
    assert metadata.evaluator_type == "lvis"


def version(name):
    return "lvis_v1" if name.startswith("lvis_v1") else "lvis_v0.5"


@pytest.mark.usefixtures("lvis_of_this_project")
@pytest.mark.parametrize("name", LVIS_NAMES)
def test_lvis_classes_are_those_of_detectron2(name):
    """Without the annotation files; Detectron2 has a class's first synonym where we have its name."""
    set_class_metadata(name)
    ours, theirs = MetadataCatalog.get(name).thing_classes, get_lvis_instances_meta(name)["thing_classes"]
    assert len(ours) == len(theirs) == {"lvis_v1": 1203, "lvis_v0.5": 1230}[version(name)]
    differing = [pair for pair in zip(ours, theirs, strict=True) if len({n.replace("_", " ") for n in pair}) > 1]
    assert differing == {"lvis_v1": [("bull", "horned_cow")], "lvis_v0.5": []}[version(name)]
    ids = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    assert ids == {i + 1: i for i in range(len(ours))}


def test_names_follow_the_ids_that_are_known(tmp_path):
    """Whoever registers a set may say the ids alone, in an order of their own."""
    path = write_set(tmp_path, "train.json", make_content(2))
    register_lvis_format("ids_alone", path, tmp_path, federated=False)
    named = {record["id"]: record["name"] for record in make_content(2)["categories"]}
    assert len(named) > 1
    order = sorted(named, reverse=True)
    MetadataCatalog.get("ids_alone").thing_dataset_id_to_contiguous_id = {c: i for i, c in enumerate(order)}
    set_class_metadata("ids_alone")
    assert MetadataCatalog.get("ids_alone").thing_classes == [named[c] for c in order]


@pytest.mark.parametrize("name", LVIS_NAMES)
def test_lvis_is_read_by_our_loader(name, lvis_of_detectron2):
    """Whoever has registered it; Detectron2's own needs the lvis package and v1's coco_url."""
    if os.path.exists(MetadataCatalog.get(name).json_file):
        pytest.skip("LVIS is here")
    with pytest.raises(UserError, match=r"^Annotation file .*lvis_v.*json does not exist"):
        load_dataset(name)


@pytest.mark.usefixtures("lvis_of_this_project")
def test_lvis_registered_anew_is_read_the_same_way_and_keeps_what_was_known():
    """Detectron2's main branch says the number of images of each class."""
    assert DatasetCatalog["lvis_v1_train"] is not None
    with pytest.raises(UserError, match=r"^Annotation file .*lvis_v1_train.json does not exist"):
        DatasetCatalog.get("lvis_v1_train")
    MetadataCatalog.pop("lvis_v1_val")
    MetadataCatalog.get("lvis_v1_val").set(
        json_file="elsewhere/val.json", image_root="elsewhere", evaluator_type="lvis", class_image_count=[1, 2]
    )
    register_lvis_datasets()
    metadata = MetadataCatalog.get("lvis_v1_val")
    assert (metadata.json_file, metadata.class_image_count) == ("elsewhere/val.json", [1, 2])


def test_ids_are_added_to_the_classes_that_detectron2_knows(lvis_of_detectron2):
    """A host's metadata keeps its classes; what the stock reader sets later is the same."""
    metadata = MetadataCatalog.get("lvis_v1_val")
    before = list(metadata.thing_classes)
    set_class_metadata("lvis_v1_val")
    assert metadata.thing_classes == before
    assert metadata.thing_dataset_id_to_contiguous_id == {i + 1: i for i in range(1203)}
    metadata.set(**get_lvis_instances_meta("lvis_v1_val"))


def test_dataset_folder_of_the_environment(tmp_path):
    program = (
        "import json, sys; from detectron2.data import MetadataCatalog; import eql_d2.data.registration\n"
        "names = ['lvis_v1_val', 'emoji_lvis_demo_train']\n"
        "print(json.dumps([[MetadataCatalog.get(n).json_file, MetadataCatalog.get(n).image_root] for n in names]))"
    )
    environment = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [
        [f"{tmp_path}/lvis/lvis_v1_val.json", f"{tmp_path}/coco/"],
        [f"{tmp_path}/emoji_lvis/demo/train.json", f"{tmp_path}/emoji_lvis/demo"],
    ]


def test_a_custom_dataset_is_registered_and_replaced(tiny_cfg, tiny_set):
    records = DatasetCatalog.get("tiny_val")
    assert len(records) == 12
    assert all(os.path.exists(record["file_name"]) for record in records)
    tiny_cfg.DATASETS.CUSTOM = [
        {"name": "tiny_val", "annotations": str(tiny_set / "train.json"), "images": str(tiny_set)}
    ]
    register_custom_datasets(tiny_cfg)
    assert len(DatasetCatalog.get("tiny_val")) == 300


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "a", "annotation": "a.json", "images": "."},
        {"name": "a", "annotations": "a.json"},
        {"name": "a", "annotations": "a.json", "images": ".", "masks": "."},
        "a.json",
    ],
)
def test_a_wrong_entry_is_shown(tiny_cfg, entry):
    tiny_cfg.DATASETS.CUSTOM = [entry]
    with pytest.raises(UserError, match=r"DATASETS.CUSTOM has the entry .*a.json.*needs the keys annotations, images"):
        register_custom_datasets(tiny_cfg)


def test_unknown_dataset_name():
    with pytest.raises(UserError, match=r"'lvis_v1_trian' is not registered; .*lvis_v1_train.*DATASETS.CUSTOM"):
        set_class_metadata("lvis_v1_trian")


def test_files_are_prepared_before_they_are_read(tiny_set, tmp_path):
    def prepare():
        (tmp_path / "val.json").write_bytes((tiny_set / "val.json").read_bytes())

    register_lvis_format("prepared", tmp_path / "val.json", tiny_set, prepare=prepare)
    set_class_metadata("prepared")
    assert len(MetadataCatalog.get("prepared").thing_classes) == 6
    (tmp_path / "val.json").unlink()
    assert len(DatasetCatalog.get("prepared")) == 12
