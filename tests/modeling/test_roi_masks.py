"""RoI masks instead of bitmaps: the detections and masks are those of the model itself."""

import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from detectron2.structures import ROIMasks
from torch import nn

from eql_d2.evaluation.results.mask_encoding import instances_to_results
from eql_d2.modeling import LongTailRCNNWithTTA
from eql_d2.modeling.roi_masks import keep_roi_masks
from tests.modeling.test_test_time_augmentation import detect, lively_model, some_images


@pytest.fixture
def lively_cfg(tiny_cfg):
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 1e-5
    tiny_cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = False
    tiny_cfg.TEST.AUG.MIN_SIZES, tiny_cfg.TEST.AUG.FLIP = (48,), True
    return tiny_cfg


def lively_models(cfg):
    """Models of the same weights: one that computes the own class's masks alone, and one that computes all."""
    cfg.MODEL.ROI_MASK_HEAD.OWN_CLASS_ONLY = False
    full = lively_model(cfg)
    cfg.MODEL.ROI_MASK_HEAD.OWN_CLASS_ONLY = True
    model = build_model(cfg).eval()
    model.load_state_dict(full.state_dict())
    return model, full


def resized(images):
    """As they come from disk, in another size than that of the model's input."""
    return [{**image, "height": 50, "width": 90} for image in images]


@pytest.mark.parametrize("augmented", [False, True])
def test_results_are_those_of_the_bitmaps(lively_cfg, augmented):
    model, _ = lively_models(lively_cfg)
    images = resized(some_images(lively_cfg))
    if augmented:
        model, ours = LongTailRCNNWithTTA(lively_cfg, model), LongTailRCNNWithTTA(lively_cfg, model, roi_masks=True)
    else:
        ours = keep_roi_masks(model)
    for of_image, expected in zip(detect(ours, images), detect(model, images), strict=True):
        assert isinstance(of_image.pred_masks, ROIMasks)
        assert of_image.image_size == expected.image_size == (50, 90)
        assert expected.pred_masks.shape == (len(expected), 50, 90)
        assert len(expected) > 20 and expected.pred_masks.any() and not expected.pred_masks.all()
        assert instances_to_results(of_image, 3) == instances_to_coco_json(expected, 3)


def test_no_detections(lively_cfg):
    lively_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.9999
    model, _ = lively_models(lively_cfg)
    for ours in (keep_roi_masks(model), LongTailRCNNWithTTA(lively_cfg, model, roi_masks=True)):
        (instances,) = detect(ours, some_images(lively_cfg, 1))
        assert instances_to_results(instances, 1) == []


@pytest.mark.parametrize("augmented", [False, True])
def test_masks_of_the_own_class_under_augmentation(lively_cfg, augmented):
    """Class-specific masks are the same, whether all classes' are computed or one."""
    both = lively_models(lively_cfg)
    images = some_images(lively_cfg)
    models = [LongTailRCNNWithTTA(lively_cfg, m, roi_masks=True) if augmented else keep_roi_masks(m) for m in both]
    for ours, theirs in zip(*(detect(m, images) for m in models), strict=True):
        assert len(ours.pred_classes.unique()) > 1
        torch.testing.assert_close(ours.pred_masks.tensor, theirs.pred_masks.tensor)


def test_models_without_masks_or_of_another_kind_stay(tiny_cfg):
    class Other(nn.Module):
        """Some model of a user's."""

    other = Other()
    assert keep_roi_masks(other) is other
    tiny_cfg.MODEL.MASK_ON = False
    model = build_model(tiny_cfg)
    assert keep_roi_masks(model) is model


def test_a_forward_pass_of_its_own_is_respected(tiny_cfg):
    model = build_model(tiny_cfg)
    model.__class__ = type("Changed", (type(model),), {"forward": lambda self, images: []})
    assert keep_roi_masks(model) is model


def test_the_mode_of_the_model_is_kept(tiny_cfg):
    model = build_model(tiny_cfg)
    assert keep_roi_masks(model.train()).training
    assert not keep_roi_masks(model.eval()).training
