"""A detector from a checkpoint alone: its config, its classes, and the same detections as evaluation's."""

import shutil
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as rle

from eql_d2.data.category_counts import category_counts
from eql_d2.engine import LongTailTrainer
from eql_d2.engine.config_files import parse_config
from eql_d2.engine.description import class_records, describe_run, read_description
from eql_d2.errors import UserError
from eql_d2.long_tail import CategoryCounts
from eql_d2.prediction.inputs import read_rgb
from eql_d2.prediction.predictor import Predictor
from tests.engine.test_resume import train


@pytest.fixture
def checkpoint(tiny_checkpoint):
    return str(tiny_checkpoint)


@pytest.fixture
def dataset_gone(tiny_set, checkpoint):
    """The dataset's registration and files are out of reach while the test runs."""
    hidden = tiny_set.with_name("hidden")
    for name in ("tiny_train", "tiny_val"):
        MetadataCatalog.remove(name)
        DatasetCatalog.remove(name)
    tiny_set.rename(hidden)
    yield hidden
    hidden.rename(tiny_set)


def test_the_checkpoint_alone_is_enough(checkpoint, dataset_gone):
    """EQL needs the category counts; they and the names come from the checkpoint."""
    content = torch.load(checkpoint, weights_only=True)
    predictor = Predictor(checkpoint, overrides=["MODEL.DEVICE", "cpu"], score_threshold=0.0, max_detections=7)
    assert predictor.cfg.MODEL.ROI_BOX_HEAD.PREDICTOR == "EQLPredictor"
    assert predictor.cfg.MODEL.ROI_BOX_HEAD.FC_DIM == 32
    assert len(predictor.categories) == 6
    assert all(torch.equal(value, content["model"][name]) for name, value in predictor.model.state_dict().items())
    assert not predictor.model.training
    records = content["classes"]
    is_tail = [category["image_count"] / records["num_images"] < 0.333 for category in records["categories"]]
    assert predictor.model.roi_heads.box_predictor.loss.tail_weight.tolist() == is_tail
    assert {True, False} == set(is_tail)
    image = read_rgb(next((dataset_gone / "val").glob("*.jpg")))
    assert len(predictor(image)) == 7


def test_names_and_counts_are_those_of_the_annotation_file(checkpoint, tiny_set, tiny_cfg):
    content = orjson.loads((tiny_set / "train.json").read_bytes())
    records = read_description(checkpoint)["classes"]
    by_id = {category["id"]: category for category in content["categories"]}
    assert [c["id"] for c in records["categories"]] == sorted(by_id)
    for record in records["categories"]:
        own = [a for a in content["annotations"] if a["category_id"] == record["id"]]
        assert record["name"] == by_id[record["id"]]["name"]
        assert record["frequency"] == by_id[record["id"]]["frequency"]
        assert record["instance_count"] == len(own)
        assert record["image_count"] == len({a["image_id"] for a in own})
    assert CategoryCounts.from_records(records) == category_counts(tiny_cfg)


def test_detections_are_those_of_evaluation(checkpoint, tiny_cfg, tiny_set):
    tiny_cfg.MODEL.WEIGHTS = checkpoint
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    model = LongTailTrainer.build_trained_model(tiny_cfg).eval()
    predictor = Predictor(checkpoint, overrides=["MODEL.DEVICE", "cpu"], score_threshold=0.0)
    for inputs in list(LongTailTrainer.build_test_loader(tiny_cfg, "tiny_val"))[:3]:
        with torch.no_grad():
            expected = model(inputs)[0]["instances"]
        found = predictor(read_rgb(inputs[0]["file_name"]))
        assert len(expected) > 0
        assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
        assert torch.equal(found.scores, expected.scores)
        assert torch.equal(found.pred_classes, expected.pred_classes)
        assert torch.equal(found.pred_masks, expected.pred_masks)


