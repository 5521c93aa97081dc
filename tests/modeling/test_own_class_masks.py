"""Masks of each RoI's own class: what Detectron2 computes with all classes, without computing it."""

import copy
import sys

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads.mask_head import (
    BaseMaskRCNNHead,
    MaskRCNNConvUpsampleHead,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.utils._python_dispatch import TorchDispatchMode

from eql_d2.engine import load_config
from eql_d2.errors import UserError
from eql_d2.modeling import (
    AveragedMaskHeads,
    LongTailROIHeads,
    NormedMaskRCNNConvUpsampleHead,
    OwnClassMaskRCNNConvUpsampleHead,
)
from eql_d2.modeling.detector_export import trace
from tests.conftest import ROOT
from tests.modeling.test_detector_export import assert_bit_equal, detector
from tools.export_model import noise

K, CHANNELS, SIZE = 7, 5, 4
IMAGE = (20, 24)
KINDS = ("plain", "normed", "averaged", "averaged normed")


def make_head(kind, num_classes=K, dtype=torch.float64, **options):
    """A head with weights of which no two channels look alike."""
    torch.manual_seed(0)
    head_class = NormedMaskRCNNConvUpsampleHead if "normed" in kind else OwnClassMaskRCNNConvUpsampleHead
    heads = [
        head_class(
            ShapeSpec(channels=CHANNELS, width=SIZE, height=SIZE),
            num_classes=num_classes,
            conv_dims=[6, 6],
            loss_weight=1.5,
            **({} if "averaged" in kind else options),
        )
        for _ in range(3 if "averaged" in kind else 1)
    ]
    for head in heads:
        torch.nn.init.normal_(head.predictor.weight)
        torch.nn.init.normal_(head.predictor.bias)
    return (AveragedMaskHeads(heads=heads, **options) if "averaged" in kind else heads[0]).to(dtype)


def images(*numbers, field="gt_classes"):
    """Instances of some images, with random boxes, masks and classes."""
    generator = torch.Generator().manual_seed(1)
    result = []
    for number in numbers:
        corners = torch.rand(number, 2, generator=generator) * 8
        boxes = Boxes(torch.cat([corners, corners + 4 + torch.rand(number, 2, generator=generator) * 8], dim=1))
        instances = Instances(IMAGE, proposal_boxes=boxes)
        instances.set(field, torch.randint(K, (number,), generator=generator))
        instances.gt_masks = BitMasks(torch.rand(number, *IMAGE, generator=generator) > 0.5)
        result.append(instances)
    return result


def full_loss(head, x, instances):
    """Detectron2's own functions, on the logits of all classes."""
    heads = head.heads if isinstance(head, AveragedMaskHeads) else [head]
    losses = [mask_rcnn_loss(part.layers(x), instances) * part.loss_weight for part in heads]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_loss_and_gradients_are_those_of_all_classes(kind, dtype, tolerance):
    ours, theirs = make_head(kind, dtype=dtype), make_head(kind, dtype=dtype)
    instances = images(4, 0, 3)
    values = torch.randn(7, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(2), dtype=dtype)
    x, full_x = values.clone().requires_grad_(), values.clone().requires_grad_()
    with EventStorage() as ours_logged:
        loss = ours(x, instances)["loss_mask"]
    with EventStorage() as theirs_logged:
        expected = full_loss(theirs, full_x, instances)
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    assert ours_logged.latest() == theirs_logged.latest()
    loss.backward()
    expected.backward()
    pairs = [
        (x.grad, full_x.grad),
        *((a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)),
    ]
    for gradient, of_all in pairs:
        assert (gradient - of_all).abs().max() <= tolerance * of_all.abs().max()
        assert of_all.any()


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_those_of_all_classes(kind):
    head = make_head(kind).eval()
    x = torch.randn(5, CHANNELS, SIZE, SIZE, dtype=torch.float64)
    ours, theirs = (images(2, 0, 3, field="pred_classes") for _ in range(2))
    assert head(x, ours) is ours
    mask_rcnn_inference(head.layers(x), theirs)
    for of_image, expected in zip(ours, theirs, strict=True):
        assert of_image.pred_masks.shape == expected.pred_masks.shape == (len(expected), 1, 2 * SIZE, 2 * SIZE)
        torch.testing.assert_close(of_image.pred_masks, expected.pred_masks, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_without_rois(kind, training):
    """The loss is 0, and every parameter still has a gradient, which several processes need."""
    head = make_head(kind).train(training)
    x = torch.zeros(0, CHANNELS, SIZE, SIZE, dtype=torch.float64)
    instances = images(0, 0, field="gt_classes" if training else "pred_classes")
    if not training:
        assert [of_image.pred_masks.shape for of_image in head(x, instances)] == [(0, 1, 8, 8)] * 2
        return
    with EventStorage():
        loss = head(x, instances)["loss_mask"]
    assert loss == 0
    loss.backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in head.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_autocast(kind, training):
    """Types are those of the full computation; values as near as bfloat16 lets them be."""
    head = make_head(kind, dtype=torch.float32).train(training)
    x = torch.randn(4, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    results = []
    for own_class_only in (True, False):
        head.own_class_only = own_class_only
        for part in getattr(head, "heads", ()):
            part.own_class_only = own_class_only
        instances = images(4, field="gt_classes" if training else "pred_classes")
        with torch.autocast("cpu", dtype=torch.bfloat16), EventStorage():
            result = head(x, instances)
        results.append(result["loss_mask"] if training else instances[0].pred_masks)
    assert results[0].dtype == results[1].dtype
    torch.testing.assert_close(results[0].float(), results[1].float(), rtol=0.02, atol=0.02)


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_all_classes_is_computed(kind, training):
    """Forward and backward, no tensor has as much as a pixel of each class of each RoI."""
    classes = 1203
    head = make_head(kind, num_classes=classes, dtype=torch.float32).train(training)
    x = torch.randn(20, CHANNELS, SIZE, SIZE)
    with EventStorage(), LargestTensor() as largest:
        result = head(x, images(20, field="gt_classes" if training else "pred_classes"))
        if training:
            result["loss_mask"].backward()
    assert 20 * 6 * 8 * 8 <= largest.elements < 20 * classes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [-1, K])
@pytest.mark.parametrize("field", ["gt_classes", "pred_classes"])
def test_a_class_outside_the_layer(kind, bad, field):
    head = make_head(kind).train(field == "gt_classes")
    instances = images(3, field=field)
    instances[0].get(field)[1] = bad
    with pytest.raises(UserError, match=f"has the class {bad}, but its classes are 0 to 6; set MODEL.ROI_HEADS.NUM_CL"):
        head(torch.randn(3, CHANNELS, SIZE, SIZE, dtype=torch.float64), instances)


def test_one_channel_serves_all_classes():
    """A class-agnostic head is Detectron2's, whatever the classes are."""
    head = make_head("plain", num_classes=1)
    x = torch.randn(3, CHANNELS, SIZE, SIZE, dtype=torch.float64)
    instances = images(3)
    instances[0].gt_classes = torch.tensor([5, 2, 900])
    with EventStorage():
        assert torch.equal(head(x, instances)["loss_mask"], BaseMaskRCNNHead.forward(head, x, instances)["loss_mask"])


def test_checkpoints_fit_either_head(tiny_cfg):
    """The key changes neither names nor shapes, and a plain Detectron2 model takes the weights too."""
    tiny_cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = False
    ours = build_model(tiny_cfg).roi_heads.mask_head
    tiny_cfg.MODEL.ROI_MASK_HEAD.OWN_CLASS_ONLY = False
    theirs = build_model(tiny_cfg).roi_heads.mask_head
    assert type(ours) is OwnClassMaskRCNNConvUpsampleHead
    assert type(theirs) is MaskRCNNConvUpsampleHead
    assert [(n, p.shape) for n, p in ours.state_dict().items()] == [
        (n, p.shape) for n, p in theirs.state_dict().items()
    ]
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


def test_the_same_weights_at_first(tiny_cfg):
    """A run with the key begins like one without it."""
    tiny_cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = False
    weights = []
    for own_class_only in (True, False):
        tiny_cfg.MODEL.ROI_MASK_HEAD.OWN_CLASS_ONLY = own_class_only
        torch.manual_seed(0)
        weights.append(build_model(tiny_cfg).state_dict())
    assert all(torch.equal(weights[0][name], tensor) for name, tensor in weights[1].items())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("LVISv1/official/mask_rcnn_R50_FPN/eql.yaml", OwnClassMaskRCNNConvUpsampleHead),
        ("LVISv0.5/official/mask_rcnn_R50_FPN/eql.yaml", OwnClassMaskRCNNConvUpsampleHead),
        ("LVISv1/seesaw_2x/mask_rcnn_R50_FPN/seesaw_normed_mask.yaml", NormedMaskRCNNConvUpsampleHead),
    ],
)
def test_configs_use_it(config, expected):
    cfg = load_config(str(ROOT / "configs" / config))
    levels = {name: ShapeSpec(channels=8, stride=2 ** int(name[1:])) for name in cfg.MODEL.ROI_HEADS.IN_FEATURES}
    before = copy.deepcopy(cfg)
    head = LongTailROIHeads._init_mask_head(cfg, levels)["mask_head"]
    assert type(head) is expected and head.own_class_only
    assert head.predictor.out_channels == cfg.MODEL.ROI_HEADS.NUM_CLASSES > 1000
    assert cfg == before


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="PyTorch has no TorchScript here")
@pytest.mark.parametrize("name", ["MaskRCNNConvUpsampleHead", "NormedMaskRCNNConvUpsampleHead"])
def test_traced(name):
    """On images with other detections, and other numbers of them, than the traced one."""
    keys = ("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", False, "MODEL.ROI_MASK_HEAD.NAME", name)
    model = detector("SoftmaxPredictor", *keys)
    assert_bit_equal(model, trace(model, noise(96, 96, 0)), 6)
