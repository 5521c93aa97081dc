"""λ by tail ratio, worked out by hand; its properties are tested with EQL's."""

import pytest

from eql_d2.long_tail import lambda_for_tail_ratio, tail_ratio

COUNTS = [2, 15, 1, 2]  # the rarest have 1, 5 and 20 of 20 class images


@pytest.mark.parametrize(("ratio", "images"), [(0.04, 1.5), (0.05, 1.5), (0.06, 8.5), (0.25, 8.5), (0.26, 15.5)])
def test_lambda_lies_midway_to_the_next_larger_class(ratio, images):
    """... and half an image above the most frequent one where all classes are the tail."""
    assert lambda_for_tail_ratio(ratio, COUNTS, 100) == pytest.approx(images / 100, rel=1e-12)


def test_tail_ratio_by_hand():
    assert tail_ratio(0.02, COUNTS, 100) == pytest.approx(1 / 20)  # the threshold is strict
    assert tail_ratio(0.021, COUNTS, 100) == pytest.approx(5 / 20)
    assert tail_ratio(1, COUNTS, 100) == 1


@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5])
def test_a_ratio_outside_its_range_is_named(ratio):
    with pytest.raises(ValueError, match=f"The tail ratio is {ratio}; it must lie strictly between 0 and 1"):
        lambda_for_tail_ratio(ratio, COUNTS, 100)
