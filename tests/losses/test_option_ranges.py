"""The range of every numeric option, over the registry: its ends are taken where they are in it, and nothing past."""

import math

import pytest

from eql_d2.losses import METHODS, build_loss
from tests.losses.all_losses import FREQUENCIES, OPTIONS, STATISTICS, K

TINY = 1e-9
# Method and option → (the values at the ends that are taken, those next to the ends that are not).
RANGES: dict[tuple[str, str], tuple[tuple, tuple]] = {
    ("eql", "lambda_"): ((0, 1), (-TINY, 1 + TINY)),
    ("eql", "tail_instances"): ((0,), (-1,)),
    ("drop_loss", "lambda_"): ((0, 1), (-TINY, 1 + TINY)),
    ("eqlv2", "alpha"): ((0,), (-TINY,)),
    ("eqlv2", "gamma"): ((TINY,), (0,)),
    ("eqlv2", "mu"): ((0, 1, -3), ()),
    ("seesaw", "p"): ((0,), (-TINY,)),
    ("seesaw", "q"): ((0,), (-TINY,)),
    ("seesaw", "eps"): ((TINY, 1 - TINY), (0, 1)),
    ("bags", "bin_edges"): (((10, 11),), ((10, 10), (11, 10))),
    ("bags", "others_ratio"): ((0,), (-TINY,)),
    ("seql", "lambda_"): ((0, 2), (-TINY,)),
    ("seql", "gamma"): ((0, 1), (-TINY, 1 + TINY)),
    ("focal", "gamma"): ((0,), (-TINY,)),
    ("focal", "alpha"): ((0, 1), (-TINY, 1 + TINY)),
    ("class_balanced", "beta"): ((0, 1 - TINY), (-TINY, 1)),
    ("class_balanced", "weight_range"): (((0, 0), (1, 1)), ((-TINY, 1), (1, 1 - TINY), (1,), (1, 2, 3))),
    ("inverse_frequency", "power"): ((0,), (-TINY,)),
    ("inverse_frequency", "weight_range"): (((0, 0), (1, 1)), ((-TINY, 1), (1, 1 - TINY), (1,), (1, 2, 3))),
    ("federated", "fed_loss_num_classes"): ((1,), (0,)),
    ("federated", "fed_loss_freq_weight_power"): ((0,), (-TINY,)),
    ("federated_softmax", "num_sampled"): ((1,), (0,)),
    ("federated_softmax", "power"): ((0,), (-TINY,)),
    ("logit_adjustment", "tau"): ((0,), (-TINY,)),
    ("ldam", "max_margin"): ((0,), (-TINY,)),
    ("ldam", "scale"): ((TINY,), (0,)),
    ("ldam", "beta"): ((0, 1 - TINY), (-TINY, 1)),
    ("ecm", "background_ratio"): ((TINY,), (0,)),
    ("gumbel", "max_loss"): ((TINY,), (0,)),
    ("ebl", "alpha"): ((0, 1), (-TINY, 1 + TINY)),
    ("ebl", "background_score"): ((TINY, 1), (0, 1 + TINY)),
    ("fcbl", "alpha"): ((0,), (-TINY,)),
    ("fcbl", "threshold"): ((TINY, 1 - TINY), (0, 1)),
    ("acsl", "threshold"): ((TINY, 1 - TINY), (0, 1)),
    ("acsl", "common_share"): ((0, 1), (-TINY, 1 + TINY)),
    ("acsl", "rare_share"): ((0, 1), (-TINY, 1 + TINY)),
    ("grw", "rho"): ((0,), (-TINY,)),
    ("efl", "gamma"): ((TINY,), (0,)),
    ("efl", "alpha"): ((-1.0, 1), (1 + TINY,)),
    ("efl", "scale"): ((0,), (-TINY,)),
    ("eqfl", "gamma"): ((1,), (1 - TINY,)),
    ("eqfl", "scale"): ((0,), (-TINY,)),
}


def build(method, **options):
    return build_loss(method, K, STATISTICS, METHODS[method].loss_class.has_background, **options)


def test_every_numeric_option_is_here():
    numeric = {
        (method, option)
        for method, entry in METHODS.items()
        for option, default in entry.options.items()
        if not isinstance(default, (bool, str))
    }
    assert set(RANGES) == numeric


@pytest.mark.parametrize(("method", "option"), RANGES)
def test_the_ends_of_the_range(method, option):
    taken, refused = RANGES[method, option]
    others = {key: value for key, value in OPTIONS.get(method, {}).items() if key != option}
    for value in taken:
        loss = build(method, **others, **{option: value})
        kept = getattr(loss, option, value)
        assert math.isclose(kept, value) if isinstance(value, (int, float)) else tuple(kept) == value
    for value in refused:
        with pytest.raises(ValueError, match=rf"^{option} "):
            build(method, **others, **{option: value})


@pytest.mark.parametrize("method", ["eql", "drop_loss", "balanced_sigmoid"])
def test_a_class_may_be_in_every_image(method):
    frequencies = [1.0, *FREQUENCIES.tolist()[1:]]
    build_loss(method, K, {"image_frequencies": frequencies})
    with pytest.raises(ValueError, match="image_frequencies must lie between 0 and 1"):
        build_loss(method, K, {"image_frequencies": [1.0001, *frequencies[1:]]})