def test_records_equal_the_instances(checkpoint, tiny_set):
    predictor = Predictor(checkpoint, overrides=["MODEL.DEVICE", "cpu"], score_threshold=0.0, max_detections=5)
    instances = predictor(read_rgb(next((tiny_set / "val").glob("*.jpg"))))
    records = predictor.to_records(instances, 77)
    assert len(records) == 5
    for index, record in enumerate(records):
        left, top, right, bottom = instances.pred_boxes.tensor[index].tolist()
        assert record["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=1e-4)
        assert np.array_equal(rle.decode(record["segmentation"]).astype(bool), instances.pred_masks[index].numpy())
        assert record["score"] == pytest.approx(instances.scores[index].item())
        assert record["category_id"] == predictor.categories[instances.pred_classes[index]]["id"]
        assert record["image_id"] == 77


def test_a_gpu_without_enough_memory(checkpoint, monkeypatch):
    def forward(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    predictor = Predictor(checkpoint, overrides=["MODEL.DEVICE", "cpu"])
    monkeypatch.setattr(type(predictor.model), "forward", forward)
    with pytest.raises(UserError, match=r"not enough memory for an image of 30 x 20 pixels; set INPUT\.MIN_SIZE_TEST"):
        predictor(np.zeros((20, 30, 3), dtype=np.uint8))


def test_threshold_and_number(checkpoint, tiny_set):
    image = read_rgb(next((tiny_set / "val").glob("*.jpg")))
    options = {"overrides": ["MODEL.DEVICE", "cpu"]}
    scores = Predictor(checkpoint, score_threshold=0.0, **options)(image).scores
    threshold = scores[len(scores) // 2].item()
    above = Predictor(checkpoint, score_threshold=threshold, **options)(image).scores
    assert 0 < len(above) < len(scores)
    assert torch.equal(above, scores[scores > threshold])
    assert torch.equal(
        Predictor(checkpoint, score_threshold=0.0, max_detections=3, **options)(image).scores, scores[:3]
    )


def test_plain_detectron2_loads_the_checkpoint(checkpoint, tiny_cfg):
    model = LongTailTrainer.build_model(tiny_cfg)
    rest = DetectionCheckpointer(model).load(checkpoint)
    weights = torch.load(checkpoint)["model"]
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert rest["iteration"] == 0


def test_resuming_and_saving_again(checkpoint, tiny_cfg):
    """The description of a run that goes on is that of its present config."""
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.DATASETS.TEST = 2, ()
    Path(tiny_cfg.OUTPUT_DIR).mkdir()
    shutil.copy(checkpoint, tiny_cfg.OUTPUT_DIR)
    Path(tiny_cfg.OUTPUT_DIR, "last_checkpoint").write_text("model_final.pth")
    trainer = train(tiny_cfg, resume=True)
    assert trainer.start_iter == 1
    content = read_description(f"{tiny_cfg.OUTPUT_DIR}/model_final.pth")
    assert parse_config(content["config"], "").SOLVER.MAX_ITER == 2
    assert parse_config(read_description(checkpoint)["config"], "").SOLVER.MAX_ITER == 4


def test_an_older_checkpoint_takes_the_config_beside_it(checkpoint, tiny_cfg, tmp_path):
    content = torch.load(checkpoint)
    older = tmp_path / "older" / "model_final.pth"
    older.parent.mkdir()
    torch.save({"model": content["model"]}, older)
    with pytest.raises(UserError, match=r"older/model_final.pth hold no config, .*older/config.yaml; .*--config-file"):
        Predictor(older)
    (older.parent / "config.yaml").write_text(content["config"])
    predictor = Predictor(older, overrides=["MODEL.DEVICE", "cpu"])
    assert predictor.categories == content["classes"]["categories"]


def test_a_config_from_a_checkpoint_runs_no_code(checkpoint, tmp_path):
    content = torch.load(checkpoint)
    content["config"] += f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n"
    torch.save(content, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"The config in .*evil.pth asks to run Python"):
        Predictor(tmp_path / "evil.pth")
    assert not (tmp_path / "made").exists()


def test_classes_without_counts(tiny_cfg):
    """A set in COCO's format can be trained on with a softmax; its names travel all the same."""
    MetadataCatalog.get("tiny_coco").set(
        thing_classes=list("abcdef"), thing_dataset_id_to_contiguous_id={3 * i + 1: i for i in range(6)}
    )
    tiny_cfg.DATASETS.TRAIN = tiny_cfg.DATASETS.TEST = ("tiny_coco",)
    try:
        DatasetCatalog.register("tiny_coco", list)
        records = class_records(tiny_cfg)
    finally:
        DatasetCatalog.remove("tiny_coco")
        MetadataCatalog.remove("tiny_coco")
    assert records == {"num_images": None, "categories": [{"id": 3 * i + 1, "name": n} for i, n in enumerate("abcdef")]}


def test_classes_of_a_config_without_datasets(tiny_cfg):
    tiny_cfg.DATASETS.TRAIN = tiny_cfg.DATASETS.TEST = ()
    assert "classes" not in describe_run(tiny_cfg)
    with pytest.raises(UserError, match=r"The config names no classes; set DATASETS.TEST"):
        class_records(tiny_cfg)


# --- mistakes ---------------------------------------------------------------------------------------------


def refused(*args, **kwargs):
    with pytest.raises(UserError) as error:
        Predictor(*args, **kwargs)
    return str(error.value)


def test_weights_that_are_missing_or_broken(checkpoint, tmp_path):
    assert "nowhere.pth cannot be read" in refused(tmp_path / "nowhere.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    assert "text.pth" in refused(tmp_path / "text.pth")
    content = Path(checkpoint).read_bytes()
    (tmp_path / "half.pth").write_bytes(content[: len(content) // 2])
    assert "half.pth are truncated" in refused(tmp_path / "half.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    assert "empty.pth are truncated" in refused(tmp_path / "empty.pth")


def test_weights_of_another_model(checkpoint):
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"]
    assert "do not fit the model: roi_heads.box_head.fc1.weight (shape" in refused(checkpoint, overrides=overrides)


def test_an_unknown_key(checkpoint):
    sentence = refused(checkpoint, overrides=["MODEL.DEVISE", "cpu"])
    assert sentence == "Config key MODEL.DEVISE does not exist; did you mean MODEL.DEVICE?"


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"score_threshold": 1.0}, "must be at least 0 and less than 1"),
        ({"score_threshold": float("nan")}, "must be at least 0 and less than 1"),
        ({"max_detections": 0}, "must be at least 1"),
    ],
)
def test_values_out_of_range(option, sentence):
    assert sentence in refused("any.pth", **option)
