"""τ-normalisation and NorCal against their definitions, with every loss."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from eql_d2.data.category_counts import category_counts
from eql_d2.losses import BalancedGroupSoftmax, LogitAdjustmentLoss, SoftmaxCrossEntropy
from eql_d2.modeling import BOX_PREDICTOR_REGISTRY, NormedLinear, ScaledLinear, build_box_predictor
from eql_d2.modeling.calibration import Calibration, norcal, tau_normalized_logits

K = 4
FEATURES = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


def make_classifier(layer_class):
    torch.manual_seed(1)
    layer = layer_class(8, K + 1)
    layer.weight.data *= torch.tensor([1.0, 2, 3, 4, 5])[:, None]
    if layer_class is ScaledLinear:
        layer.scale.data = torch.tensor([2.0, 0.5, 1.5, 1.0, 3.0])
    return layer


@pytest.mark.parametrize("layer_class", [nn.Linear, ScaledLinear])
@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0])
def test_tau_norm_is_the_layer_with_normalized_weights(layer_class, tau):
    layer = make_classifier(layer_class)
    scale = layer.scale if layer_class is ScaledLinear else torch.ones(K + 1)
    weight, bias = scale[:, None] * layer.weight, scale * layer.bias
    norms = weight.norm(dim=1)
    by_definition = weight / norms[:, None] ** tau * norms[:K].mean() ** tau
    expected = FEATURES @ torch.cat([by_definition[:K], weight[K:]]).T + bias
    ours = tau_normalized_logits(layer(FEATURES), layer, torch.arange(K), tau)
    torch.testing.assert_close(ours, expected)
    # Among the classes it is the paper's classifier but for one common factor.
    paper = FEATURES @ (weight / norms[:, None] ** tau).T
    torch.testing.assert_close((ours - bias)[:, :K] / paper[:, :K], (norms[:K].mean() ** tau).expand(5, K))


def test_the_form_of_bags_comparison_divides_by_the_norms_alone():
    """tools/test_lvis_tnorm.py there: the classes' weights, not background's, and no bias."""
    layer = make_classifier(nn.Linear)
    weight = torch.cat([layer.weight[:K] / layer.weight[:K].norm(dim=1, keepdim=True), layer.weight[K:]])
    ours = tau_normalized_logits(layer(FEATURES), layer, torch.arange(K), 1.0, keep_scale=False)
    torch.testing.assert_close(ours, FEATURES @ weight.T + layer.bias)


def test_tau_norm_of_a_scaled_classifier_whose_bias_has_no_scale():
    layer = make_classifier(ScaledLinear)
    layer.scales_bias = False
    weight = layer.scale[:, None] * layer.weight
    torch.testing.assert_close(layer(FEATURES), FEATURES @ weight.T + layer.bias)
    norms = weight.norm(dim=1)
    by_definition = torch.cat([weight[:K] / norms[:K, None] * norms[:K].mean(), weight[K:]])
    ours = tau_normalized_logits(layer(FEATURES), layer, torch.arange(K), 1.0)
    torch.testing.assert_close(ours, FEATURES @ by_definition.T + layer.bias)


def test_the_forms_are_keys(tiny_cfg):
    tiny_cfg.TEST.TAU_NORM_KEEP_SCALE = tiny_cfg.MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER_BIAS = False
    tiny_cfg.MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER = True
    predictor = build(tiny_cfg, "SoftmaxPredictor", tau=1.0)
    assert not predictor.calibration.tau_norm_keep_scale and not predictor.cls_score.scales_bias


@pytest.mark.parametrize("bias", [True, False])
def test_tau_norm_without_background(bias):
    """Of a plain classifier of images, with or without bias, it is the paper's but for one common factor."""
    torch.manual_seed(1)
    layer = nn.Linear(8, K, bias=bias)
    layer.weight.data *= torch.tensor([1.0, 2, 3, 4])[:, None]
    loss = SoftmaxCrossEntropy(K, has_background=False)
    ours = Calibration(loss, tau_norm=0.7).logits(layer(FEATURES), layer) - (layer.bias if bias else 0)
    norms = layer.weight.norm(dim=1)
    paper = FEATURES @ (layer.weight / norms[:, None] ** 0.7).T
    torch.testing.assert_close(ours, paper * norms.mean() ** 0.7)


