"""Samplers built from configs: counts with one owner, data with gaps, mistakes told; equal to Detectron2's."""

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.samplers import RepeatFactorTrainingSampler

from eql_d2.data.category_counts import dataset_counts
from eql_d2.data.training.build_sampler import build_sampler
from eql_d2.data.training.image_classes import ImageClasses
from eql_d2.data.training.loader import build_train_loader
from eql_d2.errors import UserError
from eql_d2.long_tail import CategoryCounts

# Classes of the instances of seven images; class 2 is in none, image 1 is empty.
IMAGES = [[0, 0, 1], [], [0], [0, 3], [1, 0, 1], [0], [3, 3, 3]]
NAMES = [
    "TrainingSampler",
    "RepeatFactorTrainingSampler",
    "ClassAwareTrainingSampler",
    "ClassBalancedTrainingSampler",
    "MixtureTrainingSampler",
]
MIXTURE = [["RepeatFactorTrainingSampler", 0.5], ["ClassAwareTrainingSampler", 0.25], ["TrainingSampler", 1]]


def records(images):
    facts = {"file_name": "none.jpg", "width": 4, "height": 4}
    return [{"annotations": [{"category_id": c} for c in classes], **facts} for classes in images]


def take(sampler, number):
    return list(itertools.islice(sampler, number))


@pytest.fixture
def own_set(tiny_cfg):
    """A config and a function that registers dataset dicts, with the counts of classes a to d, as its training set."""

    def register(dicts, image_counts=(5, 2, 0, 2)):
        DatasetCatalog.register("own", lambda: dicts)
        counts = CategoryCounts((1, 2, 3, 4), tuple("abcd"), image_counts, image_counts, 6)
        MetadataCatalog.get("own").set(category_counts=counts)
        tiny_cfg.DATASETS.TRAIN = ("own",)
        tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
        tiny_cfg.DATALOADER.REPEAT_THRESHOLD = 0.9
        tiny_cfg.DATALOADER.SAMPLER_MIXTURE = MIXTURE
        return tiny_cfg

    yield register
    if "own" in DatasetCatalog:
        DatasetCatalog.remove("own")
        MetadataCatalog.remove("own")


# --- the classes of images --------------------------------------------------------------------------------


def test_image_classes():
    classes = ImageClasses(records(IMAGES))
    assert (classes.num_images, classes.class_range) == (7, (0, 3))
    assert [images.tolist() for images in classes.images_of_class(5)] == [[0, 2, 3, 4, 5], [0, 4], [], [3, 6], []]
    assert classes.largest(torch.tensor([1.0, 5.0, 9.0, 3.0])).tolist() == [5, 1, 1, 3, 5, 1, 3]
    images, instances = classes.counts(np.array([1, 1, 0, 2, 3, 1, 0]), 5)
    assert images.tolist() == [1 + 2 + 3 + 1, 1 + 3, 0, 2, 0]
    assert instances.tolist() == [2 + 2 + 3 + 1, 1 + 2 * 3, 0, 2, 0]


def test_crowds_do_not_count():
    dicts = records(IMAGES)
    dicts[3]["annotations"][1]["iscrowd"] = 1
    dicts[6]["annotations"][0]["iscrowd"] = 0
    assert [images.tolist() for images in ImageClasses(dicts).images_of_class(4)][3] == [6]
    assert ImageClasses(dicts).counts(np.ones(7), 4)[1].tolist() == [6, 3, 0, 3]


def test_no_image_and_no_class():
    for dicts in ([], records([[], []])):
        classes = ImageClasses(dicts)
        assert (classes.num_images, classes.class_range) == (len(dicts), (0, -1))
        assert [len(images) for images in classes.images_of_class(2)] == [0, 0]
        assert classes.largest(torch.ones(2, dtype=torch.float64)).tolist() == [1.0] * len(dicts)
        assert classes.counts(np.ones(len(dicts)), 2)[0].tolist() == [0, 0]


