"""The one-stage detector: focal loss as Detectron2's, exact selection, every loss that fits, and what does not."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import batched_nms
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from detectron2.utils.events import EventStorage

from eql_d2.data.training.image_targets import ImageTargets
from eql_d2.engine import LongTailTrainer
from eql_d2.errors import UserError
from eql_d2.losses import METHODS
from eql_d2.modeling import LongTailRetinaNet, dense_detectors
from eql_d2.modeling.dense_rows import gather_rows
from eql_d2.modeling.loss_labels import asks_for

K = 6
DENSE = ("sigmoid", "focal", "efl", "eqfl", "eql", "drop_loss", "federated", "balanced_sigmoid")


@pytest.fixture
def cfg(tiny_cfg) -> CfgNode:
    """A RetinaNet on two small levels of a random backbone."""
    tiny_cfg.MODEL.META_ARCHITECTURE = "LongTailRetinaNet"
    tiny_cfg.MODEL.MASK_ON = False
    tiny_cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    tiny_cfg.MODEL.RESNETS.OUT_FEATURES = tiny_cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    tiny_cfg.MODEL.FPN.OUT_CHANNELS = 16
    tiny_cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4"]
    tiny_cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 24], [32, 40]]
    tiny_cfg.MODEL.RETINANET.NUM_CLASSES = K
    tiny_cfg.MODEL.RETINANET.NUM_CONVS = 1
    tiny_cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    return tiny_cfg


def make_inputs():
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for boxes, classes in (([[5.0, 5, 30, 28], [20, 30, 60, 62]], [0, 3]), ([[1.0, 2, 20, 25]], [5]), ([], [])):
        instances = Instances((64, 64))
        instances.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        image = (torch.rand(3, 64, 64, generator=generator) * 255).to(torch.uint8)
        inputs.append({"image": image, "instances": instances, "height": 64, "width": 64})
    return inputs


def build(cfg, loss="focal"):
    cfg.MODEL.RETINANET.LOSS = loss
    torch.manual_seed(3)
    return build_model(cfg)


def losses_of(model):
    with EventStorage():
        losses = model.train()(make_inputs())
    sum(losses.values()).backward()
    return {name: value.item() for name, value in losses.items()}, model.head.cls_score.weight.grad.clone()


def test_group_normalization_follows_each_convolution_of_the_head(cfg):
    """Which v0.6 does not build by the key alone."""
    cfg.MODEL.RETINANET.NORM, cfg.MODEL.RETINANET.NUM_CONVS, cfg.MODEL.FPN.OUT_CHANNELS = "GN", 2, 32
    head = build(cfg).head
    for subnet in (head.cls_subnet, head.bbox_subnet):
        names = [type(layer).__name__ for layer in subnet]
        assert names == ["Conv2d", "GroupNorm", "ReLU"] * 2
    assert len(head.cls_score.weight) == len(head.bbox_pred.weight) // 4 * K


def test_the_quality_of_an_anchor_is_the_overlap_of_its_box(cfg, monkeypatch):
    """Fresh deltas are all but 0: a positive's box is its anchor."""
    model, told = build(cfg, "eqfl"), {}
    forward = model.loss.forward
    monkeypatch.setattr(model.loss, "forward", lambda *args, **labels: told.update(labels) or forward(*args, **labels))
    losses_of(model)
    anchors = model.anchor_generator(features_of(model))
    labels, matched = (torch.cat(of_images) for of_images in model.label_anchors(anchors, targets()))
    valid, positive = labels >= 0, ((labels >= 0) & (labels < K))[labels >= 0]
    boxes = Boxes.cat(anchors).tensor.repeat(len(make_inputs()), 1)[valid]
    overlaps = matched_pairwise_iou(Boxes(boxes[positive]), Boxes(matched[valid][positive]))
    torch.testing.assert_close(told["quality"][positive], overlaps, atol=0.2, rtol=0)
    assert overlaps.min() > 0.3 and len(overlaps.unique()) > 3
    assert not told["quality"][~positive].any()


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_focal_loss_is_detectron2_s_but_for_the_normalizer(cfg, box_loss):
    cfg.MODEL.RETINANET.BBOX_REG_LOSS_TYPE = box_loss
    ours = build(cfg)
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    theirs = build(cfg)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    (values, grad), (expected, their_grad) = losses_of(ours), losses_of(theirs)
    labels = torch.stack(ours.label_anchors(ours.anchor_generator(features_of(ours)), targets())[0])
    scale = theirs.loss_normalizer / ((labels >= 0) & (labels < K)).sum().item()
    assert set(values) == set(expected)
    for name, value in expected.items():
        assert values[name] == pytest.approx(value * scale, rel=1e-5)
    torch.testing.assert_close(grad, their_grad * scale, rtol=1e-4, atol=1e-7)


