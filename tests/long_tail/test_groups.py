"""Rare, common and frequent: thresholds, and those that follow from the counts of a set without rare classes."""

import pytest

from eql_d2.long_tail import LVIS_THRESHOLDS, FrequencyThresholds, quantile_thresholds


@pytest.mark.parametrize(
    ("images", "letter"), [(0, "r"), (1, "r"), (10, "r"), (11, "c"), (100, "c"), (101, "f"), (10**9, "f")]
)
def test_lvis_borders(images, letter):
    """LVIS: rare is in 1 to 10 images, common in 11 to 100, frequent in more."""
    assert LVIS_THRESHOLDS.letter(images) == FrequencyThresholds().letter(images) == letter


def test_equal_thresholds_leave_no_common_class():
    thresholds = FrequencyThresholds(5, 5)
    assert [thresholds.letter(images) for images in (5, 6)] == ["r", "f"]
    assert FrequencyThresholds(0, 0).letter(0) == "r"


@pytest.mark.parametrize("pair", [(-1, 10), (11, 10), (0, -1)])
def test_thresholds_out_of_order(pair):
    with pytest.raises(ValueError, match=f"are {pair[0]} and {pair[1]} images; they must be at least 0, the smaller"):
        FrequencyThresholds(*pair)


@pytest.mark.parametrize(
    ("counts", "expected", "letters"),
    [
        ([11, 500, 10, 900], (10, 100), "cfrf"),  # one is rare by LVIS's: its own hold
        ([600, 20, 100, 50, 300, 400], (50, 300), "frcrcf"),  # thirds of six
        ([70, 60, 50, 40], (40, 50), "ffcr"),  # a third of four is one
        ([30, 20], (20, 20), "fr"),
        ([25], (25, 25), "r"),
        ([50] * 9, (50, 50), "r" * 9),
    ],
)
def test_auto(counts, expected, letters):
    thresholds = quantile_thresholds(counts)
    assert (thresholds.rare_max, thresholds.common_max) == expected
    assert "".join(thresholds.letter(count) for count in counts) == letters
