"""A user's own datasets: described in the config or in a file, in LVIS's or COCO's format, with some of the classes."""

import dataclasses

import detectron2.evaluation
import orjson
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from eql_d2.data.category_counts import dataset_counts
from eql_d2.data.registration import register_custom_datasets, register_lvis_format, set_class_metadata
from eql_d2.engine import LongTailTrainer, load_config
from eql_d2.engine.evaluating import counts_of_groups
from eql_d2.errors import UserError
from tests.conftest import ROOT
from tests.evaluation.predictions import evaluate, ground_truth_as_predictions

TINY = str(ROOT / "tests" / "tiny.yaml")


@pytest.fixture
def coco_set(tiny_set, tmp_path):
    """The tiny set in COCO's format with other ids, a crowd, and images beside it; as a folder."""
    for split in ("train", "val"):
        content = orjson.loads((tiny_set / f"{split}.json").read_bytes())
        for image in content["images"]:
            del image["neg_category_ids"], image["not_exhaustive_category_ids"]
        for record in content["categories"]:
            record["id"] = 1000 - 7 * record["id"]  # the order of the ids is turned round
            del record["frequency"]
        for annotation in content["annotations"]:
            annotation["category_id"] = 1000 - 7 * annotation["category_id"]
        crowd = content["annotations"][0]
        height, width = next((i["height"], i["width"]) for i in content["images"] if i["id"] == crowd["image_id"])
        counts = [0, 10 * height, height * (width - 10)]
        crowd |= {"iscrowd": 1, "bbox": [0, 0, 10, height], "area": 10 * height}
        crowd["segmentation"] = {"size": [height, width], "counts": counts}
        (tmp_path / f"{split}.json").write_bytes(orjson.dumps(content))
    (tmp_path / "images").symlink_to(tiny_set)
    return tmp_path


def entries(folder=None, **more):
    prefix = f"{folder}/" if folder else ""
    return [
        {"name": f"tiny_{split}", "annotations": f"{prefix}{split}.json", "images": f"{prefix}images", **more}
        for split in ("train", "val")
    ]


def names_of(name):
    set_class_metadata(name)
    return MetadataCatalog.get(name).thing_classes


def test_a_file_of_datasets_has_paths_of_its_own(coco_set):
    (coco_set / "mine.yaml").write_text(yaml.safe_dump(entries(format="coco")))
    cfg = load_config(TINY, ["DATASETS.CUSTOM_FILE", str(coco_set / "mine.yaml")])
    register_custom_datasets(cfg)
    dataset = DatasetCatalog.get("tiny_train")
    content = orjson.loads((coco_set / "train.json").read_bytes())
    assert len(dataset) == len(content["images"])
    by_id = {c["id"]: c["name"] for c in content["categories"]}
    classes = names_of("tiny_train")
    assert classes == [by_id[i] for i in sorted(by_id)]
    expected = {}
    for a in content["annotations"]:
        expected.setdefault(a["image_id"], []).append((by_id[a["category_id"]], a["bbox"], a.get("iscrowd", 0)))
    for item in dataset:
        found = [(classes[a["category_id"]], a["bbox"], a.get("iscrowd", 0)) for a in item["annotations"]]
        assert found == expected.get(item["image_id"], [])
        assert "neg_category_ids" not in item


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: x", "must hold a list of datasets"),
        ("[{", "is not valid YAML"),
        ("- {name: x}", "needs the keys annotations, images, name"),
        ("- {name: x, annotations: a, images: b, format: voc}", "'x' has the format 'voc'; it must be lvis"),
        ("- just words", "has the entry just words"),
    ],
)
def test_a_broken_file_of_datasets(tmp_path, text, sentence):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        register_custom_datasets(load_config(TINY, ["DATASETS.CUSTOM_FILE", str(tmp_path / "mine.yaml")]))
    assert str(tmp_path / "mine.yaml") in str(error.value)
    assert sentence in str(error.value)
    with pytest.raises(UserError, match=r"DATASETS.CUSTOM_FILE nowhere.yaml cannot be read \(No such file"):
        register_custom_datasets(load_config(TINY, ["DATASETS.CUSTOM_FILE", "nowhere.yaml"]))


