import math

import numpy as np
import pytest

from iga_core import Network
from iga_core.network import nyquist_frequencies

KINDS = ("relu", "pe", "siren", "gabor", "finer", "gauss")


@pytest.mark.parametrize("kind", KINDS)
def test_initial_parameters(kind):
    network = Network(kind, inputs=3, outputs=2, width=64, depth=2, frequencies=4)
    parameters = network.initial(1)
    assert [p.shape for p in parameters] == network.shapes
    assert {p.dtype for p in parameters} == {np.dtype("float64")}
    fan_in = 27 if kind == "pe" else 3
    assert network.shapes == [(64, fan_in), (64,), (64, 64), (64,), (2, 64), (2,)]
    default = [1 / math.sqrt(fan_in), 1 / math.sqrt(64), 1 / math.sqrt(64)]
    sine = [1 / 3, math.sqrt(6 / 64) / 30, math.sqrt(6 / 64) / 30]
    relu = [*default[:2], math.sqrt(6 / 64)]
    wanted = {"siren": sine, "finer": sine, "relu": relu, "pe": relu}.get(kind, default)
    for weight, bias, bound, bias_bound in zip(
        parameters[::2], parameters[1::2], wanted, default, strict=True
    ):
        assert 0.9 * bound < np.abs(weight).max() <= bound
        assert 0.3 * bias_bound < np.abs(bias).max() <= bias_bound
        assert abs(weight.mean()) < 0.2 * bound


def test_the_seed_decides():
    network = Network("siren", width=4)
    first, again, other = network.initial(0), network.initial(0), network.initial(1)
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])


def test_encoding(backend):
    network = Network("pe", inputs=2, frequencies=3)
    coords = np.random.default_rng(0).uniform(-1, 1, (5, 2))
    got = network.encode(backend.array(coords))
    backend.check(got)
    angles = [2**k * math.pi * coords for k in range(3)]
    wanted = np.hstack([coords, *map(np.sin, angles), *map(np.cos, angles)])
    np.testing.assert_allclose(backend.to_numpy(got), wanted, atol=50 * backend.eps)
    plain = Network("siren").encode(backend.array(coords))
    np.testing.assert_array_equal(backend.to_numpy(plain), backend.to_numpy(backend.array(coords)))


@pytest.mark.parametrize("samples", [3, 5, 9, 64, 96, 512])
def test_nyquist_frequencies_are_the_most_that_can_be_told_apart(samples):
    spacing = 2 / (samples - 1)
    highest = nyquist_frequencies(samples) - 1
    assert 2 / 2**highest >= 2 * spacing > 2 / 2 ** (highest + 1)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kind": "sirn"}, ValueError, "kind: expected one of .* did you mean 'siren'"),
        ({"kind": "relu", "width": 0}, ValueError, "width: expected at least 1, got 0"),
        ({"kind": "relu", "depth": 1.5}, TypeError, "depth: expected a whole number"),
        ({"kind": "pe", "frequencies": 0}, ValueError, "frequencies: expected at least 1"),
    ],
)
def test_bad_settings_say_what_to_do(settings, error, message):
    with pytest.raises(error, match=message):
        Network(**settings)