def test_they_are_what_the_category_counts_count(tiny_cfg):
    """Two ways to count: from the file's columns, and from dataset dicts; also a dataset named twice."""
    for names in (("tiny_train",), ("tiny_train", "tiny_val", "tiny_train")):
        counts = dataset_counts(names)
        classes = ImageClasses(get_detection_dataset_dicts(names))
        images, instances = classes.counts(np.ones(classes.num_images), 6)
        assert (tuple(images), tuple(instances)) == (counts.image_counts, counts.instance_counts)
        assert classes.num_images == counts.num_images


# --- what the samplers make of them -----------------------------------------------------------------------


@pytest.mark.parametrize("names", [("tiny_train",), ("tiny_train", "tiny_val", "tiny_train")])
def test_repeat_factors_and_stream_are_detectron2_s(tiny_cfg, names):
    tiny_cfg.DATASETS.TRAIN = names
    tiny_cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    tiny_cfg.DATALOADER.REPEAT_THRESHOLD = 0.3
    dicts = get_detection_dataset_dicts(names)
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dicts, 0.3)
    assert factors.max() > 1.5 > factors.min() == 1
    ours = build_sampler(tiny_cfg, ImageClasses(dicts), seed=8)
    assert take(ours, 3000) == take(RepeatFactorTrainingSampler(factors, seed=8), 3000)


def test_repeat_factors_by_hand(own_set):
    """f = 5/6, 2/6, 0, 2/6 of six images with annotations; t = 4 f(b): r = 1.26, 2, -, 2."""
    cfg = own_set(records(IMAGES))
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD = "RepeatFactorTrainingSampler", 8 / 6
    times = {"stochastic": [2, 1, 1.6**0.5, 2, 2, 1.6**0.5, 2], "ceil": [2, 1, 2, 2, 2, 2, 2]}
    for rounding, expected in times.items():
        cfg.DATALOADER.REPEAT_ROUNDING = rounding
        drawn = take(build_sampler(cfg, ImageClasses(records(IMAGES)), seed=0), 40_000)
        shares = np.bincount(drawn) / len(drawn)
        assert shares == pytest.approx(np.array(expected) / sum(expected), abs=1e-3)
    cfg.DATALOADER.REPEAT_SQRT = False  # r = 1.6, 4, -, 4
    drawn = take(build_sampler(cfg, ImageClasses(records(IMAGES)), seed=0), 21)
    assert np.bincount(drawn).tolist() == [4, 1, 2, 4, 4, 2, 4]


def test_instance_aware_repeat_factors_by_hand(own_set):
    """Images 5, 2, 0, 2 of 6 and instances 5, 2, 0, 2 of 9: the mean is sqrt(5/6 5/9), sqrt(2/6 2/9)."""
    cfg = own_set(records(IMAGES))
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_FACTORS = "RepeatFactorTrainingSampler", "IRFS"
    many, few = math.sqrt(25 / 54), math.sqrt(4 / 54)
    cfg.DATALOADER.REPEAT_THRESHOLD = 9 * few  # r = sqrt(9 few / many) and 3
    often = math.sqrt(9 * few / many)
    expected = np.array([3, 1, often, 3, 3, often, 3])
    drawn = take(build_sampler(cfg, ImageClasses(records(IMAGES)), seed=0), 40_000)
    assert np.bincount(drawn) / len(drawn) == pytest.approx(expected / expected.sum(), abs=2e-3)
    cfg.DATALOADER.REPEAT_FACTORS, cfg.DATALOADER.REPEAT_ALPHA = "E-IRFS", 0.3
    cfg.DATALOADER.REPEAT_THRESHOLD = 4 * few  # r = exp(0.6) of the few
    rarely, often = math.exp(0.3 * math.sqrt(4 * few / many)), math.exp(0.6)
    expected = np.array([often, 1, rarely, often, often, rarely, often])
    drawn = take(build_sampler(cfg, ImageClasses(records(IMAGES)), seed=0), 40_000)
    assert np.bincount(drawn) / len(drawn) == pytest.approx(expected / expected.sum(), abs=2e-3)