def test_some_of_the_classes(coco_set):
    """The classes left out are not there for counts, data, samplers and evaluation."""
    cfg = load_config(TINY, ["DATASETS.CUSTOM", str(entries(coco_set, format="coco"))])
    register_custom_datasets(cfg)
    everything, all_counts = list(DatasetCatalog.get("tiny_train")), dataset_counts(("tiny_train",))
    chosen = [all_counts.names[4], all_counts.names[1]]
    cfg = load_config(TINY, ["DATASETS.CUSTOM", str(entries(coco_set, format="coco", categories=chosen))])
    register_custom_datasets(cfg)
    counts = dataset_counts(("tiny_train",))
    assert counts.names == (all_counts.names[1], all_counts.names[4])  # in the order of the ids
    assert counts.instance_counts == (all_counts.instance_counts[1], all_counts.instance_counts[4])
    assert counts.image_counts == (all_counts.image_counts[1], all_counts.image_counts[4])
    dataset = DatasetCatalog.get("tiny_train")
    for item, whole, summary in zip(dataset, everything, dataset.summaries(), strict=True):
        kept = [
            {**a, "category_id": (1, 4).index(a["category_id"])}
            for a in whole["annotations"]
            if a["category_id"] in (1, 4)
        ]
        assert item["annotations"] == kept
        assert [a["category_id"] for a in summary["annotations"]] == [
            a["category_id"] for a in kept if not a.get("iscrowd")
        ]


def test_a_class_that_is_not_there(coco_set):
    cfg = load_config(TINY, ["DATASETS.CUSTOM", str(entries(coco_set, format="coco", categories=["unicrn"]))])
    register_custom_datasets(cfg)
    with pytest.raises(UserError, match=r"train.json has no category 'unicrn'; "):
        dataset_counts(("tiny_train",))


@pytest.mark.parametrize("some", [False, True])
def test_coco_format_trains_and_evaluates(coco_set, some):
    """Two steps and an evaluation by COCO's rules, its groups from the training counts."""
    custom = entries(coco_set, format="coco")
    register_custom_datasets(load_config(TINY, ["DATASETS.CUSTOM", str(custom)]))
    if some:
        custom = entries(coco_set, format="coco", categories=list(dataset_counts(("tiny_train",)).names[:3]))
    options = ["DATASETS.CUSTOM", str(custom), "OUTPUT_DIR", str(coco_set / "run"), "SOLVER.MAX_ITER", "2"]
    options += ["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", "3" if some else "6"]
    cfg = load_config(TINY, options)
    register_custom_datasets(cfg)
    for name in ("tiny_train", "tiny_val"):
        set_class_metadata(name)
    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    metrics = trainer.test(cfg, trainer.model)["bbox"]
    assert {"AP", "APr", "APc", "APf"} <= set(metrics)
    counts = dataset_counts(("tiny_train",))
    assert trainer.build_evaluator(cfg, "tiny_val")._ground_truth.frequencies == list(counts.frequency_groups)
    assert (coco_set / "run" / "inference" / "tiny_val" / "per_class_ap_bbox.csv").read_text().count("\n") == 1 + len(
        counts.names
    )


def test_official_groups_go_before_those_of_the_training_data(tiny_cfg, tiny_set, tmp_path):
    """Whoever trains on a part of LVIS gets results in LVIS's groups; an explicit file overrules both."""
    of_training = dataset_counts(("tiny_train",))
    for name, image_counts in (("official", (5, 5, 50, 50, 500, 500)), ("explicit", (500, 50, 5, 500, 50, 5))):
        records = dataclasses.replace(of_training, image_counts=image_counts).to_records()
        (tmp_path / f"{name}.json").write_bytes(orjson.dumps(records))
    assert counts_of_groups(tiny_cfg, "tiny_val") == of_training
    official = {"category_counts_file": str(tmp_path / "official.json")}
    register_lvis_format("official_val", tiny_set / "val.json", tiny_set, **official)
    assert "".join(counts_of_groups(tiny_cfg, "official_val").frequency_groups) == "rrccff"
    tiny_cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS = str(tmp_path / "explicit.json")
    assert "".join(counts_of_groups(tiny_cfg, "official_val").frequency_groups) == "fcrfcr"
    tiny_cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS, tiny_cfg.DATASETS.TRAIN = "", ()
    assert counts_of_groups(tiny_cfg, "tiny_val") is None


