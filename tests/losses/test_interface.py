"""What every loss has in common: shapes, dtypes, empty batches, gradients, inputs left alone."""

import pytest
import torch

from eql_d2.losses import ClassificationLoss, EqualizationLoss, SigmoidCrossEntropy, SoftmaxCrossEntropy

K = 6
FREQUENCIES = torch.tensor([0.5, 0.2, 0.01, 0.0001, 0.001, 0.002])
LOSSES = {
    "softmax": lambda: SoftmaxCrossEntropy(K),
    "sigmoid": lambda: SigmoidCrossEntropy(K),
    "eql": lambda: EqualizationLoss(K, FREQUENCIES),
    "eql_gompertz": lambda: EqualizationLoss(K, FREQUENCIES, threshold="gompertz"),
}


@pytest.fixture(params=LOSSES)
def loss(request) -> ClassificationLoss:
    return LOSSES[request.param]()


@pytest.fixture
def batch(loss):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(9, loss.num_logits, generator=generator) * 3, torch.tensor([0, 1, 2, 3, 4, 5, 6, 6, 6])


def test_gradcheck(loss, batch):
    logits, gt_classes = batch
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: sum(loss(z, gt_classes).values()), logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, batch, dtype):
    logits, gt_classes = batch
    half = logits.to(dtype)
    for name, value in loss(half, gt_classes).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(half.float(), gt_classes)[name], rtol=0, atol=0)
    assert loss.scores(half).dtype == torch.float32


def test_float64_stays_float64(loss, batch):
    logits, gt_classes = batch
    assert all(v.dtype == torch.float64 for v in loss(logits.double(), gt_classes).values())


def test_autocast_changes_nothing(loss, batch):
    logits, gt_classes = batch
    outside = loss(logits, gt_classes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(logits, gt_classes)
    for name, value in outside.items():
        torch.testing.assert_close(inside[name], value, rtol=0, atol=0)


def test_no_roi_gives_a_zero_that_back_propagates(loss):
    logits = torch.zeros(0, loss.num_logits, requires_grad=True)
    total = sum(loss(logits, torch.zeros(0, dtype=torch.int64)).values())
    total.backward()
    assert total.item() == 0
    assert logits.grad.shape == logits.shape


def test_only_background(loss, batch):
    logits = batch[0].requires_grad_()
    total = sum(loss(logits, torch.full((9,), K)).values())
    total.backward()
    assert total.isfinite()
    assert total > 0
    assert logits.grad.isfinite().all()
    # Every class is pushed down by a background RoI.
    assert (logits.grad[:, :K] > 0).all()


@pytest.mark.parametrize("magnitude", [1e4, -1e4])
def test_extreme_logits_are_finite(loss, batch, magnitude):
    logits = (batch[0].sign() * magnitude).requires_grad_()
    total = sum(loss(logits, batch[1]).values())
    total.backward()
    assert total.isfinite()
    assert logits.grad.isfinite().all()


def test_scores(loss, batch):
    logits = batch[0]
    before = logits.clone()
    scores = loss.scores(logits)
    assert torch.equal(logits, before)
    assert scores.shape == (9, K + 1)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert loss.scores(logits[:0]).shape == (0, K + 1)


def test_wrong_width_is_named(loss):
    with pytest.raises(ValueError, match=rf"needs logits of shape \(2, {loss.num_logits}\), got \(2, 3\)"):
        loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))


def test_initial_bias_fits(loss):
    assert loss.initial_bias(0.01).shape == (loss.num_logits,)


def test_state_dict_round_trip(loss, batch):
    # Buffers that follow from the config must not come back from a checkpoint of another config.
    assert "tail_weight" not in loss.state_dict()
    loss.load_state_dict(loss.state_dict())