def test_instance_aware_factors_name_what_does_not_fit(own_set):
    cfg = own_set(records(IMAGES))
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"

    def build():
        return build_sampler(cfg, ImageClasses(records(IMAGES)), seed=0)

    cfg.DATALOADER.REPEAT_FACTORS = "irfs"
    with pytest.raises(UserError, match=r"REPEAT_FACTORS is 'irfs'; it must be RFS, IRFS or E-IRFS"):
        build()
    cfg.DATALOADER.REPEAT_FACTORS, cfg.DATALOADER.REPEAT_ALPHA = "E-IRFS", 0.0
    with pytest.raises(UserError, match=r"REPEAT_ALPHA is 0\.0; it must be above 0"):
        build()
    cfg.DATALOADER.REPEAT_ALPHA = 9.0
    with pytest.raises(UserError, match=r"would show an image 1.*e\+07 times an epoch; lower"):
        build()
    counts = CategoryCounts((1, 2, 3, 4), tuple("abcd"), (5, 2, 0, 2), (0, 0, 0, 0), 6)
    MetadataCatalog.remove("own")
    MetadataCatalog.get("own").set(category_counts=counts)
    cfg.DATALOADER.REPEAT_FACTORS = "IRFS"
    with pytest.raises(UserError, match=r"REPEAT_FACTORS is IRFS, but no class has an instance"):
        build()


def test_frequencies_are_of_the_count_file_not_of_the_images(own_set, tmp_path):
    cfg = own_set(records(IMAGES))
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_ROUNDING = "RepeatFactorTrainingSampler", "ceil"
    path = tmp_path / "counts.json"
    rows = zip("abcd", (9000, 900, 10, 100), strict=True)
    categories = [{"id": i, "name": name, "image_count": n, "instance_count": n} for i, (name, n) in enumerate(rows)]
    path.write_text(json.dumps({"num_images": 10_000, "categories": categories}))
    cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS = str(path)
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.09  # r = 1, 1, -, 3
    drawn = take(build_sampler(cfg, ImageClasses(records(IMAGES)), seed=0), 11)
    assert np.bincount(drawn).tolist() == [1, 1, 1, 3, 1, 1, 3]
    # n_j of class-balanced sampling as well: a hundred thousand to one against d.
    categories[3]["image_count"] = 1
    categories[0]["image_count"] = categories[1]["image_count"] = 10_000
    path = tmp_path / "others.json"
    path.write_text(json.dumps({"num_images": 10_000, "categories": categories}))
    cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS = str(path)
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.CLASS_BALANCED_POWER = "ClassBalancedTrainingSampler", 1.0
    assert 6 not in take(build_sampler(cfg, ImageClasses(records(IMAGES)), seed=0), 1000)
    cfg.DATALOADER.CLASS_BALANCED_POWER = 0.0
    assert Counter(take(build_sampler(cfg, ImageClasses(records(IMAGES)), seed=0), 1000))[6] > 100


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("filter_empty", [True, False])
def test_images_without_instances_and_classes_without_images(own_set, name, filter_empty):
    dicts = records(IMAGES)
    for index, record in enumerate(dicts):
        record["image_id"] = index
        for annotation in record["annotations"]:
            annotation["bbox"] = [0, 0, 1, 1]  # boxes alone
    cfg = own_set(dicts)
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = name, filter_empty
    loader = build_train_loader(cfg, seed=1, mapper=lambda record: record)
    served = {record["image_id"] for batch in itertools.islice(loader, 200) for record in batch}
    by_class = name.startswith("Class")
    assert served == set(range(7)) - ({1} if filter_empty or by_class else set())


def test_parts_of_one_kind_go_different_ways(own_set):
    cfg = own_set(records([[0]] * 50))
    cfg.DATALOADER.SAMPLER_TRAIN = "MixtureTrainingSampler"
    cfg.DATALOADER.SAMPLER_MIXTURE = [["TrainingSampler", 1], ["TrainingSampler", 1]]
    sampler = build_sampler(cfg, ImageClasses(records([[0]] * 50)), seed=1)
    first, second = (take(part, 50) for part in sampler._samplers)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(50))


