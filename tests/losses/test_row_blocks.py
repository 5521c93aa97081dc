"""Losses computed in blocks of rows: equal to one piece, with the gradients that autograd gives."""

import copy

import pytest
import torch
import torch.nn.functional as F

from eql_d2.losses import row_blocks
from eql_d2.losses.row_blocks import sum_over_rows
from eql_d2.losses.sigmoid import softplus, weighted_sigmoid_sum
from tests.losses.test_interface import LOSSES, K, compute

R = 23


@pytest.fixture(params=LOSSES)
def loss(request):
    return LOSSES[request.param]()


@pytest.fixture
def batch(loss):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(R, loss.num_logits, generator=generator) * 3
    return logits.requires_grad_(), torch.randint(0, K + loss.has_background, (R,), generator=generator)


def set_rows(monkeypatch, rows, columns):
    monkeypatch.setitem(row_blocks.BLOCK_ELEMENTS, "cpu", rows * columns)


@pytest.mark.parametrize("rows", [0, 1, 5, 22, 23])
def test_blocks_equal_one_piece(loss, batch, monkeypatch, rows):
    logits, gt_classes = batch
    expected, in_one_piece = compute(loss, logits, gt_classes), copy.deepcopy(loss)
    expected_grad = torch.autograd.grad(sum(expected.values()), logits)[0]
    torch.manual_seed(0)
    in_one_piece(logits, gt_classes)
    set_rows(monkeypatch, rows, loss.num_logits)
    values = compute(loss, logits, gt_classes)
    for name, value in values.items():
        torch.testing.assert_close(value, expected[name])
    torch.testing.assert_close(torch.autograd.grad(sum(values.values()), logits)[0], expected_grad)
    torch.manual_seed(0)
    loss(logits, gt_classes)
    for name, value in loss.state_dict().items():
        torch.testing.assert_close(value, in_one_piece.state_dict()[name])


def test_each_sum_gets_its_own_gradient(monkeypatch):
    set_rows(monkeypatch, 2, 3)
    z = torch.randn(R, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(R, dtype=torch.float64)

    def sums(block, weights):
        return torch.stack([(block.exp().sum(dim=1) * weights).sum(), block.pow(3).sum()])

    first, second = sum_over_rows(sums, z, weights)
    grad = torch.autograd.grad(5 * first - second, z)[0]
    torch.testing.assert_close(grad, 5 * z.exp() * weights[:, None] - 3 * z**2)
    assert torch.autograd.gradcheck(lambda z: sum_over_rows(sums, z, weights), z)


def test_backward_within_autocast_is_in_float32(loss, batch):
    logits, gt_classes = batch
    expected = torch.autograd.grad(sum(compute(loss, logits, gt_classes).values()), logits)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grad = torch.autograd.grad(sum(compute(loss, logits, gt_classes).values()), logits)[0]
    assert torch.equal(grad, expected)


def test_backward_within_autocast_of_a_matrix_product():
    """Autocast would run the product in bfloat16, unlike the forward pass."""
    z, matrix = torch.randn(R, 3, requires_grad=True), torch.randn(3, 4)
    total = sum_over_rows(lambda block: (block @ matrix).pow(2).sum(), z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grad = torch.autograd.grad(total, z)[0]
    torch.testing.assert_close(grad, 2 * (z @ matrix) @ matrix.T)


def test_a_later_step_does_not_reach_an_earlier_graph(loss, batch):
    """The backward pass computes again; it must do so with the state of its own forward pass."""
    logits, gt_classes = batch
    for _ in range(2):
        loss(logits, gt_classes)
    expected = torch.autograd.grad(sum(compute(loss, logits, gt_classes).values()), logits)[0]
    torch.manual_seed(0)
    values = loss(logits, gt_classes)
    loss(logits * 2, gt_classes.flip(0))
    torch.testing.assert_close(torch.autograd.grad(sum(values.values()), logits)[0], expected, rtol=0, atol=0)


def test_no_large_tensor_outlives_the_forward_pass(loss, batch):
    """What a graph saves of the size of the logits are the logits, beside the gradient that the node itself holds.

    Nodes within a block, which compute that gradient, are gone by then.
    """
    logits, gt_classes = batch
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        values = compute(loss, logits, gt_classes)
    kept, nodes = [], [value.grad_fn for value in values.values()]
    while nodes:
        node = nodes.pop()
        built_in = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        kept += [t for t in (*getattr(node, "saved_tensors", ()), *built_in) if isinstance(t, torch.Tensor)]
        nodes += [following for following, _ in node.next_functions if following is not None]
    large = [t for t in kept if t.numel() >= logits.numel() and t.data_ptr() != logits.data_ptr()]
    assert all(t.dtype == torch.bool for t in large)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus(dtype):
    z = torch.cat([torch.linspace(-30, 30, 601), torch.tensor([0.0, -1e4, 1e4, torch.inf, -torch.inf])]).to(dtype)
    expected = F.softplus(z.double(), threshold=100)
    # 1 + e^-|z| is rounded to the dtype's digits, as an absolute error.
    torch.testing.assert_close(softplus(z).double(), expected, rtol=1e-6, atol=torch.finfo(dtype).eps)


def test_weighted_sigmoid_sum_is_weighted_binary_cross_entropy(monkeypatch):
    set_rows(monkeypatch, 4, K)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(R, K, dtype=torch.float64, generator=generator, requires_grad=True)
    gt_classes = torch.randint(0, K + 1, (R,), generator=generator)
    positive, negative = torch.rand(K, dtype=torch.float64), torch.rand(R, K, dtype=torch.float64)
    ours = weighted_sigmoid_sum(z, gt_classes, positive, lambda classes, weights: weights, negative)
    targets = F.one_hot(gt_classes, K + 1)[:, :K].double()
    weight = torch.where(targets.bool(), positive, negative)
    theirs = F.binary_cross_entropy_with_logits(z, targets, weight, reduction="sum")
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(3 * ours, z), torch.autograd.grad(3 * theirs, z))


def test_blocks_are_as_long_as_they_may_be(monkeypatch):
    set_rows(monkeypatch, 5, 3)
    assert [len(z) for z, _ in row_blocks.row_blocks(torch.zeros(R, 3), torch.zeros(R))] == [5, 5, 5, 5, 3]
