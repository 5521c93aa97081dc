"""What every loss has in common: shapes, dtypes, empty batches, gradients, inputs left alone."""

import copy

import pytest
import torch

from eql_d2.losses import ClassificationLoss, FederatedLoss, FederatedSoftmaxLoss
from eql_d2.losses.stateful import StatefulLoss
from tests.losses.all_losses import (
    LOSSES,
    SPARING_BACKGROUND,
    WITH_CONSTANT_FACTORS,
    WITHOUT_CHANCE,
    K,
    build,
    method_of,
)


@pytest.fixture(params=LOSSES)
def name(request) -> str:
    return request.param


@pytest.fixture
def loss(name) -> ClassificationLoss:
    return LOSSES[name]()


@pytest.fixture
def batch(loss):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, loss.num_logits, generator=generator) * 3
    return logits, torch.tensor([0, 1, 2, 3, 4, 5] + [K if loss.has_background else 0] * 3)


def compute(loss, logits, gt_classes):
    """The loss from the same state and with the same random numbers at every call; leaves both as they are."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return copy.deepcopy(loss)(logits, gt_classes)


@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_gradcheck(name, loss, batch, fast):
    """Along random directions, or logit by logit."""
    if name in WITH_CONSTANT_FACTORS:
        pytest.skip("its compensation depends on the logits but is a constant to the gradient: see test_seesaw.py")
    logits, gt_classes = batch
    loss(logits, gt_classes)  # so that losses with a state have one that matters
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: sum(compute(loss, z, gt_classes).values()), logits, fast_mode=fast)


def test_a_checkpoint_holds_what_is_collected_and_nothing_else(loss):
    """What follows from counts and options is of the run that loads it."""
    assert set(loss.state_dict()) == set(loss.initial_state if isinstance(loss, StatefulLoss) else ())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, batch, dtype):
    logits, gt_classes = batch
    half = logits.to(dtype)
    for name, value in compute(loss, half, gt_classes).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, compute(loss, half.float(), gt_classes)[name], rtol=0, atol=0)
    assert loss.scores(half).dtype == torch.float32


def test_float64_stays_float64(loss, batch):
    logits, gt_classes = batch
    values = compute(loss, logits.double(), gt_classes)
    assert all(value.dtype == torch.float64 for value in values.values())
    for name, value in compute(loss, logits, gt_classes).items():
        torch.testing.assert_close(value.double(), values[name], rtol=1e-5, atol=1e-6)
    assert loss.scores(logits.double()).dtype == torch.float64


def test_autocast_changes_nothing(loss, batch):
    logits, gt_classes = batch
    outside, state_outside = compute(loss, logits, gt_classes), copy.deepcopy(loss)
    state_outside(logits, gt_classes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = compute(loss, logits, gt_classes)
        loss(logits, gt_classes)
    for name, value in outside.items():
        torch.testing.assert_close(inside[name], value, rtol=0, atol=0)
    for ours, theirs in zip(loss.buffers(), state_outside.buffers(), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def test_no_roi_gives_a_zero_that_back_propagates(loss):
    logits = torch.zeros(0, loss.num_logits, requires_grad=True)
    total = sum(loss(logits, torch.zeros(0, dtype=torch.int64)).values())
    total.backward()
    assert total.item() == 0
    assert logits.grad.shape == logits.shape


def test_a_row_alone_counts_as_much_as_one_of_two_equal_ones(loss, batch):
    if isinstance(loss, StatefulLoss):
        pytest.skip("two rows are counted twice")
    logits, gt_classes = batch
    alone = sum(compute(loss, logits[:1], gt_classes[:1]).values())
    doubled = sum(compute(loss, logits[[0, 0]], gt_classes[[0, 0]]).values())
    torch.testing.assert_close(doubled, alone)


def test_only_background(name, loss, batch):
    if not loss.has_background:
        pytest.skip("the loss has no background")
    logits = batch[0].double().requires_grad_()
    total = sum(loss(logits, torch.full((9,), K)).values())
    total.backward()
    assert total.isfinite()
    assert total > 0
    assert logits.grad.isfinite().all()
    # A background RoI pushes the foreground down.
    with torch.no_grad():
        before, after = (loss.scores(z)[:, :K].sum(dim=1) for z in (logits, logits - 0.01 * logits.grad))
    assert (after <= before).all() if name in SPARING_BACKGROUND else (after < before).all()
    grad = logits.grad[:, :K]
    if isinstance(loss, FederatedLoss | FederatedSoftmaxLoss):  # background and three classes are in use
        assert ((grad > 0).all(dim=0).sum(), (grad == 0).all(dim=0).sum()) == (3, K - 3)
    elif loss.num_logits <= K + 1 and name not in SPARING_BACKGROUND:
        assert (grad > 0).all()  # each class has its own logit in the term of background RoIs


@pytest.mark.parametrize("magnitude", [1e4, -1e4])
def test_extreme_logits_are_finite(loss, batch, magnitude):
    logits = (batch[0].sign() * magnitude).requires_grad_()
    total = sum(loss(logits, batch[1]).values())
    total.backward()
    assert total.isfinite()
    assert logits.grad.isfinite().all()
    assert loss.scores(logits).isfinite().all()
    assert all(buffer.isfinite().all() for buffer in loss.buffers())


def test_scores(loss, batch):
    logits = batch[0]
    before = logits.clone()
    scores = loss.scores(logits)
    columns = K + 1 if loss.has_background else K
    assert torch.equal(logits, before)
    assert scores.shape == (9, columns)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert loss.scores(logits[:0]).shape == (0, columns)


def test_inputs_are_left_alone(loss, batch):
    before = [tensor.clone() for tensor in batch]
    loss(*batch)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(batch, before, strict=True))


def test_wrong_width_is_named(loss):
    with pytest.raises(ValueError, match=rf"needs logits of shape \(2, {loss.num_logits}\), got \(2, 3\)"):
        loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("wrong", [-1, K + 1])
def test_a_class_out_of_range_is_named(loss, wrong):
    last = K if loss.has_background else K - 1
    with pytest.raises(ValueError, match=rf"gt_classes has the class {wrong}; it must lie in \[0, {last}\]"):
        loss(torch.zeros(2, loss.num_logits), torch.tensor([0, wrong]))


def test_nan_logits_give_a_nan_loss_and_leave_the_state_finite(loss, batch):
    loss(*batch)
    logits = batch[0].clone()
    logits[2, 0] = torch.nan
    assert not sum(loss(logits, batch[1]).values()).isfinite()
    assert all(buffer.isfinite().all() for buffer in loss.buffers())


def test_initial_bias_fits(loss):
    assert loss.initial_bias(0.01).shape == (loss.num_logits,)


def test_evaluation_mode_changes_no_buffer(loss, batch):
    loss(*batch)
    before = copy.deepcopy(list(loss.buffers()))
    loss.eval()(*batch)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(loss.buffers(), before, strict=True))


def test_only_training_needs_a_graph(loss, batch):
    """Without gradients the loss is the same, and the state changes as it does with them."""
    with_graph = copy.deepcopy(loss)
    torch.manual_seed(0)
    expected = with_graph(batch[0].requires_grad_(), batch[1])
    torch.manual_seed(0)
    with torch.no_grad():
        values = loss(*batch)
    for name, value in values.items():
        assert not value.requires_grad
        assert torch.equal(value, expected[name])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(loss.buffers(), with_graph.buffers(), strict=True))


def test_two_calls_before_one_backward(loss, batch):
    """As with gradient accumulation: a later change of the state must not disturb an earlier graph."""
    logits = batch[0].requires_grad_()
    total = sum(loss(logits, batch[1]).values()) + sum(loss(logits, batch[1]).values())
    total.backward()
    assert logits.grad.isfinite().all()


def test_state_dict_round_trip(name, loss, batch):
    loss(*batch)
    state = loss.state_dict()
    # Buffers that follow from the config must not come back from a checkpoint of another config.
    assert set(state) == (set(loss.initial_state) if isinstance(loss, StatefulLoss) else set())
    fresh = LOSSES[name]()
    fresh.load_state_dict(copy.deepcopy(state))
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, state[key])
    for key, value in compute(fresh, *batch).items():
        assert torch.equal(value, compute(loss, *batch)[key])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_synchronisation_on_a_gpu(loss, batch):
    loss.cuda()
    logits, gt_classes = (tensor.cuda() for tensor in batch)
    logits.requires_grad_()
    sum(loss(logits, gt_classes).values()).backward()  # libraries synchronise when they are first used
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(loss(logits, gt_classes).values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_formulas_for_the_compiler_are_the_same(name, loss, batch, monkeypatch):
    """Without compiling anything: the code that compiled losses take, run as it stands."""
    without_chance = WITHOUT_CHANCE.get(method_of(name), {})  # draws are other ones there
    loss = build(name, **without_chance) if without_chance else loss
    logits, theirs = (batch[0].clone().requires_grad_() for _ in range(2))
    loss(*batch)  # so that losses with a state have one that matters
    as_it_is, for_the_compiler = copy.deepcopy(loss), copy.deepcopy(loss)
    torch.manual_seed(0)
    expected = as_it_is(theirs, batch[1])
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.manual_seed(0)
    values = for_the_compiler(logits, batch[1])
    for key, value in expected.items():
        torch.testing.assert_close(values[key], value)
    for key, value in as_it_is.state_dict().items():
        torch.testing.assert_close(for_the_compiler.state_dict()[key], value)
    sum(values.values()).backward()
    sum(expected.values()).backward()
    torch.testing.assert_close(logits.grad, theirs.grad)


@pytest.mark.slow
def test_compiled_equals_eager(name, loss, batch):
    without_chance = WITHOUT_CHANCE.get(method_of(name), {})
    loss = build(name, **without_chance) if without_chance else loss
    eager = copy.deepcopy(loss)
    torch.compiler.reset()  # the other losses' code shares the limit on recompilations of `forward`
    compiled = torch.compile(loss, fullgraph=True)
    for _ in range(3):
        ours, theirs = batch[0].clone().requires_grad_(), batch[0].clone().requires_grad_()
        values, expected = compiled(ours, batch[1]), eager(theirs, batch[1])
        sum(values.values()).backward()
        sum(expected.values()).backward()
        for key, value in expected.items():
            torch.testing.assert_close(values[key], value)
        torch.testing.assert_close(ours.grad, theirs.grad)
    for value, theirs in zip(loss.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(value, theirs)
