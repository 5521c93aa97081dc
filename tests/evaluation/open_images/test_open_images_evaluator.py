"""Evaluation on a set in the form of Open Images: full marks, several processes, files, export, and the slow metric."""

import csv
import math
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from eql_d2.data.category_counts import count_annotations, dataset_counts
from eql_d2.data.checks.before_start import check_dataset
from eql_d2.data.open_images import source_of_entry
from eql_d2.data.registration import (
    register_custom_datasets,
    register_lvis_format,
    register_open_images,
    set_class_metadata,
)
from eql_d2.engine import LongTailTrainer, load_config
from eql_d2.errors import UserError
from eql_d2.evaluation import LVISEvaluator, OpenImagesEvaluator
from eql_d2.evaluation.open_images.files import evaluate_open_images
from tests.conftest import ROOT
from tests.evaluation.open_images_reference import read_predictions, reference_ap
from tests.open_images_set import LABELS, NUM_CLASSES, PARENTS, write_open_images_set
from tools import evaluate as evaluate_tool

ANCESTORS = {"/m/ear_": ["/m/food"], "/m/hatc": ["/m/food", "/m/snack"], "/m/popc": ["/m/food", "/m/snack", "/m/toy"]}


@pytest.fixture(scope="session")
def oi_folder(tiny_set, tmp_path_factory):
    return write_open_images_set(tiny_set, tmp_path_factory.mktemp("oi") / "openimages")


