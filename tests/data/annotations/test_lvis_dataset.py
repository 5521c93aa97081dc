"""The lazy dataset: item by item what Detectron2's loader gives, and good for all that Detectron2 does with it."""

import itertools
import pickle
from collections import Counter

import numpy as np
import orjson
import pytest
import torch
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.samplers import RepeatFactorTrainingSampler
from pycocotools import mask as mask_api
from torch.utils.data import DataLoader

from benchmarks.loading import make_annotation_file
from eql_d2.data.annotations.lvis_format import LVISDataset, annotation_content, load_lvis_format
from eql_d2.data.category_counts import dataset_counts
from eql_d2.data.training import loader as loader_module
from eql_d2.data.training.loader import build_test_loader, build_train_loader


@pytest.fixture(scope="module")
def annotation_file(tmp_path_factory):
    """A file like LVIS v1's: ids in no order, some images without annotations, segmentations of two polygons."""
    path = tmp_path_factory.mktemp("set") / "train.json"
    make_annotation_file(path, num_images=60, num_annotations=400)
    return path


@pytest.fixture(scope="module")
def dataset(annotation_file):
    return load_lvis_format(annotation_file, annotation_file.parent)


@pytest.fixture
def as_list(tiny_cfg):
    """The name of tiny_train registered as a plain list of dicts, as users register their own sets."""
    records = list(DatasetCatalog.get("tiny_train"))
    DatasetCatalog.register("tiny_list", lambda: records)
    MetadataCatalog.get("tiny_list").set(
        thing_classes=MetadataCatalog.get("tiny_train").thing_classes, category_counts=dataset_counts(("tiny_train",))
    )
    yield "tiny_list"
    DatasetCatalog.remove("tiny_list")
    MetadataCatalog.remove("tiny_list")


def test_the_whole_content(annotation_file, dataset):
    """As the file has it, but for the order of images and of their annotations."""
    content, whole = annotation_content(dataset.packed), orjson.loads(annotation_file.read_bytes())
    assert len(content["annotations"]) == len(whole["annotations"])
    for key in ("images", "categories", "annotations"):
        given, expected = ({record["id"]: record for record in records[key]} for records in (content, whole))
        assert given == expected
    some = annotation_content(dataset.packed, [whole["categories"][0]["name"]])
    assert {a["category_id"] for a in some["annotations"]} == {whole["categories"][0]["id"]}


def as_detectron2(path, image_root):
    """The dataset dicts of Detectron2's loader; it leaves the federated categories as the file has them."""
    pytest.importorskip("lvis")
    from detectron2.data.datasets.lvis import load_lvis_json

    ids = sorted(category["id"] for category in orjson.loads(path.read_bytes())["categories"])
    assert ids == list(range(1, len(ids) + 1))  # else Detectron2's categories are not contiguous
    records = load_lvis_json(str(path), f"{image_root}/")
    for record in records:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            record[key] = [category_id - 1 for category_id in record[key]]
    return records


def test_items_are_those_of_detectron2(annotation_file, dataset):
    expected = as_detectron2(annotation_file, annotation_file.parent)
    assert len(dataset) == len(expected) == 60
    assert list(dataset) == expected
    assert sum(not record["annotations"] for record in expected) > 0
    assert max(len(a["segmentation"]) for record in expected for a in record["annotations"]) == 2


def test_numbers_keep_their_types(annotation_file, dataset):
    """Detectron2 computes with a box of integers as integers."""
    expected = as_detectron2(annotation_file, annotation_file.parent)
    assert repr(list(dataset)) == repr([{key: record[key] for key in dataset[0]} for record in expected])


def test_a_real_file_is_as_in_detectron2(shared_data):
    path = shared_data / "lvis_v0.5_val_100.json"
    assert list(load_lvis_format(path, shared_data)) == as_detectron2(path, shared_data)


def test_it_is_a_sequence(dataset):
    items = list(dataset)
    assert dataset[-1] == items[-1] == dataset[len(dataset) - 1]
    assert dataset[np.int64(3)] == items[3]
    assert dataset[5:50:7] == items[5:50:7]
    assert dataset[::-1] == items[::-1]
    assert items[4] in dataset
    for outside in (60, -61):
        with pytest.raises(IndexError):
            dataset[outside]
    with pytest.raises(TypeError):
        dataset["3"]


def test_a_changed_item_leaves_the_dataset_alone(dataset):
    expected = list(dataset)
    changed = dataset[2]
    changed["annotations"].clear()
    changed["file_name"] = "other"
    assert list(dataset) == expected


def test_summaries_agree_with_the_items(dataset):
    for summary, item in zip(dataset.summaries(), dataset, strict=True):
        assert (summary["width"], summary["height"]) == (item["width"], item["height"])
        assert summary["annotations"] == [{"category_id": a["category_id"]} for a in item["annotations"]]
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    assert torch.equal(factors(dataset.summaries(), 0.3), factors(list(dataset), 0.3))
    assert factors(dataset.summaries(), 0.3).max() > 1


