"""Normalized layers against their formula, and the heads that use them."""

import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from eql_d2.data.training.loader import build_train_loader
from eql_d2.modeling import NormedConv2d, NormedLinear


def test_normed_linear_by_the_formula():
    torch.manual_seed(0)
    layer = NormedLinear(5, 3, temperature=7.0)
    x = torch.randn(4, 5)
    outputs = layer(x)
    for row in range(4):
        for column in range(3):
            w, v = layer.weight[column].tolist(), x[row].tolist()
            dot = sum(a * b for a, b in zip(w, v, strict=True))
            norms = (math.hypot(*w) + 1e-6) * (math.hypot(*v) + 1e-6)
            expected = 7.0 * dot / norms + layer.bias[column].item()
            assert outputs[row, column].item() == pytest.approx(expected, rel=1e-5)


def test_without_bias_and_temperature_outputs_are_cosines():
    layer = NormedLinear(5, 3, temperature=1.0, bias=False)
    assert set(layer.state_dict()) == {"weight"}
    x = torch.randn(4, 5)
    expected = torch.nn.functional.cosine_similarity(x[:, None], layer.weight[None], dim=2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_length_of_features_and_weights_does_not_matter():
    torch.manual_seed(0)
    layer = NormedLinear(8, 3)
    x = torch.randn(2, 8)
    before = layer(x)
    with torch.no_grad():
        layer.weight *= torch.tensor([[0.5], [2.0], [30.0]])
    torch.testing.assert_close(layer(x * 11), before, rtol=1e-4, atol=1e-4)


def test_normed_convolution_is_a_normed_linear_at_each_place():
    torch.manual_seed(0)
    convolution = NormedConv2d(6, 4)
    linear = NormedLinear(6, 4)
    with torch.no_grad():
        linear.weight.copy_(convolution.weight.flatten(1))
        linear.bias.copy_(convolution.bias)
    x = torch.randn(2, 6, 3, 5)
    expected = linear(x.permute(0, 2, 3, 1).reshape(-1, 6)).reshape(2, 3, 5, 4).permute(0, 3, 1, 2)
    torch.testing.assert_close(convolution(x), expected)


def test_zero_features_and_gradients():
    layer = NormedLinear(4, 2).double()
    assert torch.equal(layer(torch.zeros(1, 4, dtype=torch.float64))[0], layer.bias)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    assert layer(torch.zeros(0, 4, dtype=torch.float64)).shape == (0, 2)


def test_autocast_keeps_the_norms():
    """Features so small that float16 would round their squares to zero."""
    torch.manual_seed(0)
    layer = NormedLinear(64, 5)
    x = torch.randn(3, 64) * 1e-5
    with torch.autocast("cpu", dtype=torch.float16):
        half = layer(x.half())
    torch.testing.assert_close(half.float(), layer(x.half().float()), rtol=0.01, atol=0.05)


@pytest.mark.parametrize("agnostic", [False, True])
def test_seesaw_with_all_its_parts_takes_a_step(tiny_cfg, agnostic):
    tiny_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = "SeesawPredictor"
    tiny_cfg.MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER = True
    tiny_cfg.MODEL.ROI_BOX_HEAD.TEMPERATURE = 15.0
    tiny_cfg.MODEL.ROI_MASK_HEAD.NAME = "NormedMaskRCNNConvUpsampleHead"
    tiny_cfg.MODEL.ROI_MASK_HEAD.TEMPERATURE = 12.0
    tiny_cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = agnostic
    model = build_model(tiny_cfg)
    heads = model.roi_heads
    assert isinstance(heads.box_predictor.cls_score, NormedLinear)
    assert heads.box_predictor.cls_score.temperature == 15
    assert heads.mask_head.predictor.temperature == 12
    assert heads.mask_head.predictor.out_channels == (1 if agnostic else 6)
    assert not heads.mask_head.predictor.bias.any()
    with EventStorage():
        losses = model(next(iter(build_train_loader(tiny_cfg, seed=0))))
    assert {"loss_cls", "loss_objectness", "loss_mask"} <= set(losses)
    sum(losses.values()).backward()
    assert heads.mask_head.predictor.weight.grad.abs().sum() > 0
    # The prediction layer stays the last one of the head.
    assert list(heads.mask_head)[-1] is heads.mask_head.predictor
