"""`iga_array.MLP`: values, Jacobian factors and kernels against the oracle, on every library."""

import numpy as np
import pytest

import iga_array
from iga_core import Fourier, LayerFactors, Network, gram
from tests.support.networks import KINDS, LABELS, moved, network_of
from tests.support.oracle import close, differences, evaluate, jacobian, kernel

TOLERANCE = {"float64": 1e-10, "float32": 2e-4}


def small(kind, outputs=3, depth=2):
    return Network(kind, inputs=2, outputs=outputs, width=5, depth=depth, frequencies=2)


def model_on(backend, network, seed=0):
    return iga_array.MLP(
        network, xp=backend.xp, seed=seed, dtype=backend.dtype, device=backend.device
    )


def points(n, samples=None, seed=0):
    shape = (n, 2) if samples is None else (n, samples, 2)
    return np.random.default_rng(seed).uniform(-1, 1, shape)


def tolerance_of(backend):
    return TOLERANCE["float64" if "64" in str(backend.dtype) else "float32"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [1, 3])
def test_values(backend, kind, depth):
    network = small(kind, depth=depth)
    coords = points(7)
    got = model_on(backend, network)(backend.array(coords))
    backend.check(got)
    close(
        backend.to_numpy(got), evaluate(network, network.initial(0), coords), tolerance_of(backend)
    )


def test_leading_axes_are_kept(backend):
    model = model_on(backend, small("siren"))
    coords = points(6, 4)
    got = backend.to_numpy(model(backend.array(coords)))
    flat = backend.to_numpy(model(backend.array(coords.reshape(-1, 2))))
    close(got, flat.reshape(6, 4, 3), 10 * backend.eps)


@pytest.mark.parametrize("label", [*KINDS, *LABELS])
def test_the_oracle_agrees_with_finite_differences(label):
    network = network_of(label, outputs=3, width=5, depth=2, frequencies=2)
    args = network, moved(network), points(6)
    close(jacobian(*args), differences(*args), 1e-6)


@pytest.mark.parametrize("label", LABELS)
def test_values_of_reparameterised_and_normalised_networks(backend, label):
    network = network_of(label, width=5, depth=3, frequencies=2)
    model, parameters, coords = model_on(backend, network), moved(network), points(12)
    model.parameters = [backend.array(p) for p in parameters]
    if network.normalised:
        model.measure(backend.array(coords.reshape(3, 4, 2)))
    wanted = evaluate(network, parameters, coords)
    tolerance = 1e-11 if "64" in str(backend.dtype) else 5e-3
    for one in (model, model.fold()):
        got = one(backend.array(coords))
        backend.check(got)
        close(backend.to_numpy(got), wanted, tolerance)
        # What a point is given does not depend on the others.
        close(backend.to_numpy(one(backend.array(coords[:2]))), wanted[:2], tolerance)
    assert model.fold().network == network.folded
    assert [p.shape for p in model.fold().parameters] == network.folded.shapes


