"""EQLv2 against a plain loop over twenty steps, hand-computed values and the numbers of the first code."""

import copy
import math

import pytest
import torch

from eql_d2.losses import EqualizationLossV2, SigmoidCrossEntropy

K = 5


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def step_by_loop(logits, gt_classes, state, alpha=4.0, gamma=12.0, mu=0.8):
    """The definition, one number at a time, in float64; updates ``state`` (lists pos, neg, ratio)."""
    rows, classes = logits.shape[0], logits.shape[1] - 1
    negative = [sigmoid(gamma * (g - mu)) for g in state["ratio"]] + [1.0]
    positive = [1 + alpha * (1 - f) for f in negative]
    total = 0.0
    for i in range(rows):
        for j in range(classes + 1):
            probability = sigmoid(logits[i, j].item())
            if gt_classes[i] == j:
                total -= positive[j] * math.log(probability)
                if j < classes:
                    state["pos"][j] += abs(probability - 1) * positive[j]
            else:
                total -= negative[j] * math.log(1 - probability)
                if j < classes:
                    state["neg"][j] += probability * negative[j]
    for j in range(classes):
        state["ratio"][j] = state["pos"][j] / (state["neg"][j] + 1e-10)
    return total / rows


def fresh_state(classes=K):
    return {"pos": [0.0] * classes, "neg": [0.0] * classes, "ratio": [100.0] * classes}


def make_batches(number, rows=12):
    generator = torch.Generator().manual_seed(3)
    for _ in range(number):
        logits = torch.randn(rows, K + 1, generator=generator, dtype=torch.float64) * 2
        # Class 4 never occurs, class 3 seldom.
        yield logits, torch.tensor([0, 1, 2, 3, 5, 5])[torch.randint(0, 6, (rows,), generator=generator)]


@pytest.mark.parametrize("arguments", [{}, {"alpha": 1.5, "gamma": 3.0, "mu": 0.2}])
def test_twenty_steps_equal_the_loop(arguments):
    loss, state = EqualizationLossV2(K, **arguments), fresh_state()
    for logits, gt_classes in make_batches(20):
        value = loss(logits, gt_classes)["loss_cls"]
        # The state is float32 in the loss and float64 in the loop.
        assert value.item() == pytest.approx(step_by_loop(logits, gt_classes, state, **arguments), rel=1e-5)
        assert loss.pos_grad.tolist() == pytest.approx(state["pos"], rel=1e-5)
        assert loss.neg_grad.tolist() == pytest.approx(state["neg"], rel=1e-5)
        assert loss.pos_neg_ratio.tolist() == pytest.approx(state["ratio"], rel=1e-5)


def test_the_first_step_is_plain_cross_entropy_over_all_logits():
    logits, gt_classes = next(make_batches(1))
    # Background is a class of its own to the plain loss here.
    expected = SigmoidCrossEntropy(K + 1)(logits, gt_classes)["loss_cls"]
    torch.testing.assert_close(EqualizationLossV2(K)(logits, gt_classes)["loss_cls"], expected, rtol=1e-12, atol=0)


def test_state_by_hand():
    # All sigmoids are 1/2. Class 0: one positive, one negative (the background RoI). Class 1: two negatives.
    loss = EqualizationLossV2(2)
    value = loss(torch.zeros(2, 3), torch.tensor([0, 2]))["loss_cls"]
    assert value.item() == pytest.approx(3 * math.log(2))
    assert loss.pos_grad.tolist() == [0.5, 0]
    assert loss.neg_grad.tolist() == [0.5, 1]
    assert loss.pos_neg_ratio.tolist() == [1, 0]


def test_weights_at_the_values_of_the_first_code():
    loss = EqualizationLossV2(4)
    loss.pos_neg_ratio.copy_(torch.tensor([0.0, 0.8, 1.0, 100.0]))
    positive, negative = loss.class_weights(torch.float64)
    assert negative.tolist() == pytest.approx([6.772414961977011e-05, 0.5, 0.9168273035060777, 1, 1], rel=1e-6)
    assert positive.tolist() == pytest.approx([4.9997291034015205, 3, 1.3326907859756894, 1, 1], rel=1e-6)


def test_gradient_is_the_weighted_difference_of_sigmoid_and_target():
    """No gradient flows through the weights or the collected gradients."""
    loss = EqualizationLossV2(K)
    for logits, gt_classes in make_batches(3):
        loss(logits, gt_classes)
    positive, negative = loss.class_weights(torch.float64)
    logits = logits.clone().requires_grad_()
    loss(logits, gt_classes)["loss_cls"].backward()
    targets = torch.nn.functional.one_hot(gt_classes, K + 1).bool()
    expected = torch.where(targets, positive, negative) * (logits.detach().sigmoid() - targets.double()) / 12
    torch.testing.assert_close(logits.grad, expected)
    assert not any(buffer.requires_grad for buffer in loss.buffers())


def test_collected_positive_gradients_keep_their_digits():
    loss = EqualizationLossV2(1)
    loss(torch.tensor([[20.0, -20.0]]), torch.tensor([0]))
    assert loss.pos_grad.item() == pytest.approx(math.exp(-20), rel=1e-5)  # 1 - sigmoid(20) is 0 in float32


def test_evaluation_mode_uses_the_state_and_leaves_it():
    loss = EqualizationLossV2(K)
    batches = list(make_batches(2))
    loss(*batches[0])
    before = copy.deepcopy(loss.state_dict())
    in_training = copy.deepcopy(loss)(*batches[1])["loss_cls"]
    loss.eval()
    assert torch.equal(loss(*batches[1])["loss_cls"], in_training)
    for name, value in loss.state_dict().items():
        assert torch.equal(value, before[name])


def test_no_roi_leaves_the_sums():
    loss = EqualizationLossV2(K)
    loss(*next(make_batches(1)))
    before = copy.deepcopy(loss.state_dict())
    loss(torch.zeros(0, K + 1), torch.zeros(0, dtype=torch.int64))
    for name, value in loss.state_dict().items():
        assert torch.equal(value, before[name])


def test_scores():
    logits = torch.tensor([[0.0, math.log(3), math.log(4)]])  # sigmoids 1/2, 3/4, 4/5
    torch.testing.assert_close(EqualizationLossV2(2).scores(logits), torch.tensor([[0.1, 0.15, 0.8]]))


def test_initial_bias_is_the_prior_also_for_the_last_logit():
    assert torch.sigmoid(EqualizationLossV2(3).initial_bias(0.001)).tolist() == pytest.approx([0.001] * 4)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"alpha": -1.0}, "alpha is -1.0"), ({"gamma": 0.0}, "gamma is 0.0")]
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        EqualizationLossV2(3, **arguments)


def test_without_objectness_it_is_the_loss_of_the_first_k_columns():
    with_it, without = EqualizationLossV2(K).double(), EqualizationLossV2(K, objectness=False).double()
    for logits, gt_classes in make_batches(4):
        difference = with_it(logits, gt_classes)["loss_cls"] - without(logits[:, :K], gt_classes)["loss_cls"]
        is_background = (gt_classes == K).double()
        column = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, K], is_background)
        torch.testing.assert_close(difference, column)
    for name, value in without.state_dict().items():
        torch.testing.assert_close(value, with_it.state_dict()[name])
    expected = torch.tensor([[0.25, 0.5, 0.5, 0.5, 0.5, 0.0]])
    torch.testing.assert_close(without.float().scores(torch.tensor([[-math.log(3), 0, 0, 0, 0]])), expected)
