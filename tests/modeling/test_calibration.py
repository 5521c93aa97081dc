"""τ-normalisation, NorCal, FRACAL and LogN against their definitions, with every loss."""

import json
import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.utils.events import EventStorage
from torch import nn

from eql_d2.data.category_counts import category_counts
from eql_d2.data.fractal_dimensions import fractal_dimensions
from eql_d2.errors import UserError
from eql_d2.losses import BalancedGroupSoftmax, LogitAdjustmentLoss, SoftmaxCrossEntropy
from eql_d2.modeling import BOX_PREDICTOR_REGISTRY, NormedLinear, ScaledLinear, build_box_predictor
from eql_d2.modeling.calibration import Calibration, LogitStatistics, fracal, norcal, tau_normalized_logits
from tests.modeling.test_box_predictor import make_proposals

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


# --- FRACAL -----------------------------------------------------------------------------------------------

FREQUENCIES = torch.tensor([0.5, 0.01, 0.2, 0.0004], dtype=torch.float64)
DIMENSIONS = torch.tensor([1.9, 1.0, 1.4, 1.2], dtype=torch.float64)


@pytest.mark.parametrize("lambda_", [2.0, 0.0])
def test_fracal_of_a_softmax_is_that_of_shifted_logits(lambda_):
    logits = torch.randn(6, K + 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shifts = [math.log10(1 / K) - math.log10(f) for f in FREQUENCIES.tolist()]
    expected = []
    for row in logits.tolist():
        exponentials = [math.exp(z + h) for z, h in zip(row, [*shifts, 0.0], strict=True)]
        probabilities = [e / sum(exponentials) for e in exponentials]
        divided = [p / d**lambda_ for p, d in zip(probabilities, [*DIMENSIONS.tolist(), 1.0], strict=True)]
        expected.append([v / sum(divided) for v in divided])
    ours = fracal(logits.softmax(dim=1), FREQUENCIES, DIMENSIONS, lambda_, exclusive=True)
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64))


