"""Test-time augmentation: Detectron2's results, without its score matrix."""

import pytest
import torch
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model

from eql_d2.data.training.loader import build_test_loader
from eql_d2.errors import UserError
from eql_d2.modeling import BOX_PREDICTOR_REGISTRY, LongTailRCNNWithTTA


@pytest.fixture
def tta_cfg(tiny_cfg):
    """Two sizes, mirrored too, of 64 px images; a score threshold that keeps hundreds of detections."""
    tiny_cfg.TEST.AUG.MIN_SIZES = (48, 80)
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 1e-5
    return tiny_cfg


def make_cascade(cfg):
    cfg.MODEL.ROI_HEADS.NAME = "LongTailCascadeROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True


def lively_model(cfg):
    """A model whose scores, boxes and masks differ from place to place, as they do after training."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for name, parameter in model.roi_heads.named_parameters():
            if name.endswith("weight") and "predictor" in name:
                parameter.mul_(30)
        mask_predictor = model.roi_heads.mask_head.predictor
        mask_predictor.weight.mul_(30)
        logits = []
        hook = mask_predictor.register_forward_hook(lambda _, __, output: logits.append(output))
        model(some_images(cfg))
        hook.remove()
        mask_predictor.bias.sub_(logits[0].median())  # probabilities on both sides of 1/2
    return model


def some_images(cfg, count=2):
    batches = iter(build_test_loader(cfg, "tiny_val"))
    return [next(batches)[0] for _ in range(count)]


def detect(model, images):
    with torch.no_grad():
        return [output["instances"] for output in model(images)]


def filled(instances):
    """Mean share of its box that a mask fills."""
    pixels = instances.pred_masks.flatten(1).sum(dim=1)
    return (pixels / instances.pred_boxes.area().clamp(min=1)).mean().item()


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    assert ours.image_size == theirs.image_size
    assert torch.equal(ours.scores, theirs.scores)
    assert torch.equal(ours.pred_classes, theirs.pred_classes)
    assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
    assert torch.equal(ours.pred_masks, theirs.pred_masks)


@pytest.mark.parametrize("predictor", [name for name, _ in BOX_PREDICTOR_REGISTRY])
@pytest.mark.parametrize("cascade", [False, True])
def test_equals_detectron2(tta_cfg, predictor, cascade):
    tta_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = predictor
    if cascade:
        make_cascade(tta_cfg)
    model = lively_model(tta_cfg)
    images = some_images(tta_cfg, 1)
    ours, theirs = (detect(kind(tta_cfg, model), images) for kind in (LongTailRCNNWithTTA, GeneralizedRCNNWithTTA))
    for our_instances, their_instances in zip(ours, theirs, strict=True):
        assert_equal(our_instances, their_instances)
        assert len(our_instances) > 20
        assert 0.1 < filled(our_instances) < 0.9
        assert len(our_instances.pred_classes.unique()) > 1


@pytest.mark.parametrize("cascade", [False, True])
def test_equals_detectron2_with_its_own_heads(tta_cfg, cascade):
    """Nothing of this project takes part in what ours is compared with."""
    tta_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = "SoftmaxPredictor"
    if cascade:
        make_cascade(tta_cfg)
    model = lively_model(tta_cfg)
    images = some_images(tta_cfg)
    ours = detect(LongTailRCNNWithTTA(tta_cfg, model), images)
    tta_cfg.MODEL.ROI_HEADS.NAME = "CascadeROIHeads" if cascade else "StandardROIHeads"
    plain = build_model(tta_cfg).eval()
    plain.load_state_dict(model.state_dict())
    for our_instances, theirs in zip(ours, detect(GeneralizedRCNNWithTTA(tta_cfg, plain), images), strict=True):
        assert len(our_instances) == len(theirs) > 20
        torch.testing.assert_close(our_instances.scores, theirs.scores)
        torch.testing.assert_close(our_instances.pred_boxes.tensor, theirs.pred_boxes.tensor)
        assert (our_instances.pred_masks != theirs.pred_masks).float().mean() < 1e-4


def test_one_augmentation_that_changes_nothing(tta_cfg):
    """The image's own size, not mirrored: the detections of the model by itself."""
    tta_cfg.TEST.AUG.MIN_SIZES, tta_cfg.TEST.AUG.FLIP = (64,), False
    model = lively_model(tta_cfg)
    images = some_images(tta_cfg)
    for image in images:
        (augmented,), (plain,) = (detect(m, [image]) for m in (LongTailRCNNWithTTA(tta_cfg, model), model))
        assert_equal(augmented, plain)