def test_the_loader_lifts_rare_classes(tiny_cfg):
    def share_of_rarest(name):
        tiny_cfg.DATALOADER.SAMPLER_TRAIN = name
        loader = build_train_loader(tiny_cfg, seed=3, mapper=lambda record: record)
        batches = list(itertools.islice(loader, 100))
        classes = [{a["category_id"] for a in record["annotations"]} for batch in batches for record in batch]
        counts = Counter(category for image in classes for category in image)
        return min(counts[category] for category in range(6)) / len(classes)

    # Six classes: each gets a sixth of the turns at least.
    assert share_of_rarest("ClassAwareTrainingSampler") > 0.15 > 2 * share_of_rarest("TrainingSampler")
    # Of a dozen images 50 in expectation, less three standard deviations.
    assert share_of_rarest("ClassBalancedTrainingSampler") > 1 / 6 - 3 * (1 / 6 * 5 / 6 / 200) ** 0.5


# --- mistakes ---------------------------------------------------------------------------------------------

RFS, BALANCED, MIXED = (f"{kind}TrainingSampler" for kind in ("RepeatFactor", "ClassBalanced", "Mixture"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"SAMPLER_TRAIN": "Fair"},
            r"SAMPLER_TRAIN is 'Fair'; it must be TrainingSampler, .* or MixtureTrainingSampler",
        ),
        ({"SAMPLER_TRAIN": RFS, "REPEAT_THRESHOLD": 0.0}, r"REPEAT_THRESHOLD is 0\.0, .* set it to the share"),
        ({"SAMPLER_TRAIN": RFS, "REPEAT_THRESHOLD": float("nan")}, "REPEAT_THRESHOLD is nan"),
        (
            {"SAMPLER_TRAIN": RFS, "REPEAT_ROUNDING": "floor"},
            "is 'floor'; it must be stochastic, ceil or ceil_plus_one",
        ),
        (
            {"SAMPLER_TRAIN": BALANCED, "CLASS_BALANCED_POWER": -0.5},
            r"CLASS_BALANCED_POWER is -0\.5; it must be from 0",
        ),
        (
            {"SAMPLER_TRAIN": MIXED, "SAMPLER_MIXTURE": []},
            r"SAMPLER_MIXTURE is \[\]; it must be a list of \[sampler, w",
        ),
        ({"SAMPLER_TRAIN": MIXED, "SAMPLER_MIXTURE": [RFS, 0.5]}, "it must be a list of"),
        ({"SAMPLER_TRAIN": MIXED, "SAMPLER_MIXTURE": [[RFS, 0.5, 1]]}, "it must be a list of"),
        (
            {"SAMPLER_TRAIN": MIXED, "SAMPLER_MIXTURE": [["Fair", 0.5]]},
            "SAMPLER_MIXTURE names 'Fair'; it must be Train",
        ),
        ({"SAMPLER_TRAIN": MIXED, "SAMPLER_MIXTURE": [[MIXED, 0.5]]}, f"SAMPLER_MIXTURE names '{MIXED}'"),
        ({"SAMPLER_TRAIN": MIXED, "SAMPLER_MIXTURE": [[["a"], 0.5]]}, r"SAMPLER_MIXTURE names \['a'\]"),
        (
            {"SAMPLER_TRAIN": MIXED, "SAMPLER_MIXTURE": [[RFS, 0]]},
            f"gives {RFS} the weight 0; weights must be positive",
        ),
        ({"SAMPLER_TRAIN": MIXED, "SAMPLER_MIXTURE": [[RFS, "much"]]}, "the weight 'much'"),
        ({"SAMPLER_TRAIN": MIXED, "SAMPLER_MIXTURE": [[RFS, True]]}, "the weight True"),
        ({"SAMPLER_TRAIN": MIXED, "SAMPLER_MIXTURE": [[RFS, float("inf")]]}, "the weight inf"),
        ({"SAMPLER_TRAIN": MIXED, "SAMPLER_MIXTURE": [[RFS, 1]], "REPEAT_THRESHOLD": -1.0}, r"THRESHOLD is -1\.0"),
        ({"SAMPLER_TRAIN": RFS, "REPEAT_THRESHOLD": float("inf")}, "THRESHOLD is inf"),
    ],
)
def test_a_key_that_does_not_fit_is_named(own_set, options, message):
    cfg = own_set(records(IMAGES))
    for key, value in options.items():
        cfg.DATALOADER[key] = value
    with pytest.raises(UserError, match=rf"^DATALOADER\.[^\n]*{message}[^\n]*$"):
        build_train_loader(cfg, seed=0)