class Summary(torch.utils.data.Dataset):
    """What shows that a loader's process reads the annotations."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index]["file_name"], len(self.dataset[index]["annotations"])


def test_loader_processes_are_given_the_place_not_the_annotations(dataset, annotation_file):
    assert len(pickle.dumps(dataset)) < 1000 < annotation_file.stat().st_size / 100
    loader = DataLoader(Summary(dataset), batch_size=4, num_workers=2, collate_fn=list)
    served = list(itertools.chain(*loader))
    assert served == [(item["file_name"], len(item["annotations"])) for item in dataset]


# --- with Detectron2's functions --------------------------------------------------------------------------


def test_detectron2_collects_and_filters_it(tiny_cfg, as_list):
    for filter_empty in (True, False):
        ours, theirs = (get_detection_dataset_dicts(name, filter_empty) for name in ("tiny_train", as_list))
        assert ours == theirs
    assert len(get_detection_dataset_dicts(["tiny_train", "tiny_val"], filter_empty=False)) == 312


def test_detectron2_builds_loaders_of_it(tiny_cfg, as_list):
    mapper = DatasetMapper(tiny_cfg, is_train=False)
    ours, theirs = (
        build_detection_test_loader(dataset=DatasetCatalog.get(name), mapper=mapper) for name in ("tiny_train", as_list)
    )
    assert len(ours) == len(theirs) == 300
    for (a,), (b,) in itertools.islice(zip(ours, theirs, strict=True), 5):
        assert a["image_id"] == b["image_id"]
        assert torch.equal(a["image"], b["image"])
    loader = build_detection_train_loader(
        dataset=DatasetCatalog.get("tiny_train"), mapper=DatasetMapper(tiny_cfg, True), total_batch_size=2
    )
    assert len(next(iter(loader))) == 2


# --- with this project's loaders --------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
@pytest.mark.parametrize("filter_empty", [True, False])
def test_training_data_is_that_of_a_plain_list(tiny_cfg, as_list, sampler, filter_empty):
    tiny_cfg.DATALOADER.SAMPLER_TRAIN = sampler
    tiny_cfg.DATALOADER.REPEAT_THRESHOLD = 0.3
    tiny_cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filter_empty
    batches = []
    for names in (("tiny_train", "tiny_val"), (as_list, "tiny_val")):
        tiny_cfg.DATASETS.TRAIN = names
        loader = build_train_loader(tiny_cfg, seed=3)
        batches.append(list(itertools.islice(loader, 4)))
    for a, b in zip(itertools.chain(*batches[0]), itertools.chain(*batches[1]), strict=True):
        assert a["file_name"] == b["file_name"]
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
        assert a["instances"].has("gt_masks") == b["instances"].has("gt_masks") == (len(a["instances"]) > 0)
        if len(a["instances"]):
            assert torch.equal(a["instances"].gt_masks.tensor, b["instances"].gt_masks.tensor)


def test_images_without_annotations_are_left_out(annotation_file, dataset, tiny_cfg):
    DatasetCatalog.register("with_empty", lambda: dataset)
    try:
        tiny_cfg.DATASETS.TRAIN = ("with_empty",)
        for filter_empty in (True, False):
            tiny_cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filter_empty
            loader = build_train_loader(tiny_cfg, seed=0, mapper=lambda record: record)
            kept = [loader.dataset[index, 0]["image_id"] for index in range(len(loader.dataset))]
            assert kept == [item["image_id"] for item in dataset if item["annotations"] or not filter_empty]
    finally:
        DatasetCatalog.remove("with_empty")


def test_the_table_of_classes_counts_what_detectron2_counts(tiny_cfg, as_list, monkeypatch):
    """Detectron2 prints it of what it is given; both ways give it the same instances."""
    counted = []

    def count(dataset_dicts, class_names):
        counted.append((Counter(a["category_id"] for d in dataset_dicts for a in d["annotations"]), class_names))

    monkeypatch.setattr(loader_module, "print_instances_class_histogram", count)
    monkeypatch.setattr("detectron2.data.build.print_instances_class_histogram", count)
    for name in ("tiny_train", as_list):
        tiny_cfg.DATASETS.TRAIN = (name,)
        build_train_loader(tiny_cfg, seed=0)
    get_detection_dataset_dicts(as_list)
    assert counted[0] == counted[1] == counted[2]
    assert sum(counted[0][0].values()) > 300


def test_the_test_loader_does_not_unpack_the_dataset(tiny_cfg, as_list):
    loader = build_test_loader(tiny_cfg, "tiny_val")
    assert isinstance(loader.dataset._dataset, LVISDataset)
    assert [image["image_id"] for (image,) in loader] == [item["image_id"] for item in DatasetCatalog.get("tiny_val")]
    assert len(build_test_loader(tiny_cfg, as_list)) == 300


@pytest.mark.parametrize("compressed", [True, False])
def test_masks_as_rle_train_like_polygons(tiny_set, tiny_cfg, tmp_path, compressed):
    """The same masks as polygons and as RLE give the same bit masks."""
    content = orjson.loads((tiny_set / "train.json").read_bytes())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for annotation in content["annotations"]:
        height, width = sizes[annotation["image_id"]]
        rle = mask_api.merge(mask_api.frPyObjects(annotation["segmentation"], height, width))
        counts = rle["counts"].decode()
        if not compressed:
            flat = mask_api.decode(rle).ravel(order="F")
            edges = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
            counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
        annotation["segmentation"] = {"size": [height, width], "counts": counts}
    (tmp_path / "rle.json").write_bytes(orjson.dumps(content))
    tiny_cfg.INPUT.MASK_FORMAT = "bitmask"
    tiny_cfg.INPUT.RANDOM_FLIP = "none"
    mapper = DatasetMapper(tiny_cfg, is_train=True)
    polygons, rles = (load_lvis_format(path, tiny_set) for path in (tiny_set / "train.json", tmp_path / "rle.json"))
    for index in range(0, 300, 60):
        masks = [mapper(dataset[index])["instances"].gt_masks.tensor for dataset in (polygons, rles)]
        assert masks[0].shape == masks[1].shape
        assert (masks[0] != masks[1]).float().mean() < 0.01  # resized as polygons or as pixels
        assert masks[1].any()
