"""Representatives of groups: at random, the largest, the centre."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iga_core import representatives


def scores_with_ties(seed, shape):
    return np.random.default_rng(seed).integers(-3, 4, size=shape).astype(float)


@given(st.integers(0, 999), st.integers(1, 5), st.integers(1, 9), st.integers(1, 3), st.data())
def test_largest_takes_the_largest_and_of_ties_the_lowest(seed, n, p, channels, data):
    samples = data.draw(st.integers(1, p))
    cotangent = scores_with_ties(seed, (n, p, channels))
    totals = np.abs(cotangent).sum(axis=-1)
    wanted = [sorted(range(p), key=lambda k: (-row[k], k))[:samples] for row in totals]
    np.testing.assert_array_equal(representatives(cotangent, "largest", samples), wanted)


@given(st.integers(0, 999), st.integers(1, 20), st.data())
def test_random_positions_differ_and_lie_in_the_group(seed, p, data):
    samples = data.draw(st.integers(1, p))
    drawn = representatives(np.zeros((6, p, 1)), "random", samples, seed=[seed, 7])
    assert drawn.shape == (6, samples)
    assert drawn.min() >= 0
    assert drawn.max() < p
    assert all(len(set(row)) == samples for row in drawn.tolist())
    again = representatives(np.ones((6, p, 1)), "random", samples, seed=[seed, 7])
    np.testing.assert_array_equal(drawn, again)


def test_every_set_of_random_positions_is_as_likely():
    drawn = representatives(np.zeros((20000, 5, 1)), "random", 2, seed=1)
    sets, counts = np.unique(np.sort(drawn, axis=1), axis=0, return_counts=True)
    assert len(sets) == 10
    chi_square = float(np.sum((counts - 2000.0) ** 2) / 2000)
    assert chi_square < 27.9  # 0.1 % of draws with 9 degrees of freedom lie above


def test_the_seed_and_the_step_change_the_draw():
    cotangent = np.zeros((50, 9, 1))
    draws = [representatives(cotangent, "random", 1, seed=s) for s in ([0, 0], [0, 1], [1, 0])]
    assert not np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_all_rules_stay_on_their_backend(backend):
    cotangent = backend.array(np.random.default_rng(0).normal(size=(4, 6, 2)))
    for rule, samples in (("largest", 1), ("largest", 3), ("random", 3), ("centre", 1)):
        got = representatives(cotangent, rule, samples, centre=2, seed=0)
        assert got.dtype == backend.xp.int64
        assert got.device == cotangent.device
        assert got.shape == (4, samples)
        wanted = representatives(backend.to_numpy(cotangent), rule, samples, centre=2, seed=0)
        np.testing.assert_array_equal(backend.to_numpy(got), wanted)


def test_an_all_zero_cotangent_takes_the_first_position():
    np.testing.assert_array_equal(representatives(np.zeros((2, 3, 1)), "largest"), [[0], [0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 3)), "largest"), r"cotangent: expected shape \(groups, points, channels\)"),
        ((np.zeros((2, 3, 1)), "biggest"), r"rule: expected one of largest, centre, random"),
        ((np.zeros((2, 3, 1)), "largest", 4), r"samples: expected at most the 3 points"),
        ((np.zeros((2, 3, 1)), "largest", 0), r"samples: expected at least 1"),
        ((np.zeros((2, 3, 1)), "centre", 2), r"samples: expected 1 with the rule 'centre'"),
        ((np.zeros((2, 3, 1)), "centre"), r"centre: expected positions in \[0, 3\), got None"),
        ((np.zeros((2, 3, 1)), "random", 1, -1), "seed: expected at least 0, got -1"),
        ((np.full((2, 3, 1), np.nan), "largest"), r"cotangent: expected finite values"),
    ],
)
def test_bad_values_say_what_to_do(arguments, message):
    *arguments, seed = arguments if len(arguments) == 4 else (*arguments, None)
    with pytest.raises(ValueError, match=message):
        representatives(*arguments, seed=seed)


@pytest.mark.parametrize("seed", ["a", 1.5, [0, 1.5], np.arange(10**6)])
def test_a_seed_is_a_whole_number_or_some(seed):
    with pytest.raises(TypeError, match="seed: expected a whole number, got") as raised:
        representatives(np.zeros((2, 3, 1)), "random", seed=seed)
    assert len(str(raised.value)) < 200


def test_a_centre_of_each_group():
    centre = np.array([2, 0])
    got = representatives(np.zeros((2, 3, 1)), "centre", centre=centre)
    np.testing.assert_array_equal(got, [[2], [0]])
    for wrong, error in (([0, 3], ValueError), ([0, -1], ValueError), ([0.0, 1.0], TypeError),
                         ([0, 1, 2], TypeError)):  # fmt: skip
        with pytest.raises(error, match="centre: expected"):
            representatives(np.zeros((2, 3, 1)), "centre", centre=np.array(wrong))


@pytest.mark.parametrize(
    "cotangent", [np.zeros((2, 3, 1), dtype=int), [[[0.0]]], np.float16([[[0]]])]
)
def test_a_cotangent_is_an_array_of_floats(cotangent):
    with pytest.raises(TypeError, match="cotangent: expected"):
        representatives(cotangent, "largest")