def features_of(model):
    images = model.preprocess_image(make_inputs())
    return [model.backbone(images.tensor)[name] for name in model.head_in_features]


def targets():
    return [record["instances"] for record in make_inputs()]


@pytest.mark.parametrize("name", DENSE)
def test_losses_of_one_logit_a_class_learn(cfg, name):
    model = build(cfg, name)
    assert torch.equal(model.head.cls_score.bias, model.loss.initial_bias(0.001).repeat(6))
    before, _ = losses_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(4):
        optimizer.step()
        optimizer.zero_grad()
        after, grad = losses_of(model)
        assert grad.isfinite().all()
    # EQFL's targets rise with the overlaps, and its loss with them.
    lower = "loss_box_reg" if name == "eqfl" else "loss_cls"
    assert after[lower] < before[lower]
    detections = model.eval()(make_inputs())
    assert len(detections) == 3
    assert all(len(d["instances"]) == cfg.TEST.DETECTIONS_PER_IMAGE for d in detections)


def test_efl_counts_its_gradients_once_a_step(cfg):
    model = build(cfg, "efl")
    losses_of(model)
    assert (model.loss.pos_grad > 0).tolist() == [True, False, False, True, False, True]
    assert (model.loss.neg_grad > 0).all()
    assert "loss.pos_grad" in model.state_dict()


@pytest.mark.parametrize("name", [method for method in METHODS if method not in DENSE])
def test_others_are_told_apart_in_one_sentence(cfg, name):
    if name == "eqlv2":
        cfg.MODEL.LONG_TAIL.EQLV2.OBJECTNESS = False
        assert build(cfg, name).loss.num_logits == K
        cfg.MODEL.LONG_TAIL.EQLV2.OBJECTNESS = True
    with pytest.raises(UserError, match=r"a dense head has one for each class and none for background|background"):
        build(cfg, name)


def test_mistakes_are_told(cfg):
    with pytest.raises(UserError, match=r"MODEL\.RETINANET\.LOSS is 'no_such'; it must be one of softmax"):
        build(cfg, "no_such")
    cfg.MODEL.RETINANET.BBOX_REG_LOSS_TYPE = "l7"
    with pytest.raises(UserError, match=r"BBOX_REG_LOSS_TYPE is 'l7'"):
        build(cfg)
    cfg.MODEL.RETINANET.BBOX_REG_LOSS_TYPE = "giou"
    cfg.TEST.TAU_NORM = 0.5
    with pytest.raises(UserError, match=r"TEST\.TAU_NORM and TEST\.LOGN are for classifiers of RoIs"):
        build(cfg)


def test_background_in_ignore_regions_is_not_trained(cfg):
    model = build(cfg)
    anchors = model.anchor_generator(features_of(model))
    plain = targets()[1]
    region = Boxes(torch.tensor([[30.0, 0, 64, 64]]))
    with_region = ImageTargets((64, 64), ignore_regions=region, **plain.get_fields())
    before, after = (model.label_anchors(anchors, [t])[0][0] for t in (plain, with_region))
    changed = before != after
    assert changed.any()
    assert (before[changed] == K).all()
    assert (after[changed] == -1).all()


# --- rows and selection -----------------------------------------------------------------------------------


def test_rows_are_those_of_concatenation_and_so_are_gradients():
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, 3 * 5, 4, 6), (2, 3 * 5, 2, 3)]
    levels = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    valid = torch.rand(2, 90, generator=generator) > 0.3
    flat = [x.view(2, 3, 5, *x.shape[2:]).permute(0, 3, 4, 1, 2).reshape(2, -1, 5) for x in levels]
    expected = torch.cat(flat, dim=1)[valid]
    weights = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    theirs = torch.autograd.grad((expected.exp() * weights).sum(), levels)
    rows = gather_rows(levels, valid, 5)
    assert torch.equal(rows, expected)
    ours = torch.autograd.grad((rows.exp() * weights).sum(), levels)
    for grad, their_grad in zip(ours, theirs, strict=True):
        torch.testing.assert_close(grad, their_grad)
    assert gather_rows(levels, torch.zeros_like(valid), 5).shape == (0, 5)