@pytest.fixture
def oi_cfg(oi_folder, tmp_path):
    """Config with the datasets oi_train and oi_val."""
    cfg = load_config("")
    cfg.DATASETS.CUSTOM = [
        {
            "name": f"oi_{split}",
            "format": "openimages",
            "annotations": str(oi_folder / f"challenge-2019-{official}-detection-bbox.csv"),
            "images": str(oi_folder / official),
        }
        for split, official in (("train", "train"), ("val", "validation"))
    ]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("oi_train",), ("oi_val",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    register_custom_datasets(cfg)
    return cfg


def instances_of(item, detections):
    """Instances of (class index, score, (x0, y0, x1, y1)) detections."""
    instances = Instances((item["height"], item["width"]))
    instances.pred_boxes = Boxes(torch.tensor([box for _, _, box in detections], dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor([score for _, score, _ in detections], dtype=torch.float32)
    instances.pred_classes = torch.tensor([c for c, _, _ in detections], dtype=torch.int64)
    return instances


def predictions_of(name, seed=None):
    """[(item, Instances)]: the truth with the ancestors of its classes, or with a seed something near it."""
    set_class_metadata(name)
    labels = [(LABELS | PARENTS)[class_name] for class_name in MetadataCatalog.get(name).thing_classes]
    rng = np.random.default_rng(seed)
    predictions = []
    for item in DatasetCatalog.get(name):
        detections = []
        for annotation in item["annotations"]:
            x, y, width, height = annotation["bbox"]
            label = labels[annotation["category_id"]]
            for each in (label, *ANCESTORS.get(label, [])):
                if seed is None:
                    detections.append((labels.index(each), 1.0, (x, y, x + width, y + height)))
                    continue
                for _ in range(rng.integers(0, 4)):
                    shift = rng.uniform(-0.2, 0.2, 4) * (width, height, width, height)
                    corners = np.array([x, y, x + width, y + height]) + shift
                    guess = labels.index(each) if rng.random() < 0.7 else int(rng.integers(NUM_CLASSES))
                    detections.append((guess, rng.random(), tuple(corners.clip(0, 64))))
        predictions.append((item, instances_of(item, detections)))
    return predictions


def evaluate(name, predictions, **options):
    evaluator = OpenImagesEvaluator(name, **options)
    for item, instances in predictions:
        evaluator.process([{"image_id": item["image_id"]}], [{"instances": instances}])
    return evaluator.evaluate()


def test_the_truth_gets_full_marks(oi_cfg, oi_folder):
    metrics = evaluate("oi_train", predictions_of("oi_train"), counts=dataset_counts(("oi_train",)))
    assert list(metrics["bbox"]) == ["AP50", "AP1", "AP2", "AP3", "AP4", "AP5"]
    assert all(value == pytest.approx(100, abs=1e-9) for value in metrics["bbox"].values())


def test_equals_the_slow_definition_on_the_exported_results(oi_cfg, oi_folder, tmp_path):
    """The whole way: official files and exported results against official files and our own numbers."""
    metrics = evaluate("oi_train", predictions_of("oi_train", seed=3), output_dir=str(tmp_path))
    prefix = "challenge-2019-train-detection"
    slow = reference_ap(
        oi_folder / f"{prefix}-bbox.csv",
        oi_folder / f"{prefix}-human-imagelabels.csv",
        oi_folder / "challenge-2019-label500-hierarchy.json",
        read_predictions(tmp_path / "open_images_predictions.csv"),
    )
    with open(tmp_path / "per_class_ap_bbox.csv", newline="") as file:
        ours = {row["label"]: float(row["AP50"]) for row in csv.DictReader(file)}
    assert {label: ap for label, ap in ours.items() if not math.isnan(ap)} == pytest.approx(
        {label: 100 * ap for label, ap in slow.items()}, abs=1e-4
    )
    assert metrics["bbox"]["AP50"] == pytest.approx(100 * np.mean(list(slow.values())), abs=1e-9)
    assert 10 < metrics["bbox"]["AP50"] < 90 and len(slow) == 9
    assert math.isnan(metrics["bbox"]["AP1"])  # no counts


def test_the_form_of_the_export(oi_cfg, tmp_path):
    predictions = predictions_of("oi_val")
    item, _ = predictions[0]
    detections = [(1, 0.5, (0.0, 16.0, 32.0, 64.0)), (8, 0.25, (-1.0, 0.0, 64.0, 70.0))]
    predictions[0] = (item, instances_of(item, detections))
    predictions[1] = (predictions[1][0], instances_of(item, []))
    evaluate("oi_val", predictions, output_dir=str(tmp_path))
    lines = (tmp_path / "open_images_predictions.csv").read_text().splitlines()
    assert lines[:3] == [
        "ImageID,PredictionString",
        "000301,/m/hatc 0.5 0.000000 0.250000 0.500000 1.000000 /m/toy 0.25 0.000000 0.000000 1.000000 1.000000",
        "000302,",
    ]
    assert len(lines) == 1 + len(predictions)


def evaluate_share(cfg, path):
    """Evaluate this process's share of the same predictions; the first writes the metrics."""
    register_custom_datasets(cfg)
    predictions = predictions_of("oi_val", seed=5)
    share = predictions[comm.get_rank() :: comm.get_world_size()]
    metrics = evaluate("oi_val", share, output_dir=cfg.OUTPUT_DIR, counts=dataset_counts(("oi_train",)))
    assert bool(metrics) is comm.is_main_process()
    if metrics:
        path.write_bytes(orjson.dumps(metrics))


def test_two_processes_equal_one(oi_cfg, tmp_path, monkeypatch, two_processes):
    monkeypatch.setenv("EQL_D2_CACHE", str(tmp_path / "cache"))  # both have to convert
    oi_cfg.OUTPUT_DIR = str(tmp_path / "two")
    two_processes(evaluate_share, oi_cfg, tmp_path / "two.json")
    oi_cfg.OUTPUT_DIR = str(tmp_path / "one")
    evaluate_share(oi_cfg, tmp_path / "one.json")
    one, two = ((tmp_path / f"{number}.json").read_bytes() for number in ("one", "two"))
    assert one == two and orjson.loads(one)["bbox"]["AP50"] > 10
    files = [(tmp_path / run / "open_images_predictions.csv").read_text() for run in ("one", "two")]
    assert sorted(files[0].splitlines()) == sorted(files[1].splitlines())
    assert files[1].startswith("ImageID,PredictionString\n")
    sizes = [len(orjson.loads((tmp_path / run / "open_images_results.json").read_bytes())) for run in ("one", "two")]
    assert sizes[0] == sizes[1] > 10


def test_results_file_by_the_tool(oi_cfg, tmp_path, capsys):
    MetadataCatalog.get("oi_train").prepare()
    counts = dataset_counts(("oi_train",))
    metrics = evaluate("oi_val", predictions_of("oi_val", seed=7), output_dir=str(tmp_path), counts=counts)
    annotations = {name: MetadataCatalog.get(name).json_file for name in ("oi_train", "oi_val")}
    arguments = ["--annotations", annotations["oi_val"], "--results", str(tmp_path / "open_images_results.json")]
    arguments += ["--train-annotations", annotations["oi_train"], "--output", str(tmp_path / "metrics.json")]
    export = ["--export", str(tmp_path / "new" / "export.csv"), "--per-class", str(tmp_path / "classes")]
    evaluate_tool.main([*arguments, "--rules", "openimages", *export])
    assert "AP50" in capsys.readouterr().out
    saved = orjson.loads((tmp_path / "metrics.json").read_bytes())["bbox"]
    assert saved == pytest.approx({k: None if math.isnan(v) else v for k, v in metrics["bbox"].items()}, abs=1e-3)
    one, other = (tmp_path / "new" / "export.csv", tmp_path / "open_images_predictions.csv")
    for mine, theirs in zip(read_predictions(one), read_predictions(other), strict=True):
        assert mine[:2] == theirs[:2]
        assert [mine[2], *mine[3]] == pytest.approx([theirs[2], *theirs[3]], abs=1e-5)
    assert (tmp_path / "classes" / "per_class_ap_bbox.csv").exists()
    content = orjson.loads(Path(annotations["oi_val"]).read_bytes())
    content["annotations"][0]["bbox"][2] = -4
    arguments[1] = str(tmp_path / "defective.json")
    Path(arguments[1]).write_bytes(orjson.dumps(content))
    with pytest.raises(UserError, match=r"defective.json: .* tools/check_dataset.py lists them all\.$"):
        evaluate_tool.main([*arguments, "--rules", "openimages"])
    arguments[1] = annotations["oi_val"]
    with pytest.raises(UserError, match="goes with --rules openimages"):
        evaluate_tool.main([*arguments, *export])
    with pytest.raises(UserError, match="is about AP50 of boxes"):
        evaluate_tool.main([*arguments, "--rules", "openimages", "--fixed-ap"])


def test_the_trainer_chooses_the_evaluator(oi_cfg, tiny_set, tmp_path):
    evaluator = LongTailTrainer.build_evaluator(oi_cfg, "oi_val", str(tmp_path))
    assert isinstance(evaluator, OpenImagesEvaluator)
    register_lvis_format("plain_val", tiny_set / "val.json", tiny_set)
    assert isinstance(LongTailTrainer.build_evaluator(oi_cfg, "plain_val", str(tmp_path)), LVISEvaluator)


def test_without_counts_the_groups_are_undefined(oi_cfg, tmp_path, caplog):
    oi_cfg.DATASETS.TRAIN = ()
    evaluator = LongTailTrainer.build_evaluator(oi_cfg, "oi_val", str(tmp_path))
    assert "No source of category counts" in caplog.text
    evaluator.process([{"image_id": 1}], [{"instances": instances_of({"height": 64, "width": 64}, [])}])
    metrics = evaluator.evaluate()["bbox"]
    assert metrics.pop("AP50") == 0.0 and all(map(math.isnan, metrics.values()))


def test_bad_predictions(oi_cfg, oi_folder, tiny_set, tmp_path):
    evaluator = OpenImagesEvaluator("oi_val")
    item = {"height": 64, "width": 64}
    good = {"instances": instances_of(item, [])}
    with pytest.raises(UserError, match="Image id 99 is not in"):
        evaluator.process([{"image_id": 99}], [good])
    evaluator.process([{"image_id": 1}], [good])
    with pytest.raises(UserError, match=r"Image id 1 of .* was given twice"):
        evaluator.process([{"image_id": 1}], [good])
    with pytest.raises(UserError, match="not finite"):
        evaluator.process([{"image_id": 2}], [{"instances": instances_of(item, [(0, math.nan, (0, 0, 1, 1))])}])
    content = orjson.loads((tiny_set / "val.json").read_bytes())
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    (tmp_path / "coco.json").write_bytes(orjson.dumps(content))
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(UserError, match="does not say for which classes an image is labelled"):
        evaluate_open_images(tmp_path / "coco.json", tmp_path / "results.json")
    with pytest.raises(UserError, match="has no category 7"):
        evaluate_open_images(
            MetadataCatalog.get("oi_val").json_file,
            tmp_path / "results.json",
            train_annotations=tiny_set / "train.json",
        )


# --- a whole run ------------------------------------------------------------------------------------------


def test_train_evaluate_and_export(oi_cfg, tmp_path):
    """A few steps with EQL, then the metric of its detections and their export, equal to the slow definition."""
    cfg = load_config(str(ROOT / "tests" / "tiny.yaml"), ["OUTPUT_DIR", str(tmp_path / "run"), "MODEL.MASK_ON", False])
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("oi_train",), ("oi_val",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    for name in ("oi_train", "oi_val"):
        set_class_metadata(name)
        check_dataset(name, evaluated=True)
    torch.manual_seed(0)
    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    predictor = trainer.model.roi_heads.box_predictor
    counts = dataset_counts(("oi_train",))
    assert predictor.loss.tail_weight.tolist() == [float(f < 0.333) for f in counts.image_frequencies]
    metrics = LongTailTrainer.test(cfg, trainer.model)
    metrics = metrics.get("bbox") or metrics["oi_val"]["bbox"]
    assert 0 <= metrics["AP50"] <= 100
    prefix = "challenge-2019-validation-detection"
    folder = Path(cfg.OUTPUT_DIR) / "inference" / "oi_val"
    oi_folder = Path(oi_cfg.DATASETS.CUSTOM[1]["annotations"]).parent
    predictions = read_predictions(folder / "open_images_predictions.csv")
    assert len(predictions) > 50
    slow = reference_ap(
        oi_folder / f"{prefix}-bbox.csv",
        oi_folder / f"{prefix}-human-imagelabels.csv",
        oi_folder / "challenge-2019-label500-hierarchy.json",
        predictions,
    )
    assert metrics["AP50"] == pytest.approx(100 * np.mean(list(slow.values())), abs=0.2)  # six digits of scores


def test_borrowed_images_join_a_run_with_masks(tiny_cfg, oi_folder, tmp_path):
    """One training run on masks of one set and boxes of another, whose classes become the first one's categories."""
    (tmp_path / "classes.yaml").write_text("".join(f"{name}: {name}\n" for name in list(LABELS)[:4]))
    entry = {
        "name": "borrowed",
        "format": "openimages",
        "annotations": str(oi_folder / "challenge-2019-validation-detection-bbox.csv"),
        "images": str(oi_folder / "validation"),
        "classes": str(tmp_path / "classes.yaml"),
        "categories_of": "tiny_train",
    }
    tiny_cfg.DATASETS.CUSTOM = [*tiny_cfg.DATASETS.CUSTOM, entry]
    register_custom_datasets(tiny_cfg)
    tiny_cfg.DATASETS.TRAIN = ("tiny_train", "borrowed")
    for name in tiny_cfg.DATASETS.TRAIN:
        set_class_metadata(name)
        check_dataset(name)
    both, own = dataset_counts(tiny_cfg.DATASETS.TRAIN), dataset_counts(("tiny_train",))
    assert sum(both.instance_counts) > sum(own.instance_counts)
    torch.manual_seed(0)
    trainer = LongTailTrainer(tiny_cfg)
    samples = trainer.data_loader.dataset
    borrowed, with_masks = samples[len(samples) - 1, 0]["instances"], samples[0, 0]["instances"]
    assert not borrowed.gt_has_mask.any() and len(borrowed) > 0
    assert not with_masks.has("gt_has_mask") or with_masks.gt_has_mask.all()
    batch = [samples[len(samples) - 1, 0], samples[0, 0]]
    with EventStorage():
        losses = trainer.model.train()(batch)
    assert losses["loss_mask"] > 0
    sum(losses.values()).backward()


def test_counts_need_no_image(oi_cfg, oi_folder, tmp_path, monkeypatch):
    """Who evaluates needs the training set's CSV files, not its images; counts are those of the annotation file."""
    for index, options in enumerate([{}, {"expand": True}, {"group_of": "crowd"}]):
        entry = oi_cfg.DATASETS.CUSTOM[0] | options
        register_open_images("with_images", source_of_entry(entry))
        metadata = MetadataCatalog.get("with_images")
        metadata.prepare()
        expected = count_annotations(metadata.json_file)
        empty = tmp_path / str(index)
        empty.mkdir()
        register_open_images("without_images", source_of_entry(entry | {"images": str(empty)}))
        for _ in range(2):  # counted, and read
            assert dataset_counts(("without_images",)) == expected
        with pytest.raises(UserError, match="images of Open Images are missing"):
            MetadataCatalog.get("without_images").prepare()
    assert sum(expected.instance_counts) < 423  # without those of groups