def test_a_fold_of_a_plain_model_is_the_same_model():
    model = iga_array.MLP(small("siren"))
    for got, wanted in zip(model.fold().parameters, model.parameters, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_the_statistics_are_those_of_the_points_measured():
    network, found = network_of("pe+bn", width=5, depth=3), []
    model = iga_array.MLP(network, dtype=np.float64)
    evaluate(network, model.parameters, points(9), statistics=found)
    assert model.statistics is None
    model.measure(points(9))
    close(np.array(model.statistics), np.array(found), 1e-12)


@pytest.mark.parametrize("kind", ["relu", "siren", "finer"])
@pytest.mark.parametrize("fourier", [Fourier(2, 3, 3, alpha=0.3), Fourier(1, 1, 2, alpha=0.3)])
@pytest.mark.parametrize("rule", ["sum", "trace"])
@pytest.mark.parametrize("samples", [None, 3])
def test_the_kernel_of_coefficients(backend, kind, fourier, rule, samples):
    """With more cosines than inputs, and with fewer."""
    network = Network(kind, width=5, depth=3, fourier=fourier)
    model, parameters = model_on(backend, network), moved(network)
    model.parameters = [backend.array(p) for p in parameters]
    left, right = points(6, samples), points(4, samples, 1)
    J, J_right = (
        jacobian(network, parameters, x.reshape(-1, 2))
        .reshape(len(x), samples or 1, 3, -1)
        .mean(axis=1)
        for x in (left, right)
    )
    got = iga_array.empirical_ntk(model, backend.array(left), outputs=rule)
    backend.check(got)
    close(backend.to_numpy(got), kernel(J, J, rule), tolerance_of(backend))
    got = iga_array.empirical_ntk(model, backend.array(left), backend.array(right), rule)
    close(backend.to_numpy(got), kernel(J, J_right, rule), tolerance_of(backend))


def test_the_factors_do_not_grow_with_the_number_of_cosines():
    network = Network("pe", width=6, depth=2, fourier=Fourier())
    first, between, last = iga_array.MLP(network).factors(points(3).astype(np.float32))
    assert [f.inputs.shape for f in (first, between, last)] == [(3, 26), (3, 6), (3, 6)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("rule", ["sum", "trace"])
@pytest.mark.parametrize("samples", [None, 1, 4])
def test_the_kernel_is_that_of_the_explicit_jacobian(backend, kind, outputs, rule, samples):
    network = small(kind, outputs)
    model = model_on(backend, network)
    left, right = points(6, samples), points(4, samples, 1)
    J, J_right = (
        jacobian(network, network.initial(0), x.reshape(-1, 2))
        .reshape(len(x), samples or 1, outputs, -1)
        .mean(axis=1)
        for x in (left, right)
    )
    got = iga_array.empirical_ntk(model, backend.array(left), outputs=rule)
    backend.check(got)
    close(backend.to_numpy(got), kernel(J, J, rule), tolerance_of(backend))
    got = iga_array.empirical_ntk(model, backend.array(left), backend.array(right), rule)
    close(backend.to_numpy(got), kernel(J, J_right, rule), tolerance_of(backend))


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_without_biases(backend64, kind):
    network = small(kind)
    model = model_on(backend64, network)
    coords = points(6)
    J = jacobian(network, network.initial(0), coords)
    weights = np.concatenate([np.full(np.prod(s), len(s) == 2) for s in network.shapes])
    factors = [
        LayerFactors(f.inputs, f.cotangents, bias=False)
        for f in model.factors(backend64.array(coords))
    ]
    wanted = kernel(J[..., weights], J[..., weights], "sum")
    close(backend64.to_numpy(gram(factors)), wanted, 1e-10)


def test_all_points_of_a_group_give_the_kernel_of_the_group_means(backend64):
    network = small("siren")
    groups = points(5, 9)
    means = (
        jacobian(network, network.initial(0), groups.reshape(-1, 2))
        .reshape(5, 9, 3, -1)
        .mean(axis=1)
    )
    got = iga_array.empirical_ntk(model_on(backend64, network), backend64.array(groups))
    close(backend64.to_numpy(got), kernel(means, means, "sum"), 1e-10)


def test_every_backend_starts_from_the_same_parameters(backend):
    network = small("gabor")
    for got, wanted in zip(
        model_on(backend, network, 3).parameters, network.initial(3), strict=True
    ):
        backend.check(got)
        np.testing.assert_allclose(backend.to_numpy(got), wanted, rtol=backend.eps)


def test_float32_is_the_default():
    assert {p.dtype for p in iga_array.MLP(small("relu")).parameters} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("coords", "error", "message"),
    [
        (np.ones((3, 2), int), TypeError, "coords: expected float32 or float64, got int64"),
        (np.ones((3, 2), np.float32), TypeError, "coords, parameters: expected one dtype"),
        (np.ones((3, 3)), ValueError, r"coords: expected shape \(..., 2\)"),
        (np.ones(2), ValueError, r"coords: expected shape \(..., 2\)"),
        (np.full((3, 2), np.nan), ValueError, "coords: expected finite values"),
        ([[0.0, 0.0]], TypeError, "coords: expected an array"),
        (np.ma.ones((3, 2)), TypeError, "coords: expected an array without a mask"),
        (np.ones((3, 2)).view(np.matrix), TypeError, "coords: expected an array, got numpy.matrix"),
    ],
)
def test_bad_coordinates_say_what_to_do(coords, error, message):
    with pytest.raises(error, match=message):
        iga_array.MLP(small("relu"), dtype=np.float64)(coords)


def test_other_bad_values_say_what_to_do():
    model = iga_array.MLP(small("relu"), dtype=np.float64)
    with pytest.raises(ValueError, match="outputs: expected one of sum, trace, got 'full'"):
        model.factors(np.zeros((2, 2)), "full")
    with pytest.raises(ValueError, match=r"x: expected shape \(n, samples, 2\)"):
        model.factors(np.zeros((2, 2, 2, 2)))
    for network in (None, np.ones((99, 99))):
        with pytest.raises(TypeError, match=r"network: expected a Network, got .*; pass") as raised:
            iga_array.MLP(network)
        assert len(str(raised.value)) < 200
    with pytest.raises(TypeError, match="float32 or float64"):
        iga_array.MLP(small("relu"), dtype=np.float16)
    with pytest.raises(ValueError, match="network: expected a normalised one, got relu"):
        model.measure(np.zeros((2, 2)))
    model = iga_array.MLP(network_of("relu+bn"), dtype=np.float64)
    for ask in (model.fold, lambda: model(np.zeros((2, 2)))):
        with pytest.raises(ValueError, match=r"statistics: .* relu.bn, got None; .* measure"):
            ask()
    for trained in (False, True):
        if trained:
            model.measure(points(5))
        with pytest.raises(ValueError, match=r"model: .* relu.bn; .* fold\(\) it first"):
            iga_array.empirical_ntk(model, np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"coords: expected shape \(..., 2\)"):
        model(np.zeros((2, 3)))