def test_tau_norm_of_bags_finds_the_columns_of_the_classes():
    """Group after group, each class behind the group's others, which stay as they are."""
    loss = BalancedGroupSoftmax(K, [5, 500, 50, 7], bin_edges=(10, 100), has_background=False)
    torch.manual_seed(1)
    layer = nn.Linear(8, loss.num_logits)
    with torch.no_grad():
        layer.weight *= torch.linspace(1, 9, loss.num_logits)[:, None]
    logits = layer(FEATURES)
    ours = Calibration(loss, tau_norm=1.0).logits(logits, layer)
    columns, others = [1, 6, 4, 2], [0, 3, 5]
    assert torch.equal(ours[:, others], logits[:, others])
    lengths = (ours - layer.bias)[:, columns] / (logits - layer.bias)[:, columns] * layer.weight.norm(dim=1)[columns]
    torch.testing.assert_close(lengths, layer.weight.norm(dim=1)[columns].mean().expand(5, K))


def test_a_normed_classifier_is_left_alone():
    layer = make_classifier(NormedLinear)
    logits = layer(FEATURES)
    assert torch.equal(tau_normalized_logits(logits, layer, torch.arange(K), 1.0), logits)


def test_norcal_of_a_softmax_is_the_papers_equation():
    logits = torch.randn(6, K + 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    counts, gamma = torch.tensor([1000, 50, 3, 0]), 0.6
    exponentials = logits.exp()
    exponentials[:, :K] /= torch.tensor([1000.0, 50, 3, 1], dtype=torch.float64) ** gamma
    expected = exponentials / exponentials.sum(dim=1, keepdim=True)
    torch.testing.assert_close(norcal(logits.softmax(dim=1), counts, gamma, exclusive=True), expected)


def test_norcal_without_background_is_the_post_hoc_logit_adjustment():
    logits = torch.randn(6, K, generator=torch.Generator().manual_seed(2))
    counts = torch.tensor([1000, 50, 3, 1])
    expected = LogitAdjustmentLoss(K, counts, tau=0.6, post_hoc=True, has_background=False).scores(logits)
    torch.testing.assert_close(norcal(logits.softmax(dim=1), counts, 0.6, exclusive=True), expected)


def test_norcal_of_sigmoids_is_one_of_two_classes_each():
    logits = torch.randn(6, K, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    counts, gamma = torch.tensor([1000, 50, 3, 0]), 0.6
    # A sigmoid is the softmax of (z, 0); dividing its class by N^γ lowers the logit by γ log N.
    expected = (logits - gamma * torch.tensor([1000.0, 50, 3, 1], dtype=torch.float64).log()).sigmoid()
    background = torch.zeros(6, 1, dtype=torch.float64)
    scores = norcal(torch.cat([logits.sigmoid(), background], dim=1), counts, gamma, exclusive=False)
    torch.testing.assert_close(scores, torch.cat([expected, background], dim=1))


def build(cfg, name, tau=0.0, gamma=0.0):
    cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = name
    cfg.TEST.TAU_NORM, cfg.TEST.NORCAL_GAMMA = tau, gamma
    torch.manual_seed(4)
    predictor = build_box_predictor(cfg, ShapeSpec(channels=8)).eval()
    with torch.no_grad():  # of more than one length, as after training
        predictor.cls_score.weight *= torch.linspace(0.5, 40, len(predictor.cls_score.weight))[:, None]
    return predictor


@pytest.mark.parametrize("name", [name for name, _ in BOX_PREDICTOR_REGISTRY])
def test_both_go_with_every_loss(tiny_cfg, name):
    logits_of = {}
    for key, values in {"plain": {}, "tau": {"tau": 0.5}, "gamma": {"gamma": 0.5}}.items():
        predictor = build(tiny_cfg, name, **values)
        predictions = predictor(FEATURES)
        logits_of[key] = predictor.test_logits(predictions)
        scores = predictor.scores(logits_of[key])
        assert scores.shape == (5, 7)
        assert ((scores >= 0) & (scores <= 1 + 1e-6)).all()
        if key == "gamma":
            plain = predictor.loss.scores(predictions[0])
            rarest, most = (fn(category_counts(tiny_cfg).image_counts) for fn in (min, max))
            counts = list(category_counts(tiny_cfg).image_counts)
            ratio = scores[:, :-1] / plain[:, :-1]
            assert (ratio[:, counts.index(rarest)] > ratio[:, counts.index(most)]).all()
    assert torch.equal(logits_of["plain"], logits_of["gamma"])
    columns = predictor.loss.class_columns
    others = [c for c in range(predictor.loss.num_logits) if c not in columns.tolist()]
    assert torch.equal(logits_of["plain"][:, others], logits_of["tau"][:, others])
    assert not torch.allclose(logits_of["plain"][:, columns], logits_of["tau"][:, columns])


def test_training_is_not_calibrated(tiny_cfg):
    plain, calibrated = build(tiny_cfg, "SoftmaxPredictor"), build(tiny_cfg, "SoftmaxPredictor", tau=1.0, gamma=1.0)
    assert torch.equal(plain(FEATURES)[0], calibrated(FEATURES)[0])
    assert set(plain.state_dict()) == set(calibrated.state_dict())