@pytest.mark.parametrize("cascade", [False, True])
def test_a_mirrored_image_has_mirrored_detections(tta_cfg, cascade):
    """With FLIP an image and its mirror image have the same augmentations, in another order."""
    if cascade:
        make_cascade(tta_cfg)
    tta_cfg.TEST.AUG.MIN_SIZES = (64,)
    model = LongTailRCNNWithTTA(tta_cfg, lively_model(tta_cfg))
    (image,) = some_images(tta_cfg, 1)
    (straight,) = detect(model, [image])
    (mirrored,) = detect(model, [{**image, "image": image["image"].flip(dims=[2])}])
    torch.testing.assert_close(mirrored.scores, straight.scores)
    assert torch.equal(mirrored.pred_classes, straight.pred_classes)
    x0, y0, x1, y1 = straight.pred_boxes.tensor.unbind(dim=1)
    torch.testing.assert_close(
        mirrored.pred_boxes.tensor, torch.stack([64 - x1, y0, 64 - x0, y1], dim=1), atol=1e-3, rtol=0
    )
    different = mirrored.pred_masks != straight.pred_masks.flip(dims=[2])
    assert different.sum() < 0.05 * straight.pred_masks.sum()
    assert 0.1 < filled(straight) < 0.9


def test_the_merge_knows_no_number_of_classes(tta_cfg):
    """A score matrix of a billion classes would take 200 GB."""
    model = LongTailRCNNWithTTA(tta_cfg, lively_model(tta_cfg))
    model.cfg.MODEL.ROI_HEADS.NUM_CLASSES = 10**9
    corners = torch.arange(50.0)[:, None] * 10
    boxes = torch.cat([corners, corners, corners + 8, corners + 8], dim=1)
    merged = model._merge_detections(boxes, torch.linspace(0.1, 0.9, 50), torch.arange(50), (600, 600))
    assert merged.pred_classes.tolist() == list(range(49, -1, -1))


def test_no_detections(tta_cfg):
    tta_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.9999
    (instances,) = detect(LongTailRCNNWithTTA(tta_cfg, lively_model(tta_cfg)), some_images(tta_cfg, 1))
    assert len(instances) == 0
    assert instances.pred_masks.shape == (0, 64, 64)


def test_boxes_only(tta_cfg):
    tta_cfg.MODEL.MASK_ON = False
    torch.manual_seed(0)
    model = build_model(tta_cfg).eval()
    images = some_images(tta_cfg)
    ours, theirs = (detect(kind(tta_cfg, model), images) for kind in (LongTailRCNNWithTTA, GeneralizedRCNNWithTTA))
    for our_instances, their_instances in zip(ours, theirs, strict=True):
        assert torch.equal(our_instances.pred_boxes.tensor, their_instances.pred_boxes.tensor)
        assert len(our_instances) > 20 and not our_instances.has("pred_masks")


def test_the_mode_of_the_model_is_kept(tta_cfg):
    """Detectron2's evaluation puts back what it finds on the outermost module."""
    model = lively_model(tta_cfg)
    assert not LongTailRCNNWithTTA(tta_cfg, model).training
    assert LongTailRCNNWithTTA(tta_cfg, model.train()).training


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("TEST.AUG.MIN_SIZES", (), r"TEST.AUG.MIN_SIZES is \(\); it must be sizes in pixels"),
        ("TEST.AUG.MIN_SIZES", (400, 0), r"TEST.AUG.MIN_SIZES is \(400, 0\)"),
        ("MODEL.META_ARCHITECTURE", "RetinaNet", "needs MODEL.META_ARCHITECTURE GeneralizedRCNN, not RetinaNet"),
        ("MODEL.LOAD_PROPOSALS", True, "does not go with MODEL.LOAD_PROPOSALS"),
        ("MODEL.KEYPOINT_ON", True, "does not go with MODEL.KEYPOINT_ON"),
    ],
)
def test_configs_that_cannot_be_augmented(tta_cfg, key, value, sentence):
    model = lively_model(tta_cfg)
    tta_cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match=sentence):
        LongTailRCNNWithTTA(tta_cfg, model)
