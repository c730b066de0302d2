"""Descriptions of networks: initial parameters, bases, labels, folding and the oracle's own laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iga_core import Fourier, Network
from iga_core.network import nyquist_frequencies
from tests.support import oracle
from tests.support.networks import FOURIER, KINDS, LABELS, moved, network_of
from tests.support.oracle import close, evaluate


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


@pytest.mark.parametrize("kind", KINDS)
def test_plain_parameters_are_drawn_one_array_after_the_other(kind):
    network = Network(kind, width=6)
    generator = np.random.default_rng(4)
    for parameter in network.initial(4):
        bound = np.abs(parameter / generator.uniform(-1, 1, parameter.shape))
        np.testing.assert_allclose(bound, bound.flat[0], rtol=1e-12)


FOURIERS = st.builds(
    Fourier, st.integers(0, 5), st.integers(1, 5), st.integers(1, 4), st.floats(1e-3, 1.0)
) | st.builds(Fourier, st.integers(1, 5), st.just(0), st.integers(1, 4), st.floats(1e-3, 1.0))


@given(FOURIERS, st.integers(2, 12))
def test_the_basis_is_that_of_its_definition(fourier, width):
    network = Network("gauss", width=width, fourier=fourier)
    wanted = oracle.basis(network)
    assert wanted.shape == (fourier.count, width)
    close(network.basis, wanted, 1e-12)
    assert network.basis is network.basis
    with pytest.raises(ValueError, match="read-only"):
        network.basis[0, 0] = 1.0


@pytest.mark.parametrize(("kind", "alpha"), [("relu", 0.001), ("pe", 0.05), ("siren", 0.004)])
def test_the_published_bases(kind, alpha):
    network = Network(kind, width=8, fourier=Fourier())
    assert network.basis.shape == (8192, 8)
    close(network.basis, oracle.basis(network), 1e-9)
    assert np.abs(network.basis).max() == alpha
    assert network.shapes[2:4] == [(8, 8192), (8,)]


@pytest.mark.parametrize("kind", ["relu", "siren", "finer", "gauss"])
def test_initial_coefficients(kind):
    network = Network(kind, width=200, depth=3, fourier=FOURIER)
    parameters, plain = network.initial(1), network.folded.initial(1)
    assert [p.shape for p in parameters] == network.shapes
    assert network.shapes[2:6] == [(200, 15), (200,), (200, 15), (200,)]
    assert [p.shape for p in parameters[:2] + parameters[-2:]] == [
        p.shape for p in plain[:2] + plain[-2:]
    ]
    for before, now in zip(plain[:2], parameters[:2], strict=True):
        np.testing.assert_array_equal(before, now)
    bounds = math.sqrt(6 / 15) / np.linalg.norm(oracle.basis(network), axis=1)
    if kind in ("siren", "finer"):
        bounds /= 30
    for coefficients, bias in (parameters[2:4], parameters[4:6]):
        largest = np.abs(coefficients).max(axis=0)
        assert np.all((largest <= bounds) & (largest > 0.9 * bounds))
        assert not bias.any()
    assert not np.array_equal(parameters[2], parameters[4])
    last = [np.abs(p[-2]).max() for p in (plain, parameters)]
    assert last[1] == pytest.approx(last[0], rel=0.1)


@given(FOURIERS, st.integers(2, 12))
def test_rows_that_vanish_are_left_out(fourier, width):
    network = Network("gauss", width=width, depth=2, fourier=fourier)
    rows = np.linalg.norm(oracle.basis(network), axis=1)
    coefficients = network.initial(0)[2]
    np.testing.assert_array_equal(coefficients.any(axis=0), rows > 1e-9 * rows.max())
    assert np.all(np.abs(coefficients * rows) <= math.sqrt(6 / fourier.count) * (1 + 1e-9))


def test_some_rows_do_vanish():
    network = Network("gauss", width=5, fourier=Fourier(2, 2, 4, alpha=1.0))
    assert not network.initial(0)[2].any(axis=0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_normalised_network_starts_from_the_plain_one(kind):
    network = network_of(f"{kind}+bn", width=6)
    layers = network.by_layer(network.initial(2))
    plain = network.folded.by_layer(network.folded.initial(2))
    assert [p.shape for layer in layers for p in layer] == network.shapes
    for (*linear, gain, shift), old in zip(layers[:-1], plain[:-1], strict=True):
        kept = old if kind == "relu" else old[:1]  # the normalisation would take the bias off
        for now, before in zip(linear, kept, strict=True):
            np.testing.assert_array_equal(now, before)
        scale = {"siren": 30, "finer": 30, "gabor": 20, "gauss": 10}.get(kind, 1)
        np.testing.assert_array_equal(gain, np.full(6, 1 / scale))
        assert not shift.any()
    for now, before in zip(layers[-1], plain[-1], strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize("label", [*KINDS, *LABELS])
def test_labels(label):
    network = network_of(label)
    assert network.label == label
    assert network.folded == network_of(network.kind)


@pytest.mark.parametrize("label", [*KINDS, *LABELS])
def test_a_folded_network_computes_the_same(backend, label):
    network = network_of(label, inputs=2, width=7, depth=3, frequencies=2)
    coords, parameters = np.random.default_rng(0).uniform(-1, 1, (20, 2)), moved(network)
    found = []
    wanted = evaluate(network, parameters, coords, statistics=found)
    folded = network.fold(
        [backend.array(p) for p in parameters],
        [tuple(map(backend.array, pair)) for pair in found] if network.normalised else None,
    )
    for parameter in folded:
        backend.check(parameter)
    folded = [backend.to_numpy(p).astype(float) for p in folded]
    assert [p.shape for p in folded] == network.folded.shapes
    tolerance = 1e-12 if "64" in str(backend.dtype) else 2e-3
    close(evaluate(network.folded, folded, coords), wanted, tolerance)


@given(st.sampled_from(LABELS), st.integers(1, 3), st.integers(2, 9), st.integers(2, 4),
       st.integers(2, 12), st.integers(0, 9))  # fmt: skip
def test_folding_never_changes_what_is_computed(label, inputs, width, depth, points, seed):
    network = network_of(label, inputs=inputs, outputs=2, width=width, depth=depth, frequencies=2)
    coords = np.random.default_rng(seed).uniform(-1, 1, (points, inputs))
    found, parameters = [], moved(network, seed)
    wanted = evaluate(network, parameters, coords, statistics=found)
    folded = network.fold(parameters, found if network.normalised else None)
    # A variance as small as epsilon makes gains of up to 300 a layer.
    close(evaluate(network.folded, folded, coords), wanted, 1e-9)


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
        ({"kind": "ReLU"}, ValueError, "kind: expected one of .* got 'ReLU'; did you mean 'relu'"),
        ({"kind": ["relu"]}, ValueError, "kind: expected one of .*, got "),
        (
            {"kind": "x" * 10**6},
            ValueError,
            r"kind: expected one of .*, got 'x{59}\.\.\.; name one",
        ),
        ({"kind": "relu", "width": 0}, ValueError, "width: expected at least 1, got 0"),
        ({"kind": "relu", "depth": 1.5}, TypeError, "depth: expected a whole number"),
        ({"kind": "pe", "frequencies": 0}, ValueError, "frequencies: expected at least 1"),
        ({"kind": "pe", "fourier": {}}, TypeError, "fourier: expected a Fourier or None, got dict"),
        (
            {"kind": "pe", "depth": 1, "fourier": FOURIER},
            ValueError,
            "fourier: expected None for depth 1",
        ),
        ({"kind": "gauss", "fourier": Fourier()}, ValueError, "fourier: expected an alpha for gau"),
        ({"kind": "siren", "normalised": True}, ValueError, "normalised: .*False for siren.*phase"),
        ({"kind": "relu", "normalised": "yes"}, ValueError, "normalised: expected False, True or"),
        ({"kind": "relu", "normalised": 1}, ValueError, "normalised: expected False, True or"),
        (
            {"kind": "relu", "normalised": np.zeros(9)},
            ValueError,
            r"normalised: .*of shape \(9,\);",
        ),
    ],
)
def test_bad_settings_say_what_to_do(settings, error, message):
    with pytest.raises(error, match=message):
        Network(**settings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"low": -1}, ValueError, "low: expected at least 0, got -1"),
        ({"high": 1.5}, TypeError, "high: expected a whole number"),
        ({"phases": 0}, ValueError, "phases: expected at least 1"),
        ({"low": 0, "high": 0}, ValueError, "low, high: expected at least one frequency"),
        ({"alpha": 0.0}, ValueError, "alpha: expected a number from 1e-30 to below"),
        ({"alpha": math.inf}, ValueError, "alpha: expected a number from 1e-30 to below"),
        ({"alpha": "small"}, TypeError, "alpha: expected a number"),
    ],
)
def test_bad_frequencies_say_what_to_do(settings, error, message):
    with pytest.raises(error, match=message):
        Fourier(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "pe", "frequencies": 2000}, "frequencies: expected at most 64, got 2000; lower"),
        (
            {"kind": "relu", "width": 10**6},
            "width, depth: expected at most 2147483648 param.*lower",
        ),
        ({"kind": "relu", "width": 10**12}, "width: expected at most 2147483648"),
        ({"kind": "relu", "depth": 10**9, "width": 1}, "depth: expected at most 10000"),
        ({"kind": "relu", "outputs": 2**31}, "width, depth: expected at most"),
        ({"kind": "relu", "fourier": Fourier(low=10**9)}, "width, depth: expected at most"),
    ],
)
def test_what_no_memory_holds_is_refused_before_it_is_taken(settings, message):
    with pytest.raises(ValueError, match=message):
        Network(**settings)


def test_a_huge_basis_is_refused():
    with pytest.raises(ValueError, match="low, high, phases: expected a basis of at most 21474836"):
        Fourier(low=10**12).basis(4, 0.1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_most_frequencies_are_finite(dtype):
    coords = np.asarray([[-1.0, 1.0, 1e-18]], dtype)
    assert np.isfinite(Network("pe", inputs=3, frequencies=64).encode(coords)).all()


def test_bad_parts_to_fold_say_what_to_do():
    network = Network("relu", width=4, depth=2, normalised=True)
    parameters = network.initial(0)
    pair = (np.zeros(4), np.ones(4))
    for given_parameters, statistics, message in (
        (parameters[:-1], [pair, pair], "parameters: expected 10 arrays for relu.bn, got 9"),
        (network.folded.initial(0), [pair, pair], "parameters: expected 10 arrays for relu.bn"),
        ([parameters[0].T, *parameters[1:]], [pair, pair], r"parameters\[0\]: expected shape"),
        (parameters, None, "statistics: expected 2 pairs of mean and variance for relu.bn, got No"),
        (parameters, [pair], "statistics: expected 2 pairs .* got 1"),
        (parameters, [pair, (np.zeros(4), np.ones(3))], r"statistics\[1\] \(variance\): expected"),
    ):
        with pytest.raises(ValueError, match=message):
            network.fold(given_parameters, statistics)
    with pytest.raises(ValueError, match="statistics: expected None for relu, got 2"):
        network.folded.fold(network.folded.initial(0), [pair, pair])
    with pytest.raises(TypeError, match="expected one dtype"):
        network.fold(parameters, [pair, (np.zeros(4, np.float32), np.ones(4))])
