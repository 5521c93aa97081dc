"""Random choices: their frequency, and that blocks and repetition do not change them."""

import pytest
import torch

from eql_d2.losses.random_choice import RandomChoice


def drawn(probability, sizes, columns=1203):
    choice, rows = RandomChoice(torch.device("cpu")), torch.arange(sum(sizes))
    return torch.cat([choice.draw(block, columns, torch.tensor(probability)) for block in rows.split(sizes)])


@pytest.mark.parametrize("probability", [0.0, 1e-5, 0.25, 0.9, 1.0])
def test_frequency(probability):
    torch.manual_seed(1)
    values = drawn(probability, [500, 500])
    spread = (probability * (1 - probability) / values.numel()) ** 0.5
    assert abs(values.double().mean() - probability) <= 4 * spread + 2**-17
    if 0.1 < probability < 0.95:  # neighbours, which share a step of the generator, do not agree more often
        both = (values[:, 1:] * values[:, :-1]).double().mean()
        assert both == pytest.approx(probability**2, abs=0.003)


def test_each_column_may_have_its_own_probability():
    torch.manual_seed(3)
    choice = RandomChoice(torch.device("cpu"))
    values = choice.draw(torch.arange(4000), 4, torch.tensor([0.0, 0.3, 0.8, 1.0]))
    assert values.unique().tolist() == [0, 1]
    assert values.mean(dim=0).tolist() == pytest.approx([0, 0.3, 0.8, 1], abs=0.03)
    assert values[:, 0].max() == 0 and values[:, 3].min() == 1


def test_neither_the_blocks_nor_a_repetition_change_a_draw():
    torch.manual_seed(2)
    whole = drawn(0.4, [10], 7)
    torch.manual_seed(2)
    assert torch.equal(drawn(0.4, [1, 4, 5], 7), whole)
    assert not torch.equal(drawn(0.4, [10], 7), whole)
    choice, rows = RandomChoice(torch.device("cpu")), torch.arange(10)
    first = choice.draw(rows, 7, torch.tensor(0.4))
    assert torch.equal(choice.draw(rows, 7, torch.tensor(0.4)), first)


def test_seeds_are_of_all_bits():
    torch.manual_seed(0)
    assert max(RandomChoice(torch.device("cpu"))._seed for _ in range(4)) > 2**32