def test_the_truth_has_full_marks_by_cocos_rules(coco_set):
    """Also where only some classes are used; a detection in the crowd counts for nothing, good or bad."""
    register_custom_datasets(load_config(TINY, ["DATASETS.CUSTOM", str(entries(coco_set, format="coco"))]))
    predictions = ground_truth_as_predictions("tiny_val")
    for engine in ("hotcoco", "lvis"):  # the latter is pycocotools by these rules
        metrics = evaluate("tiny_val", predictions, engine=engine)
        assert metrics["bbox"]["AP"] == metrics["segm"]["AP"] == pytest.approx(100)
    names = dataset_counts(("tiny_val",)).names
    register_custom_datasets(
        load_config(TINY, ["DATASETS.CUSTOM", str(entries(coco_set, format="coco", categories=[names[5], names[2]]))])
    )
    for _, instances in predictions:  # of the two classes only
        instances.pred_classes = torch.tensor([{2: 0, 5: 1}.get(c, -1) for c in instances.pred_classes.tolist()])
    kept = [(image, instances[instances.pred_classes >= 0]) for image, instances in predictions]
    assert evaluate("tiny_val", kept)["bbox"]["AP"] == pytest.approx(100)
    counts = dataset_counts(("tiny_train",))
    metrics = evaluate("tiny_val", kept, counts=counts)["bbox"]
    for letter in "rcf":
        assert (metrics[f"AP{letter}"] == pytest.approx(100)) is (letter in counts.frequency_groups)


def test_detectron2s_evaluator_knows_the_ids_of_a_loaded_set(tiny_set, tmp_path):
    """Loading says classes and ids, as Detectron2's loaders do; else its LVISEvaluator takes the ids for 1 … K."""
    pytest.importorskip("lvis")
    content = orjson.loads((tiny_set / "val.json").read_bytes())
    for record in content["categories"]:
        record["id"] = 1000 - 7 * record["id"]
    for image in content["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [1000 - 7 * number for number in image[key]]
    for annotation in content["annotations"]:
        annotation["category_id"] = 1000 - 7 * annotation["category_id"]
    (tmp_path / "val.json").write_bytes(orjson.dumps(content))
    register_lvis_format("other_ids", tmp_path / "val.json", tiny_set)
    assert MetadataCatalog.get("other_ids").get("thing_classes") is None
    DatasetCatalog.get("other_ids")
    names = MetadataCatalog.get("other_ids").thing_classes
    assert names == [record["name"] for record in reversed(content["categories"])]
    evaluator = detectron2.evaluation.LVISEvaluator("other_ids", ("bbox",), False, str(tmp_path))
    evaluator.reset()
    for image, instances in ground_truth_as_predictions("other_ids"):
        evaluator.process([image], [{"instances": instances}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_detectron2s_evaluator_of_a_set_in_cocos_format(coco_set, tmp_path):
    content = orjson.loads((coco_set / "val.json").read_bytes())
    for annotation in content["annotations"]:
        annotation.setdefault("iscrowd", 0)  # pycocotools asks for it
    (coco_set / "val.json").write_bytes(orjson.dumps(content))
    register_custom_datasets(load_config(TINY, ["DATASETS.CUSTOM", str(entries(coco_set, format="coco"))]))
    DatasetCatalog.get("tiny_val")
    assert MetadataCatalog.get("tiny_val").evaluator_type == "coco"
    evaluator = detectron2.evaluation.COCOEvaluator("tiny_val", ("bbox",), False, str(tmp_path))
    evaluator.reset()
    for image, instances in ground_truth_as_predictions("tiny_val"):
        evaluator.process([image], [{"instances": instances}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("key", ["name", "annotations", "images", "ignore_regions", "labels"])
@pytest.mark.parametrize("in_file", [False, True])
def test_a_path_or_name_that_is_no_text(tmp_path, key, in_file):
    entry = {"name": "numbers_train", "annotations": "a.json", "images": "photos", "format": "coco", key: 5}
    (tmp_path / "sets.yaml").write_text(str([entry]))
    source = ["DATASETS.CUSTOM_FILE", str(tmp_path / "sets.yaml")] if in_file else ["DATASETS.CUSTOM", str([entry])]
    sentence = rf"^{source[0]}.* has an entry whose {key} is 5, no text; write it in quotes"
    with pytest.raises(UserError, match=sentence):
        register_custom_datasets(load_config(TINY, source))