@pytest.mark.parametrize("name", ["ClassAwareTrainingSampler", "ClassBalancedTrainingSampler"])
def test_nothing_to_sample(own_set, name):
    """It would wait for an image for ever."""
    cfg = own_set(records([[], []]))
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = name, False
    with pytest.raises(UserError, match=rf"^DATASETS\.TRAIN \(own\) has no annotation, .*{name}.* TrainingSampler\.$"):
        build_train_loader(cfg, seed=0)


@pytest.mark.parametrize("name", [RFS, BALANCED, "ClassAwareTrainingSampler"])
def test_a_class_alone_is_enough(own_set, name):
    cfg = own_set(records([[0], [0]]))
    cfg.DATALOADER.SAMPLER_TRAIN = name
    assert build_train_loader(cfg, seed=0) is not None


@pytest.mark.parametrize("name", ["RepeatFactorTrainingSampler", "ClassBalancedTrainingSampler"])
def test_counts_of_other_data(own_set, name):
    """A frequency of 0 would be a repeat factor without end."""
    cfg = own_set(records(IMAGES), image_counts=(5, 2, 1, 0))
    cfg.DATALOADER.SAMPLER_TRAIN = name
    with pytest.raises(UserError, match=r"^Class 'd' is in 2 training images, but in none by .*CATEGORY_COUNTS"):
        build_train_loader(cfg, seed=0)


@pytest.mark.parametrize(("category", "name"), [(4, RFS), (-1, RFS), (4, BALANCED), (-1, "ClassAwareTrainingSampler")])
def test_a_class_that_there_is_not(own_set, category, name):
    cfg = own_set(records([*IMAGES, [category]]))
    cfg.DATALOADER.SAMPLER_TRAIN = name
    with pytest.raises(UserError, match=rf"^DATASETS\.TRAIN \(own\) has category_id {category}, "):
        build_train_loader(cfg, seed=0)


def test_a_dataset_without_counts(own_set):
    cfg = own_set(records(IMAGES))
    MetadataCatalog.remove("own")
    MetadataCatalog.get("own")
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    with pytest.raises(UserError, match=r"'own' has no class names; describe it under DATASETS\.CUSTOM"):
        build_train_loader(cfg, seed=0)
    cfg.DATALOADER.SAMPLER_TRAIN = "ClassAwareTrainingSampler"  # needs none
    assert len(list(itertools.islice(build_train_loader(cfg, seed=0, mapper=lambda record: record), 3))) == 3


def test_a_mixture_from_a_config_file_and_from_the_command_line(tmp_path):
    from eql_d2.engine import load_config

    path = tmp_path / "mixture.yaml"
    path.write_text(
        "DATALOADER: {SAMPLER_TRAIN: MixtureTrainingSampler, SAMPLER_MIXTURE: "
        "[[RepeatFactorTrainingSampler, 0.5], [ClassAwareTrainingSampler, 0.25], [TrainingSampler, 1]]}"
    )
    assert load_config(str(path)).DATALOADER.SAMPLER_MIXTURE == MIXTURE
    assert load_config("", ["DATALOADER.SAMPLER_MIXTURE", str(MIXTURE)]).DATALOADER.SAMPLER_MIXTURE == MIXTURE
