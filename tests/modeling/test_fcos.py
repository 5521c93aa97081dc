"""FCOS with the losses of this project: focal loss as Detectron2's, every loss that fits, exact selection."""

import pytest
import torch
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.structures import Boxes, pairwise_ioa
from detectron2.utils.events import EventStorage

from eql_d2.data.training.image_targets import ImageTargets
from eql_d2.errors import UserError
from tests.modeling.test_dense_detectors import K, cfg, features_of, make_inputs, targets  # noqa: F401
from tests.modeling.test_dense_detectors import build as build_dense


def build(cfg, loss="focal"):  # noqa: F811
    cfg.MODEL.META_ARCHITECTURE = "LongTailFCOS"
    return build_dense(cfg, loss)


def losses_of(model, images=3):
    with EventStorage():
        return model.train()(make_inputs()[:images])


def test_losses_are_detectron2_s_but_for_the_normalizer(cfg):  # noqa: F811
    ours = build(cfg)
    theirs = FCOS(
        backbone=ours.backbone,
        head=ours.head,
        head_in_features=ours.head_in_features,
        num_classes=K,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )
    values, expected = losses_of(ours, 2), losses_of(theirs, 2)  # both with objects
    labels = torch.stack(ours.label_anchors(ours.anchor_generator(features_of(ours)), targets())[0])
    scale = theirs.loss_normalizer / (labels < K).sum().item()
    for name, other in (("cls", "cls"), ("box_reg", "loc"), ("centerness", "ctr")):
        assert values[f"loss_{name}"].item() == pytest.approx(expected[f"loss_fcos_{other}"].item() * scale, rel=1e-4)


@pytest.mark.parametrize("name", ["efl", "eqfl", "eql"])
def test_every_dense_loss_trains_and_predicts(cfg, name):  # noqa: F811
    model = build(cfg, name)
    losses = losses_of(model)
    sum(losses.values()).backward()
    assert model.head.cls_score.weight.grad.abs().sum() > 0
    assert model.head.ctrness.weight.grad.abs().sum() > 0
    detections = model.eval()(make_inputs())[0]["instances"]
    assert 20 < len(detections) <= cfg.TEST.DETECTIONS_PER_IMAGE


def test_scores_are_roots_of_class_times_centerness(cfg):  # noqa: F811
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    model = build(cfg).eval()
    model.test_nms_thresh = 1.1  # nothing is suppressed
    torch.nn.init.ones_(model.head.bbox_pred.bias)  # and no box is empty
    results = model(make_inputs())
    with torch.no_grad():
        logits, _, centerness = model.head(features_of(model))
    for image, result in enumerate(results):
        scores = [
            (z[image].sigmoid() * c[image].sigmoid()).sqrt().flatten() for z, c in zip(logits, centerness, strict=True)
        ]
        expected = torch.cat(scores).sort(descending=True).values[:10]
        torch.testing.assert_close(result["instances"].scores, expected)


def test_an_image_without_objects_is_background_but_for_its_ignore_regions(cfg):  # noqa: F811
    model = build(cfg)
    anchors = model.anchor_generator(features_of(model))
    fields = make_inputs()[2]["instances"].get_fields()
    regions = Boxes(torch.tensor([[0.0, 0, 33, 64]]))
    plain, ignored = (
        model.label_anchors(anchors, [ImageTargets((64, 64), ignore_regions=r, **fields)])[0][0]
        for r in (None, regions)
    )
    inside = pairwise_ioa(regions, Boxes.cat(anchors))[0] > 0.5
    assert (plain == K).all()
    assert inside.any()
    assert (ignored[inside] == -1).all()
    assert (ignored[~inside] == K).all()


def test_half_precision_keeps_boxes_in_full(cfg):  # noqa: F811
    model = build(cfg)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(model)
        detections = model.eval()(make_inputs())[0]["instances"]
    assert losses["loss_box_reg"].dtype == losses["loss_cls"].dtype == torch.float32
    assert detections.pred_boxes.tensor.dtype == torch.float32


def test_a_loss_with_a_column_for_background_is_told(cfg):  # noqa: F811
    with pytest.raises(UserError, match="a dense head has one for each class and none for background"):
        build(cfg, "softmax")


@pytest.mark.parametrize("architecture", ["LongTailRetinaNet", "LongTailFCOS"])
def test_group_norm_of_the_head(cfg, architecture):  # noqa: F811
    """Which Detectron2's own heads cannot have with today's PyTorch."""
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.RETINANET.NORM, cfg.MODEL.FPN.OUT_CHANNELS = architecture, "GN", 64
    model = build_dense(cfg)
    norms = [module for module in model.head.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert [(norm.num_groups, norm.num_channels) for norm in norms] == [(32, 64)] * 2
    assert cfg.MODEL.RETINANET.NORM == "GN"
