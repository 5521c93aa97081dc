"""What a lazy config builds by keywords refuses what a config would be refused for, in one sentence."""

import math

import pytest
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform

from eql_d2.data.category_counts import dataset_counts
from eql_d2.data.registration import register_lvis_format
from eql_d2.data.training.mapper import LongTailMapper
from eql_d2.engine.lazy_loader import detection_test_loader, detection_train_loader
from eql_d2.errors import UserError
from eql_d2.evaluation import LVISEvaluator
from eql_d2.losses import build_loss
from eql_d2.modeling import LongTailPredictor


def predictor(**options):
    options = {"num_classes": 6, "loss": build_loss("softmax", 6), **options}
    return LongTailPredictor(ShapeSpec(channels=4), box2box_transform=Box2BoxTransform((10, 10, 5, 5)), **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"loss": "eql"}, r"^The box predictor's loss is 'eql'; it must be a loss, as build_loss gives one\.$"),
        ({"prior_prob": 2.0}, r"PRIOR_PROB\) is 2\.0; it must be a number above 0 and below 1\.$"),
        ({"prior_prob": 0.0}, r"PRIOR_PROB\) is 0\.0; it must be a number above 0 and below 1\.$"),
        ({"test_score_thresh": 1.0}, r"SCORE_THRESH_TEST\) is 1\.0; it must be a number below 1\.$"),
        (
            {"normed_classifier": True, "temperature": "warm"},
            r"TEMPERATURE\) is 'warm'; it must be a number",
        ),
        ({"normed_classifier": True, "scaled_classifier": True}, "has both NORMED_CLASSIFIER and SCALED_CLASSIFIER"),
        (
            {"calibration": {"norcal": 1}},
            r"^The calibration has no option 'norcal'; its options are: tau_norm",
        ),
        ({"calibration": {"tau_norm": math.nan}}, r"TAU_NORM\) is nan; it must be a number of at least 0\.$"),
        ({"calibration": {"norcal_gamma": -1}}, r"NORCAL_GAMMA\) is -1; it must be a number of at least 0\.$"),
        ({"calibration": {"norcal_gamma": 1}}, r"^NorCal needs the numbers of training images; give image_counts=L\("),
    ],
)
def test_a_box_predictor(options, sentence):
    with pytest.raises(UserError, match=sentence):
        predictor(**options)


def test_counts_of_other_classes():
    calibration = {"norcal_gamma": 1.0, "image_counts": dataset_counts("lvis_v1_train")}
    with pytest.raises(UserError, match=r"^image_counts are of 1203 classes, the loss of 6\.$"):
        predictor(calibration=calibration)


@pytest.mark.parametrize(
    ("method", "options", "sentence"),
    [
        ("softmax", {"num_classes": "auto"}, "^num_classes is 'auto'; it must be a whole number of at least 1"),
        ("seesaw", {"num_classes": 6.5}, r"^num_classes is 6\.5; it must be a whole number of at least 1"),
        ("softmax", {"num_classes": True}, "^num_classes is True; it must be a whole number of at least 1"),
        ("seesaw", {"p": "0.8"}, r"^p is '0\.8', a text; seesaw takes no text there"),
        (
            "eql",
            {"statistics": [1, 2], "lambda_": 0.1},
            "^statistics is a list; it must be category counts",
        ),
    ],
)
def test_a_loss(method, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_loss(method, **{"num_classes": 6, **options})


def mapper(**options):
    options = {"is_train": True, "augmentations": [T.RandomFlip()], "image_format": "BGR", **options}
    return LongTailMapper(**options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"image_format": "XYZ"}, r"^INPUT\.FORMAT is 'XYZ'; it must be one of BGR, RGB, L, YUV-BT\.601\.$"),
        ({"instance_mask_format": "rle"}, r"^INPUT\.MASK_FORMAT is 'rle'; it must be polygon or bitmask\.$"),
        ({"image_level_labels": True}, "^The mapper has image_level_labels=True, but no num_classes"),
    ],
)
def test_a_mapper(options, sentence):
    with pytest.raises(UserError, match=sentence):
        mapper(**options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"names": ()}, r"^dataloader\.train\.names is empty"),
        ({"total_batch_size": 0}, r"^total_batch_size is 0; it must be a whole number of at least 1\.$"),
        ({"total_batch_size": "2"}, r"^total_batch_size is '2'; it must be a whole number of at least 1\.$"),
        ({"num_workers": -1}, r"^num_workers is -1; it must be a whole number of at least 0\.$"),
        ({"max_unreadable_images": 0.5}, r"^max_unreadable_images is 0\.5; it must be a whole number of at least 0\.$"),
        ({"mapper": None}, r"^The mapper of dataloader\.train is None; it must be one, as L\(LongTailMapper\)"),
        (
            {"copy_paste": {"hidden": 1}},
            "^copy_paste has no option 'hidden'; its options are: repeat_",
        ),
        ({"copy_paste": "yes"}, "^copy_paste has no option 'yes'"),
    ],
)
def test_a_loader(tiny_set, options, sentence):
    register_lvis_format("by_keywords", tiny_set / "train.json", tiny_set)
    with pytest.raises(UserError, match=sentence):
        detection_train_loader(**{"names": "by_keywords", "mapper": mapper(), "total_batch_size": 2, **options})
    if "mapper" in options:
        with pytest.raises(UserError, match=r"^The mapper of dataloader\.test is None"):
            detection_test_loader("by_keywords", mapper=None)


def test_an_evaluator(tiny_set):
    register_lvis_format("by_keywords", tiny_set / "val.json", tiny_set)
    with pytest.raises(UserError, match=r"^'boxes' cannot be evaluated; tasks are of bbox, segm"):
        LVISEvaluator("by_keywords", ("boxes",))
    with pytest.raises(UserError, match=r"^Dataset 'by_nothing' has no annotation file; register it"):
        LVISEvaluator("by_nothing")