def detections_by_definition(model, threshold, nms, topk):
    """All scores at once, all boxes decoded for every class, clipped, suppressed, and the best kept."""
    with torch.no_grad():
        features = features_of(model)
        logits, deltas = model.head(features)
        anchors = Boxes.cat(model.anchor_generator(features)).tensor
        logits, deltas = (
            torch.cat([x.view(3, 6, c, *x.shape[2:]).permute(0, 3, 4, 1, 2).reshape(3, -1, c) for x in levels], dim=1)
            for levels, c in ((logits, K), (deltas, 4))
        )
        for of_image, delta in zip(logits, deltas, strict=True):
            scores = model.loss.scores(of_image)[:, :-1].flatten()
            boxes = Boxes(model.box2box_transform.apply_deltas(delta, anchors))
            boxes.clip((64, 64))
            boxes = boxes.tensor[:, None].expand(-1, K, -1).reshape(-1, 4)
            classes = torch.arange(K).repeat(len(anchors))
            candidates = (scores > threshold).nonzero().squeeze(1)
            keep = batched_nms(boxes[candidates], scores[candidates], classes[candidates], nms)
            keep = candidates[keep]
            yield scores[keep][:topk], boxes[keep][:topk], classes[keep][:topk]


@pytest.mark.parametrize(("first", "block", "topk"), [(6000, None, 20), (5, 7 * K, 20), (5, 7 * K, 1000)])
def test_selection_is_exact(cfg, monkeypatch, first, block, topk):
    """Also where few candidates are tried first, in small blocks, and where more are asked for than survive."""
    cfg.TEST.DETECTIONS_PER_IMAGE = topk
    model = build(cfg).eval()
    with torch.no_grad():
        model.head.cls_score.weight.mul_(30)
    threshold = model.test_score_thresh = 0.0005
    monkeypatch.setattr(dense_detectors, "FIRST_CANDIDATES", first)
    if block is not None:
        monkeypatch.setitem(dense_detectors.BLOCK_ELEMENTS, "cpu", block)
        monkeypatch.setattr("eql_d2.modeling.inference.FIRST_CANDIDATES", first)
    results = model(make_inputs())
    expected = detections_by_definition(model, threshold, model.test_nms_thresh, topk)
    for result, (scores, boxes, classes) in zip(results, expected, strict=True):
        detections = result["instances"]
        torch.testing.assert_close(detections.scores, scores)
        torch.testing.assert_close(detections.pred_boxes.tensor, boxes, rtol=1e-4, atol=1e-4)
        assert torch.equal(detections.pred_classes, classes)


def test_norcal_and_fracal_go_with_it(cfg):
    plain = build(cfg).eval()(make_inputs())[0]["instances"]
    cfg.TEST.NORCAL_GAMMA = 0.5
    calibrated = build(cfg).eval()(make_inputs())[0]["instances"]
    assert not torch.allclose(plain.scores, calibrated.scores)


def test_it_is_found_by_its_name():
    assert META_ARCH_REGISTRY.get("LongTailRetinaNet") is LongTailRetinaNet
    assert asks_for(METHODS["efl"].loss_class(K), "normalizer")


@pytest.mark.parametrize("architecture", ["LongTailRetinaNet", "LongTailFCOS"])
def test_it_trains_resumes_its_state_and_predicts(cfg, architecture):
    """Through the trainer, from a checkpoint, and as a predictor."""
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.RETINANET.LOSS = "efl"
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 2, 2
    cfg.TEST.EVAL_PERIOD = 0
    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    state = trainer.model.loss.pos_grad
    assert state.sum() > 0
    cfg.MODEL.WEIGHTS = trainer.checkpointer.get_checkpoint_file()
    again = LongTailTrainer.build_trained_model(cfg)
    assert torch.equal(again.loss.pos_grad, state)
    results = LongTailTrainer.test(cfg, again.eval())
    assert "AP" in results["bbox"]