def test_fracal_of_sigmoids_is_a_product_of_two():
    logits = torch.randn(6, K, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    total = sum(d**2 for d in DIMENSIONS.tolist())
    expected = torch.zeros(6, K + 1, dtype=torch.float64)
    for i, row in enumerate(logits.tolist()):
        for c, (z, f, d) in enumerate(zip(row, FREQUENCIES.tolist(), DIMENSIONS.tolist(), strict=True)):
            shift = math.log10(1 / K) - math.log10(f) + math.log10(1 / K) - math.log10(d**2 / total)
            expected[i, c] = 1 / (1 + math.exp(-z)) / (1 + math.exp(-z - shift))
    scores = torch.cat([logits.sigmoid(), torch.zeros(6, 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(fracal(scores, FREQUENCIES, DIMENSIONS, 2.0, exclusive=False), expected)


@pytest.mark.parametrize("name", ["SoftmaxPredictor", "SeesawPredictor", "EQLPredictor", "ECMPredictor"])
def test_fracal_counts_the_training_data(tiny_cfg, name):
    plain = build(tiny_cfg, name)
    tiny_cfg.TEST.FRACAL.ENABLED = True
    predictor = build(tiny_cfg, name)
    counts = category_counts(tiny_cfg)
    torch.testing.assert_close(predictor.calibration.image_frequencies, counts.image_frequencies)
    assert predictor.calibration.dimensions.tolist() == list(fractal_dimensions(("tiny_train",), 6))
    logits = predictor(FEATURES)[0]
    scores, before = predictor.scores(logits), plain.scores(logits)
    assert ((scores >= 0) & (scores <= 1 + 1e-6)).all()
    ratio = (scores / before)[:, :-1].mean(dim=0)
    order = counts.image_frequencies.argsort()
    assert ratio[order[0]] > ratio[order[-1]]
    assert set(predictor.state_dict()) == set(plain.state_dict())


@pytest.mark.parametrize("keyword", ["tau_norm", "norcal_gamma", "fracal_lambda"])
def test_strengths_are_not_negative(keyword):
    for value in (-0.1, float("nan")):
        with pytest.raises(UserError, match=f"{value}; it must be a number of at least 0"):
            Calibration(SoftmaxCrossEntropy(2), image_counts=[3, 1], **{keyword: value})


def test_fracal_without_training_data_or_with_a_negative_lambda_is_told(tiny_cfg, tmp_path):
    tiny_cfg.TEST.FRACAL.ENABLED = True
    tiny_cfg.TEST.FRACAL.LAMBDA = -1.0
    with pytest.raises(UserError, match=r"TEST\.FRACAL\.LAMBDA is -1\.0; it must be a number of at least 0"):
        build(tiny_cfg, "SoftmaxPredictor")
    path = tmp_path / "counts.json"
    path.write_text(json.dumps(category_counts(tiny_cfg).to_records()))
    tiny_cfg.MODEL.LONG_TAIL.CATEGORY_COUNTS = str(path)
    tiny_cfg.DATASETS.TRAIN = ()
    with pytest.raises(UserError, match=r"DATASETS\.TRAIN names no dataset whose boxes could be counted"):
        build(tiny_cfg, "SoftmaxPredictor")


# --- LogN -------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_batch_norm():
    statistics, norm = LogitStatistics(K + 1, 0.1).double(), nn.BatchNorm1d(K + 1, momentum=0.1, affine=False).double()
    generator = torch.Generator().manual_seed(5)
    for rows in (7, 30, 2):
        logits = torch.randn(rows, K + 1, generator=generator, dtype=torch.float64) * 3 + 1
        statistics.collect(logits)
        norm(logits)
    torch.testing.assert_close(statistics.mean, norm.running_mean)
    torch.testing.assert_close(statistics.variance, norm.running_var)
    before = statistics.mean.clone()
    statistics.collect(torch.zeros(1, K + 1))  # no variance
    statistics.collect(torch.zeros(0, K + 1))
    statistics.collect(torch.full((3, K + 1), torch.nan))
    assert torch.equal(statistics.mean, before)
    assert statistics.num_steps == 3


def test_logn_by_hand():
    statistics = LogitStatistics(3)
    statistics.mean.copy_(torch.tensor([1.0, -2.0, 7.0]))
    statistics.variance.copy_(torch.tensor([4.0, 0.25, 9.0]))
    statistics.num_steps += 1
    ours = statistics.normalize(torch.tensor([[5.0, -1.0, 3.0]]), torch.arange(2))
    assert ours.tolist() == [[(5 - 3) / 2, (-1 - 0) / 0.5, 3.0]]


def collect_share(folder):
    rank = torch.distributed.get_rank()
    statistics = LogitStatistics(2, 0.5)
    statistics.collect(torch.arange(12.0).view(6, 2)[:: 2 if rank else 1][: 2 if rank else 6])
    torch.save(statistics.state_dict(), folder / f"{rank}.pth")


def test_statistics_are_of_all_processes(tmp_path, two_processes):
    two_processes(collect_share, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    rows = torch.arange(12.0).view(6, 2)
    expected = LogitStatistics(2, 0.5)
    expected.collect(torch.cat([rows, rows[::2][:2]]))
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(first[name], value)
        assert torch.equal(first[name], second[name])


def test_logn_collects_in_training_and_acts_in_a_test(tiny_cfg):
    tiny_cfg.TEST.LOGN.COLLECT, tiny_cfg.TEST.LOGN.MOMENTUM = True, 0.5
    collecting = build(tiny_cfg, "SoftmaxPredictor").train()
    proposals = make_proposals(6)
    features = torch.randn(8, 8, generator=torch.Generator().manual_seed(3))
    predictions = collecting(features)
    with EventStorage():
        collecting.losses(predictions, proposals)
    torch.testing.assert_close(collecting.calibration.statistics.mean, predictions[0].mean(dim=0) / 2)
    assert torch.equal(collecting.test_logits(predictions), predictions[0])
    tiny_cfg.TEST.LOGN.COLLECT, tiny_cfg.TEST.LOGN.ENABLED = False, True
    normalizing = build(tiny_cfg, "SoftmaxPredictor")
    with pytest.raises(UserError, match=r"the model has no statistics of its logits; train it for an epoch"):
        normalizing.test_logits(predictions)
    normalizing.load_state_dict(collecting.state_dict())
    statistics = collecting.calibration.statistics
    mean, deviation = statistics.mean[:6], statistics.variance[:6].sqrt()
    expected = (predictions[0][:, :6] - mean + mean.min()) / deviation
    torch.testing.assert_close(normalizing.test_logits(predictions)[:, :6], expected)
    assert torch.equal(normalizing.test_logits(predictions)[:, 6], predictions[0][:, 6])


def test_a_momentum_out_of_range_is_told(tiny_cfg):
    tiny_cfg.TEST.LOGN.ENABLED, tiny_cfg.TEST.LOGN.MOMENTUM = True, 0.0
    with pytest.raises(UserError, match=r"TEST\.LOGN: momentum is 0\.0; it must be above 0"):
        build(tiny_cfg, "SoftmaxPredictor")
